"""Sessions, and the files behind them."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from verification_models import cnn, model

from bnfold.errors import ModelFileError, UsageError
from bnfold.verification.runtime.onnx_file import OnnxFile
from bnfold.verification.runtime.sessions import RunError, Session, Settings


def opened(proto, folder, **options):
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return Session(OnnxFile(path, "the model"), Settings(), **options)


def test_inputs_and_outputs_are_described(tmp_path):
    session = opened(cnn(), tmp_path)
    (image,) = session.inputs()
    assert (image.name, image.kind, image.dtype, image.shape) == ("x", "tensor", np.float32, ("N", 3, 8, 8))
    assert [spec.name for spec in session.outputs()] == ["y"]
    assert session.optional_inputs() == []


def test_a_scalar_is_told_from_an_unknown_rank(tmp_path):
    proto = model([helper.make_node("Add", ["a", "b"], ["y"])], {"a": [], "b": None}, ["y"])
    shapes = {spec.name: spec.shape for spec in opened(proto, tmp_path).inputs()}
    assert shapes == {"a": (), "b": None}


def test_overridable_initializers_are_optional(tmp_path):
    proto = cnn()
    proto.graph.input.append(helper.make_tensor_value_info("w1", TensorProto.FLOAT, [6, 3, 3, 3]))
    session = opened(proto, tmp_path)
    assert [spec.name for spec in session.inputs()] == ["x"]
    assert [spec.name for spec in session.optional_inputs()] == ["w1"]


def test_outputs_can_be_chosen_and_renamed(tmp_path):
    session = opened(cnn(), tmp_path)
    found = session.run({"x": np.ones((1, 3, 8, 8), np.float32)}, {"logits": "y"})
    assert list(found) == ["logits"]


def test_the_runtimes_words_are_shortened(tmp_path):
    session = opened(cnn(), tmp_path)
    with pytest.raises(RunError) as error:
        session.run({"x": np.ones((1, 4, 8, 8), np.float32)})
    assert "\n" not in str(error.value)
    assert len(str(error.value)) <= 300
    assert not str(error.value).startswith("[ONNXRuntimeError]")
    assert not error.value.out_of_memory
    assert RunError("Failed to allocate memory for requested buffer").out_of_memory


def test_an_unknown_provider_is_an_error():
    with pytest.raises(UsageError, match=r"no execution provider 'Abacus' here; it has .*CPUExecutionProvider"):
        Session(OnnxFile(None, "x"), Settings(provider="Abacus"))


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_does_not_start_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("bnfold.verification.runtime.sessions.available_providers", lambda: ["CUDAExecutionProvider"])
    path = tmp_path / "model.onnx"
    path.write_bytes(cnn().SerializeToString())
    with pytest.raises(RunError, match="CUDAExecutionProvider could not be started"):
        Session(OnnxFile(path, "the model"), Settings(provider="CUDAExecutionProvider"))


def test_threads_are_bounded():
    assert 1 <= Settings().thread_count() <= 4
    assert Settings(threads=7).thread_count() == 7


def test_the_runtimes_optimisations_are_off(tmp_path):
    """A constant product is not folded: the model's own arithmetic is what is compared."""
    proto = model(
        [helper.make_node("Identity", ["x"], ["h"]), helper.make_node("Relu", ["h"], ["y"])], {"x": [2]}, ["y"]
    )
    session = opened(proto, tmp_path)
    assert session._session.get_session_options().graph_optimization_level.name == "ORT_DISABLE_ALL"


def test_extra_outputs_are_added_without_parsing(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(cnn().SerializeToString())
    file = OnnxFile(path, "the model")
    content = file.with_outputs(["c1", "r2"])
    assert [value.name for value in onnx.load_from_string(content).graph.output] == ["y", "c1", "r2"]
    found = Session(file, Settings(), content=content).run({"x": np.ones((1, 3, 8, 8), np.float32)})
    assert found["r2"].shape == (1, 6, 8, 8)


def test_the_skeleton_has_no_large_weights(tmp_path):
    path = tmp_path / "model.onnx"
    proto = model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        {"x": [1, 100]},
        ["y"],
        {"w": np.ones((100, 100)), "s": np.ones(2)},
    )
    path.write_bytes(proto.SerializeToString())
    file = OnnxFile(path, "the model")
    large, small = file.skeleton.graph.initializer
    assert (large.name, list(large.dims), large.raw_data) == ("w", [100, 100], b"")
    assert small == proto.graph.initializer[1]
    assert file.skeleton.graph.node == proto.graph.node
    assert file.skeleton.opset_import == proto.opset_import
    assert file.size == path.stat().st_size


def test_the_size_counts_external_data(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(cnn(), path, save_as_external_data=True, location="weights", size_threshold=0)
    assert OnnxFile(path, "the model").size == path.stat().st_size + (tmp_path / "weights").stat().st_size


def test_a_damaged_file_is_one_sentence(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(cnn().SerializeToString()[:-100])
    file = OnnxFile(path, "model.onnx")
    for read in (lambda: file.skeleton, lambda: Session(file, Settings())):
        with pytest.raises(ModelFileError, match=r"^model\.onnx is not an ONNX model, or it is damaged$"):
            read()


def test_missing_external_data_are_one_sentence(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(cnn(), path, save_as_external_data=True, location="weights", size_threshold=0)
    (tmp_path / "weights").unlink()
    file = OnnxFile(path, "model.onnx")
    with pytest.raises(ModelFileError, match=r"^model\.onnx cannot be read: "):
        file.load(external=True)
    with pytest.raises(RunError):
        Session(file, Settings())


def test_importing_verification_imports_neither_onnx_nor_onnxruntime():
    code = "import sys, bnfold.verification; print([m for m in ('onnx', 'onnxruntime') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
