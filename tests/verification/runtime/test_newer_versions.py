"""Models of an IR version or an opset that the installed onnxruntime does not load."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper
from verification_models import cnn, model

from bnfold.quantization import measure_int8
from bnfold.verification import verify
from bnfold.verification.runtime.onnx_file import OnnxFile
from bnfold.verification.runtime.sessions import RunError, Session, Settings

FEED = {"x": np.ones((1, 3, 8, 8), np.float32)}
#: Newer than any; onnxruntime names the newest that it loads.
NEWER = 999


def newer(proto: onnx.ModelProto) -> onnx.ModelProto:
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    made.ir_version = NEWER
    return made


def opened(path, **options) -> Session:
    return Session(OnnxFile(path, "the model"), Settings(), **options)


def test_a_newer_ir_version_computes_the_same(tmp_path):
    onnx.save(cnn(), tmp_path / "old.onnx")
    onnx.save(newer(cnn()), tmp_path / "new.onnx")
    old, new = opened(tmp_path / "old.onnx"), opened(tmp_path / "new.onnx")
    assert (old.newer_ir, old.notes) == (None, [])
    assert new.newer_ir is not None
    assert new.newer_ir[0] == NEWER > new.newer_ir[1]
    assert new.notes == [
        f"onnxruntime loads IR versions up to {new.newer_ir[1]}: what says version {NEWER} was run as "
        f"version {new.newer_ir[1]}"
    ]
    assert np.array_equal(old.run(FEED)["y"], new.run(FEED)["y"])


def test_with_external_data(tmp_path):
    onnx.save(newer(cnn()), tmp_path / "m.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    onnx.save(cnn(), tmp_path / "old.onnx")
    assert np.array_equal(opened(tmp_path / "m.onnx").run(FEED)["y"], opened(tmp_path / "old.onnx").run(FEED)["y"])


def test_as_bytes_with_more_outputs(tmp_path):
    onnx.save(newer(cnn()), tmp_path / "m.onnx")
    content = OnnxFile(tmp_path / "m.onnx", "m").with_outputs(["c1"])
    assert opened(tmp_path / "m.onnx", content=content).run(FEED)["c1"].shape == (1, 6, 8, 8)


def test_what_is_drawn_at_random_is_drawn_again(tmp_path):
    nodes = [helper.make_node("RandomNormalLike", ["x"], ["r"]), helper.make_node("Add", ["x", "r"], ["y"])]
    onnx.save(newer(model(nodes, {"x": [1, 3, 8, 8]}, ["y"])), tmp_path / "m.onnx")
    file = OnnxFile(tmp_path / "m.onnx", "m")
    file.draws = True
    session = Session(file, Settings())
    assert np.array_equal(session.run(FEED)["y"], session.run(FEED)["y"])


def test_verification_says_so_once(tmp_path):
    first, second = cnn(), newer(cnn())
    for pair in ((second, second), (first, second), (second, first)):
        verdict = verify(*pair)
        assert verdict.verdict == "equal"
        assert [note.partition(" up to")[0] for note in verdict.notes] == ["onnxruntime loads IR versions"]
    assert not verify(first, first).notes


def test_int8(tmp_path):
    onnx.save(newer(cnn()), tmp_path / "m.onnx")
    np.save(tmp_path / "data.npy", np.random.default_rng(0).normal(size=(8, 3, 8, 8)).astype(np.float32))
    report = measure_int8({"m": tmp_path / "m.onnx"}, tmp_path / "data.npy", {})
    assert [row.error for row in report.rows] == ["", "", ""]


def test_a_newer_opset_is_one_clause(tmp_path):
    newest = onnx.defs.onnx_opset_version()
    proto = model([helper.make_node("Relu", ["x"], ["y"])], {"x": [1, 3]}, ["y"], opset=newest + 50)
    onnx.save(proto, tmp_path / "m.onnx")
    with pytest.raises(RunError, match=rf"^it knows opsets of ai\.onnx up to \d+, and this one has {newest + 50}$"):
        opened(tmp_path / "m.onnx")


def test_places_in_the_sources_of_the_runtime_are_left_out(tmp_path):
    proto = model([helper.make_node("Reshape", ["x", "s"], ["y"])], {"x": [2, 3]}, ["y"], {"s": np.array([4, 2])})
    onnx.save(proto, tmp_path / "m.onnx")
    with pytest.raises(RunError) as error:
        opened(tmp_path / "m.onnx").run({"x": np.ones((2, 3), np.float32)})
    assert "onnxruntime/core" not in str(error.value)
    assert "{4,2}" in str(error.value)
