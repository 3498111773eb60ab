"""The first tensor inside that differs."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from verification_models import cnn, folded, model, verify, weight, with_weight

from bnfold.verification import localise
from bnfold.verification.localise import first_differing, telling_tensors
from bnfold.verification.noise import jitter
from bnfold.verification.noise.judge import NoiseJudge
from bnfold.verification.output_check import Tolerance
from bnfold.verification.reference import Reference
from bnfold.verification.runtime.onnx_file import OnnxFile
from bnfold.verification.verify_options import VerifyOptions


def deep(layers=40):
    """Conv, Relu, Conv, Relu…: tensors c0, r0, c1, r1…"""
    rng = np.random.default_rng(0)
    nodes, weights, source = [], {}, "x"
    for index in range(layers):
        weights[f"w{index}"] = (rng.standard_normal((4, 4, 3, 3)) / 6).astype(np.float32)
        weights[f"b{index}"] = rng.standard_normal(4).astype(np.float32)
        inputs = [source, f"w{index}", f"b{index}"]
        nodes.append(helper.make_node("Conv", inputs, [f"c{index}"], name=f"conv{index}", pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"r{index}"]))
        source = f"r{index}"
    nodes.append(helper.make_node("GlobalAveragePool", [source], ["y"]))
    return model(nodes, {"x": ["N", 4, 6, 6]}, ["y"], weights)


@pytest.mark.parametrize("layer", [0, 15, 16, 39])
@pytest.mark.parametrize("chunk_bytes", [1 << 28, 3000])
def test_a_fault_is_found_where_it_is(monkeypatch, layer, chunk_bytes):
    monkeypatch.setattr(localise, "_CHUNK_BYTES", chunk_bytes)
    name = f"w{layer}"
    values = weight(deep(), name)
    values[1] *= np.float32(1.01)
    check = verify(deep(), with_weight(deep(), name, values), intermediates=True)
    assert check.verdict == "different"
    assert (check.first_difference.tensor, check.first_difference.node) == (f"c{layer}", f"conv{layer}")
    assert 1e-4 < check.first_difference.amount < 1e-1
    assert check.first_difference.feed in check.feeds.descriptions


def test_the_first_of_two_faults_is_named():
    wrong = deep()
    for layer in (30, 12):
        wrong = with_weight(wrong, f"b{layer}", weight(wrong, f"b{layer}") + np.float32(0.5))
    assert verify(deep(), wrong).first_difference.tensor == "c12"


def test_nan_inside_is_an_infinite_amount():
    values = weight(deep(), "b3")
    values[0] = np.nan
    found = verify(deep(), with_weight(deep(), "b3", values), intermediates=True).first_difference
    assert found.tensor == "c3"
    assert found.amount == float("inf")
    assert "whose shape differs, or where it is NaN or infinite" in found.sentence()


def test_the_search_can_be_left_out():
    wrong = with_weight(deep(), "b3", weight(deep(), "b3") + np.float32(0.5))
    assert verify(deep(), wrong, first_difference=False).first_difference is None


def test_a_fault_that_does_not_reach_the_outputs_is_seen_only_inside():
    """Channel 2 is shut off by the ReLU behind it."""
    shut = weight(deep(3), "b1")
    shut[2] = -1e4
    original = with_weight(deep(3), "b1", shut)
    values = weight(original, "w1")
    values[2] *= 2
    wrong = with_weight(original, "w1", values)
    assert verify(original, wrong).equivalent
    check = verify(original, wrong, intermediates=True)
    assert check.verdict == "different"
    assert check.first_difference.tensor == "c1"
    assert "the outputs agree on these feeds" in check.sentence()


def test_rounding_inside_is_not_a_difference():
    for seed in range(3):
        assert verify(cnn(seed), folded(cnn(seed)), intermediates=True, seed=seed).equivalent


def test_without_measured_noise_the_fixed_tolerance_decides_inside_too(tmp_path, monkeypatch):
    scaled = with_weight(deep(), "w0", weight(deep(), "w0") * np.float32(1 + 3e-5))
    for name, proto in (("first", deep()), ("second", scaled)):
        onnx.save(proto, tmp_path / f"{name}.onnx")
    other, judge = OnnxFile(tmp_path / "second.onnx", "the other"), NoiseJudge(Tolerance())

    def found():
        reference = Reference(OnnxFile(tmp_path / "first.onnx", "the original"), VerifyOptions(feeds=1))
        return first_differing(reference, other, judge)

    assert found().tensor == "c0"
    monkeypatch.setattr(jitter, "MAX_BYTES", 0)
    assert found() is None


def test_a_nameless_node_is_called_by_its_output():
    nodes = [helper.make_node("Mul", ["x", "s"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    right, wrong = (model(nodes, {"x": [5]}, ["y"], {"s": np.float32(s)}) for s in (1.0, 1.1))
    found = verify(right, wrong).first_difference
    assert (found.tensor, found.node, found.op_type) == ("h", "h", "Mul")
    assert found.sentence() == f"first difference: tensor 'h' of Mul 'h', {found.amount:.1e} of its range"


def test_tensors_that_cannot_be_outputs_are_passed_over(tmp_path):
    """onnxruntime cannot return an optional: the search goes on with the others."""
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Optional", ["r"], ["o"]),
        helper.make_node("OptionalGetElement", ["o"], ["g"]),
        helper.make_node("Mul", ["g", "s"], ["m"]),
        helper.make_node("Relu", ["m"], ["y"]),
    ]
    right, wrong = (model(nodes, {"x": [5]}, ["y"], {"s": np.float32(s)}, opset=18) for s in (1.0, 1.1))
    assert verify(right, wrong).first_difference.tensor == "m"


def test_only_tensors_that_may_differ_are_compared():
    right = deep(2)
    wrong = onnx.ModelProto()
    wrong.CopyFrom(right)
    assert telling_tensors(right, wrong) == ["c0", "c1"]
    wrong.graph.node[1].op_type = "Abs"
    assert telling_tensors(right, wrong) == ["c0", "r0", "c1"]
    wrong.graph.node[2].output[0] = wrong.graph.node[3].input[0] = "elsewhere"
    assert telling_tensors(right, wrong) == ["c0", "r0", "r1"]
    del wrong.graph.node[-1:]
    assert telling_tensors(right, wrong) == ["c0", "r0", "r1"]


def test_attributes_constants_and_bodies_may_differ():
    def one(slope, value, branch):
        body = helper.make_graph(
            [helper.make_node(branch, ["l"], ["z"])], "b", [], [helper.make_tensor_value_info("z", 1, None)]
        )
        nodes = [
            helper.make_node("Constant", [], ["c"], value_float=value),
            helper.make_node("LeakyRelu", ["x"], ["l"], alpha=slope),
            helper.make_node("If", ["yes"], ["i"], then_branch=body, else_branch=body),
            helper.make_node("Add", ["i", "c"], ["y"]),
        ]
        return model(nodes, {"x": [4], "yes": []}, ["y"], types={"yes": TensorProto.BOOL})

    same = one(0.1, 1.0, "Relu")
    assert telling_tensors(same, one(0.1, 1.0, "Relu")) == ["c", "i"]
    assert telling_tensors(same, one(0.2, 1.0, "Relu")) == ["c", "l", "i"]
    assert verify(same, one(0.1, 1.5, "Relu")).first_difference.tensor == "c"
    assert verify(same, one(0.1, 1.0, "Abs")).first_difference.tensor == "i"


@pytest.mark.parametrize("external", [False, True])
def test_weights_may_be_in_another_file(tmp_path, external):
    paths = []
    for name, factor in (("right", 1.0), ("wrong", 1.01)):
        folder = tmp_path / name
        folder.mkdir()
        proto = with_weight(deep(4), "w2", weight(deep(4), "w2") * np.float32(factor))
        path = folder / "model.onnx"
        onnx.save(proto, path, save_as_external_data=external, location="weights", size_threshold=0)
        assert (folder / "weights").exists() is external
        paths.append(path)
    check = verify(*paths)
    assert check.verdict == "different"
    assert check.first_difference.tensor == "c2"


def test_the_search_is_on_the_feed_it_is_given(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(deep(3).SerializeToString())
    reference = Reference(OnnxFile(path, "the original"), VerifyOptions(feeds=3))
    wrong = tmp_path / "wrong.onnx"
    wrong.write_bytes(with_weight(deep(3), "b1", weight(deep(3), "b1") + np.float32(1)).SerializeToString())
    found = first_differing(reference.only(2), OnnxFile(wrong, "the other"), NoiseJudge(Tolerance()))
    assert found.tensor == "c1"
    assert found.feed == reference.answers.feeds[2].description
    assert first_differing(reference, OnnxFile(path, "the original"), NoiseJudge(Tolerance())) is None
