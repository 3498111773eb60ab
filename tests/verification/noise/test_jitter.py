"""The original's own rounding sensitivity."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from verification_models import cnn, folded, model, weight

from bnfold.verification.equivalence import compare
from bnfold.verification.noise import jitter as module
from bnfold.verification.noise.jitter import jitter, jittered_feed, jittered_model
from bnfold.verification.noise.judge import NoiseJudge
from bnfold.verification.output_check import Tolerance
from bnfold.verification.reference import Reference
from bnfold.verification.runtime.onnx_file import OnnxFile
from bnfold.verification.runtime.sessions import Candidate
from bnfold.verification.verify_options import VerifyOptions


def saved(proto, folder: Path, name: str = "model.onnx") -> OnnxFile:
    path = folder / name
    path.write_bytes(proto.SerializeToString())
    return OnnxFile(path, "the model")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_jitter_moves_half_of_the_values_by_one_unit_in_the_last_place(dtype):
    rng = np.random.default_rng(0)
    values = rng.standard_normal((40, 50)).astype(dtype)
    moved = jitter(values, rng)
    assert moved.dtype == values.dtype
    integer = {2: np.int16, 4: np.int32, 8: np.int64}[values.dtype.itemsize]
    steps = moved.view(integer).astype(np.int64) - values.view(integer).astype(np.int64)
    assert set(np.unique(steps)) == {-1, 0, 1}
    assert 0.45 < (steps != 0).mean() < 0.55
    assert abs(steps.mean()) < 0.05


def test_jitter_leaves_zero_infinity_and_the_largest_number():
    values = np.array([0.0, -0.0, np.inf, -np.inf, np.nan] * 20, np.float32)
    assert jitter(values, np.random.default_rng(1)).tobytes() == values.tobytes()
    largest = np.full(100, np.finfo(np.float32).max)
    assert np.isfinite(jitter(largest, np.random.default_rng(2))).all()


@pytest.mark.parametrize("values", [np.arange(5), np.array([True, False]), np.array(["a"], object)])
def test_jitter_leaves_what_is_not_a_float(values):
    assert jitter(values, np.random.default_rng(0)) is values


def test_jitter_keeps_scalars_and_transposed_arrays():
    assert jitter(np.array(2.5, np.float32), np.random.default_rng(0)).shape == ()
    values = np.arange(1, 7, dtype=np.float32).reshape(2, 3)
    assert np.allclose(jitter(values.T, np.random.default_rng(0)), values.T)


def test_feeds_are_jittered_too_and_reproducibly():
    feed = {"x": np.ones(50, np.float32), "k": np.arange(3), "s": [np.ones(2)]}
    one, same, other = (jittered_feed(feed, 0, sample) for sample in (0, 0, 1))
    assert not np.array_equal(one["x"], feed["x"])
    assert np.array_equal(one["x"], same["x"])
    assert not np.array_equal(one["x"], other["x"])
    assert one["k"] is feed["k"]


def test_weights_are_jittered_wherever_they_are(tmp_path):
    values = numpy_helper.from_array(np.full(100, 3.0, np.float32), "c")
    inner = helper.make_graph(
        [helper.make_node("Constant", [], ["c"], value=values), helper.make_node("Add", ["h", "c"], ["z"])],
        "body",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
    )
    proto = model(
        [
            helper.make_node("Mul", ["x", "w"], ["h"]),
            helper.make_node("If", ["yes"], ["y"], then_branch=inner, else_branch=inner),
        ],
        {"x": [100]},
        ["y"],
        {"w": np.full(100, 2.0, np.float32), "yes": np.array(True)},
    )
    moved = onnx.load_from_string(jittered_model(saved(proto, tmp_path), 0, 0))
    assert not np.array_equal(weight(moved, "w"), weight(proto, "w"))
    assert weight(moved, "yes")
    for attribute in moved.graph.node[1].attribute:
        constant = numpy_helper.to_array(attribute.g.node[0].attribute[0].t)
        assert 0 < np.abs(constant - 3.0).max() < 1e-6


def test_settings_are_not_jittered(tmp_path):
    """A square with the exponent moved is NaN for negative numbers; a moved scale changes the size."""
    proto = model(
        [
            helper.make_node("Pow", ["x", "two"], ["p"]),
            helper.make_node("Clip", ["p", "low", "high"], ["c"]),
            helper.make_node("Resize", ["c", "", "scales"], ["y"]),
        ],
        {"x": [1, 1, 4, 4]},
        ["y"],
        {
            "two": np.float32(2),
            "low": np.float32(0.1),
            "high": np.float32(6),
            "scales": np.array([1, 1, 2, 2], np.float32),
        },
    )
    for sample in range(5):
        moved = onnx.load_from_string(jittered_model(saved(proto, tmp_path), 0, sample))
        assert list(moved.graph.initializer) == list(proto.graph.initializer)


def test_a_large_model_is_not_jittered_and_judged_by_the_fixed_tolerance(tmp_path, monkeypatch):
    assert jittered_model(saved(cnn(), tmp_path), 0, 0) is not None
    monkeypatch.setattr(module, "MAX_BYTES", 100)
    assert jittered_model(saved(cnn(), tmp_path), 0, 0) is None
    reference = Reference(saved(cnn(), tmp_path))
    other = saved(folded(cnn()), tmp_path, "folded.onnx")
    check = compare(reference, Candidate(other), NoiseJudge(Tolerance(strict=True)))
    assert check.equivalent
    assert any("could not be measured" in note for note in check.notes)


def test_noise_is_measured_once_and_extended(tmp_path, monkeypatch):
    reference = Reference(saved(cnn(), tmp_path), VerifyOptions(feeds=2))
    few = list(reference.noise([0, 1])[0])
    many = reference.noise([0], module.MANY_SAMPLES)[0]
    assert many[: len(few)] == few
    assert len(many) == len(few) + module.MANY_SAMPLES - module.FEW_SAMPLES
    monkeypatch.setattr(module, "jittered_model", lambda *_: pytest.fail("measured again"))
    assert reference.noise([0], module.MANY_SAMPLES)[0] == many
    assert reference.only(1).noise([0])[0] == reference.noise([1])[1]
