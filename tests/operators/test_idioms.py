"""Composite functions keep the form in which runtimes recognise them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
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
