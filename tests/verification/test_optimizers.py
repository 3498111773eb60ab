"""A model against itself under the runtime's optimisations."""

from __future__ import annotations

import json

import numpy as np
import pytest
from onnx import helper
from verification_models import check_runtime, cnn, model

from bnfold.verification import optimizers


def padded_pool():
    """onnxruntime's Pad_Fusion makes the border of zeros one of minus infinity."""
    return model(
        [
            helper.make_node("Pad", ["x", "p"], ["q"], name="pad"),
            helper.make_node("MaxPool", ["q"], ["y"], kernel_shape=[3, 3], strides=[2, 2], pads=[0] * 4, name="pool"),
        ],
        {"x": ["N", 2, 6, 6]},
        ["y"],
        {"p": np.array([0, 0, 1, 1, 0, 0, 1, 1])},
    )


def test_a_runtime_that_keeps_the_outputs_is_fine():
    check = check_runtime(cnn())
    assert check.equivalent
    assert list(check.levels) == ["basic", "extended", "all"]
    assert check.failing_level is None
    assert check.snippet() == ""
    assert check.sentence().startswith("onnxruntime keeps the outputs at every optimisation level")


def test_the_optimizer_that_changes_the_outputs_is_named():
    check = check_runtime(padded_pool())
    assert not check.equivalent
    assert check.failing_level == "basic"
    assert check.culprits == ("Pad_Fusion",)
    assert "because of Pad_Fusion" in check.sentence()


def test_the_snippet_runs_and_cures_it(tmp_path, monkeypatch):
    import onnxruntime

    path = tmp_path / "pool.onnx"
    path.write_bytes(padded_pool().SerializeToString())
    check = check_runtime(path)
    assert f'"{path}"' in check.snippet()
    scope: dict = {}
    exec(check.snippet(), scope)  # the user is told to run this very text
    x = -np.random.default_rng(0).random((1, 2, 6, 6)).astype(np.float32)
    plain = onnxruntime.SessionOptions()
    plain.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    expected = onnxruntime.InferenceSession(path, plain).run(None, {"x": x})[0]
    assert np.array_equal(scope["session"].run(None, {"x": x})[0], expected)
    assert not np.array_equal(onnxruntime.InferenceSession(path).run(None, {"x": x})[0], expected)


def test_a_culprit_nobody_knows_is_avoided_by_a_lower_level(monkeypatch):
    monkeypatch.setattr(optimizers, "OPTIMIZERS", ("ConvMulFusion",))
    check = check_runtime(padded_pool())
    assert check.culprits == ()
    assert check.failing_level == "basic"
    assert "ORT_DISABLE_ALL" in check.snippet()
    scope: dict = {}
    exec(check.snippet().rpartition("session =")[0], scope)
    assert scope["options"].graph_optimization_level.name == "ORT_DISABLE_ALL"


def test_several_culprits_are_found_together(monkeypatch):
    """Two pools with a border: each needs the same one optimizer; a made-up second name is not blamed."""
    monkeypatch.setattr(optimizers, "OPTIMIZERS", ("Pad_Fusion", "NoSuchThing", "ConstantFolding"))
    assert check_runtime(padded_pool()).culprits == ("Pad_Fusion",)


@pytest.mark.parametrize("timeout", [None, 60.0])
def test_the_check_survives_json_and_a_process_of_its_own(timeout):
    check = check_runtime(padded_pool(), timeout=timeout)
    data = json.loads(json.dumps(check.to_dict(), allow_nan=False))
    assert data["culprits"] == ["Pad_Fusion"]
    assert data["levels"]["basic"]["verdict"] == "different"
    assert "disabled_optimizers" in data["snippet"]


def test_a_model_that_cannot_be_run_or_in_time_is_not_verified():
    custom = model([helper.make_node("Mystery", ["x"], ["y"], domain="my.own")], {"x": [1]}, ["y"])
    custom.opset_import.append(helper.make_opsetid("my.own", 1))
    for check in (check_runtime(custom), check_runtime(cnn(), timeout=0.001)):
        assert not check.equivalent
        assert check.failing_level is None
        assert check.sentence().startswith("not verified: ")
        assert check.snippet() == ""


def test_a_tolerance_and_own_inputs_are_heeded():
    assert check_runtime(padded_pool(), rtol=10.0).equivalent
    assert check_runtime(padded_pool(), inputs={"x": np.ones((1, 2, 6, 6), np.float32)}).equivalent
    assert not check_runtime(padded_pool(), inputs={"x": -np.ones((1, 2, 6, 6), np.float32)}).equivalent


def test_a_level_is_measured_against_float64_where_that_reaches():
    check = check_runtime(cnn())
    assert all(level.exactness is not None for level in check.levels.values())
    assert all(level.outputs[0].result_error < 1e-5 for level in check.levels.values())
    assert all(level.exactness is None for level in check_runtime(cnn(), rtol=1e-3).levels.values())
    assert check_runtime(padded_pool()).levels["basic"].exactness is None


def test_where_float64_does_not_reach_noise_judges():
    node = helper.make_node
    nodes = [node("Conv", ["x", "w"], ["c"]), node("Trilu", ["c"], ["y"], domain="com.microsoft")]
    proto = model(nodes, {"x": ["N", 3, 8, 8]}, ["y"], {"w": np.ones((4, 3, 3, 3), np.float32)})
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    check = check_runtime(proto)
    assert check.equivalent
    assert all(level.exactness is None for level in check.levels.values())
