"""Composite functions keep the form in which runtimes recognise them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
from helpers import Net, assert_gone, assert_stays, fold, op_counts
from onnx import TensorProto, helper, numpy_helper

from bnfold.folding import fold_graph
from bnfold.formats import load

CHANNELS = 4


def _model(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> onnx.ModelProto:
    shape = ["N", 3, CHANNELS]
    graph = helper.make_graph(
        nodes,
        "idiom",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _gelu_then_dense(half: float) -> onnx.ModelProto:
    rng = np.random.default_rng(3)
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"]),
        helper.make_node("Div", ["h", "root"], ["e"]),
        helper.make_node("Erf", ["e"], ["f"]),
        helper.make_node("Add", ["f", "one"], ["g"]),
        helper.make_node("Mul", ["h", "g"], ["p"]),
        helper.make_node("Mul", ["p", "half"], ["q"]),
        helper.make_node("MatMul", ["q", "w2"], ["y"]),
    ]
    weights = {"w1": rng.normal(size=(CHANNELS, CHANNELS)), "w2": rng.normal(size=(CHANNELS, CHANNELS))}
    return _model(nodes, {**weights, "root": np.sqrt(2.0), "one": 1.0, "half": half})


def _optimised_types(model: onnx.ModelProto, path: str) -> Counter[str]:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = path
    options.log_severity_level = 4
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def test_gelu_is_still_fused_after_folding(tmp_path: object) -> None:
    model = _gelu_then_dense(0.5)
    graph, _ = fold_graph(load(model).graph)
    assert Counter(op.type for op in graph.ops()) == Counter(node.op_type for node in model.graph.node)
    assert _optimised_types(model, f"{tmp_path}/optimised.onnx")["Gelu"] == 1


def test_another_factor_is_no_gelu_and_folds() -> None:
    graph, _ = fold_graph(load(_gelu_then_dense(0.7)).graph)
    assert Counter(op.type for op in graph.ops())["Mul"] == 1


@pytest.mark.parametrize(("variance_of_x", "folds"), [(True, False), (False, True)])
def test_scale_and_bias_of_a_layer_normalisation_stay(variance_of_x: bool, folds: bool) -> None:
    rng = np.random.default_rng(4)
    spread = ["d", "d"] if variance_of_x else ["x", "x"]
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[-1]),
        helper.make_node("Sub", ["x", "m"], ["d"]),
        helper.make_node("Mul", spread, ["s"]),
        helper.make_node("ReduceMean" if variance_of_x else "ReduceMax", ["s"], ["v"], axes=[-1]),
        helper.make_node("Add", ["v", "eps"], ["ve"]),
        helper.make_node("Sqrt", ["ve"], ["r"]),
        helper.make_node("Div", ["d", "r"], ["n"]),
        helper.make_node("Mul", ["n", "gamma"], ["ng"]),
        helper.make_node("Add", ["ng", "beta"], ["nb"]),
        helper.make_node("MatMul", ["nb", "w"], ["nw"]),
        helper.make_node("Add", ["nw", "b"], ["y"]),
    ]
    vectors = {name: rng.normal(size=CHANNELS) for name in ("gamma", "beta", "b")}
    model = _model(nodes, {**vectors, "w": rng.normal(size=(CHANNELS, CHANNELS)), "eps": 1e-5})
    graph, plan = fold_graph(load(model).graph)
    assert len(graph) == len(nodes) - (2 if folds else 0)
    assert bool(plan.steps) is folds


# -- what belongs to them, and what is beside them ---------------------------------------------------

VECTOR = np.array([0.5, 0.7, 0.5, 0.5], np.float32)


def gelu(net: Net, x: str, *, place: str = "behind", half: object = 0.5, one: float = 1.0, kind: str = "Erf") -> str:
    """The function written out, the half before, between or behind its product."""
    half = np.asarray(half, np.float32)
    factor = net.op("Mul", x, half) if place == "before" else x
    gate = net.op("Add", net.op(kind, net.op("Div", x, np.float32(np.sqrt(2.0)))), np.float32(one))
    gate = net.op("Mul", gate, half) if place == "between" else gate
    y = net.op("Mul", factor, gate)
    return str(net.op("Mul", y, half)) if place == "behind" else str(y)


def dense(net: Net, x: str) -> str:
    return str(net.op("MatMul", x, net.draw(CHANNELS, CHANNELS)))


@pytest.mark.parametrize("place", ["before", "between", "behind"])
@pytest.mark.parametrize("kind", ["Erf", "Tanh"])
def test_the_half_of_a_gelu_stays_wherever_it_stands(place: str, kind: str) -> None:
    net = Net()
    model = net.build(dense(net, gelu(net, dense(net, net.input("N", CHANNELS)), place=place, kind=kind)))
    assert op_counts(fold(model).after) == op_counts(model)


def test_the_half_of_a_gelu_of_the_models_input_stays() -> None:
    net = Net()
    model = net.build(dense(net, gelu(net, net.input("N", CHANNELS))))
    assert op_counts(fold(model).after) == op_counts(model)


@pytest.mark.parametrize(
    ("place", "one", "half"),
    [
        ("behind", 2.0, 0.5),
        ("behind", 1.0, 0.7),
        ("between", 1.0, 0.7),
        ("behind", 1.0, VECTOR),
        ("between", 1.0, VECTOR),
    ],
)
def test_other_numbers_make_no_gelu(place: str, one: float, half: object) -> None:
    net = Net()
    model = net.build(dense(net, gelu(net, dense(net, net.input("N", CHANNELS)), place=place, one=one, half=half)))
    assert fold(model).count("Mul") == 1


@pytest.mark.parametrize("kind", ["complement", "bare", "more"])
def test_other_terms_make_no_gelu(kind: str) -> None:
    """``1 - erf``, ``erf`` itself, ``1 + erf + 3``."""
    net = Net()
    x = dense(net, net.input("N", CHANNELS))
    gate = net.op("Erf", x)
    if kind == "complement":
        gate = net.op("Sub", np.float32(1), gate)
    elif kind == "more":
        gate = net.op("Add", net.op("Add", gate, np.float32(1)), np.float32(3))
    y = net.op("Mul", net.op("Mul", x, gate), np.float32(0.5))
    assert fold(net.build(dense(net, y))).count("Mul") == 1


@pytest.mark.parametrize(("one", "stays"), [(1.0, True), (2.0, False)])
def test_a_scale_before_a_gelu_does_not_go_into_it(one: float, stays: bool) -> None:
    net = Net()
    x = net.op("Mul", net.op("Tanh", net.input("N", CHANNELS)), net.positive(CHANNELS))
    folded = fold(net.build(dense(net, gelu(net, x, one=one))))
    if stays:
        assert_stays(folded, "nonlinear", "(Erf)")
    else:
        assert folded.count("Mul") == 2  # the product, and the division that took it in


def normalised(net: Net, x: str) -> str:
    """``(x - mean) / sqrt(variance + epsilon)`` over the last axis."""
    away = net.op("Sub", x, net.op("ReduceMean", x, axes=[-1]))
    variance = net.op("ReduceMean", net.op("Mul", away, away), axes=[-1])
    return str(net.op("Div", away, net.op("Sqrt", net.op("Add", variance, np.float32(1e-5)))))


@pytest.mark.parametrize("kind", ["Mul", "Add"])
def test_an_affine_behind_the_scale_of_a_layer_normalisation_folds_unless_it_is_its_bias(kind: str) -> None:
    net = Net()
    y = net.op("Mul", normalised(net, net.input("N", CHANNELS)), net.positive(CHANNELS))
    y = net.op("Gemm", net.op(kind, y, net.draw(CHANNELS), name="next"), net.draw(CHANNELS, 2))
    model = net.build(y)
    assert fold(model).count() == len(model.graph.node) - (kind == "Mul")


def test_the_scale_of_a_layer_normalisation_without_a_bias_stays() -> None:
    net = Net()
    y = net.op("Mul", normalised(net, net.input("N", CHANNELS)), net.positive(CHANNELS))
    model = net.build(dense(net, y))
    assert op_counts(fold(model).after) == op_counts(model)


def test_a_batch_normalization_is_no_part_of_a_layer_normalisation() -> None:
    net = Net()
    y = net.bn(normalised(net, net.input("N", CHANNELS)), CHANNELS)
    assert_gone(fold(net.build(net.op("Gemm", y, net.draw(CHANNELS, 2)))), "BatchNormalization")
