"""The independent counter counts what it says, and nothing that only looks like it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from harness.count import Counts, count_file, count_model
from onnx import TensorProto, helper, numpy_helper


def model(
    nodes: Sequence[onnx.NodeProto], constants: dict[str, Any], shape: Sequence[Any] = ("N", 4, 8, 8)
) -> onnx.ModelProto:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y")]
    ends[0] = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def affine(kind: str, constant: Any, *, first: bool = False) -> Counts:
    inputs = ["c", "x"] if first else ["x", "c"]
    return count_model(model([helper.make_node(kind, inputs, ["y"])], {"c": constant}))


@pytest.mark.parametrize("kind", ["Mul", "Add", "Sub", "Div"])
@pytest.mark.parametrize("shape", [(4, 1, 1), (1, 4, 1, 1), (8,), (8, 1)])
def test_a_constant_along_one_axis_is_per_channel(kind: str, shape: tuple[int, ...]) -> None:
    counts = affine(kind, np.ones(shape, np.float32))
    assert (counts.per_channel, counts.scalar) == (1, 0)
    assert counts.left == 1


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1)])
def test_a_constant_of_one_value_is_a_scalar(shape: tuple[int, ...]) -> None:
    counts = affine("Mul", np.ones(shape, np.float32))
    assert (counts.per_channel, counts.scalar) == (0, 1)
    assert counts.left == 0


def test_a_constant_along_two_axes_is_neither() -> None:
    counts = affine("Add", np.ones((4, 8, 1), np.float32))
    assert (counts.per_channel, counts.scalar) == (0, 0)


def test_the_constant_may_come_first_but_not_in_a_division() -> None:
    vector = np.ones((4, 1, 1), np.float32)
    assert affine("Sub", vector, first=True).per_channel == 1
    assert affine("Div", vector, first=True).per_channel == 0


def test_arithmetic_of_two_tensors_is_none() -> None:
    assert count_model(model([helper.make_node("Mul", ["x", "x"], ["y"])], {})).per_channel == 0


def test_arithmetic_on_shapes_is_none() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Mul", ["s", "two"], ["t"]),
        helper.make_node("Cast", ["t"], ["y"], to=TensorProto.FLOAT),
    ]
    counts = count_model(model(nodes, {"two": np.array([2], np.int64)}))
    assert (counts.nodes, counts.per_channel, counts.scalar) == (3, 0, 0)


def test_the_bias_behind_a_product_is_the_layers() -> None:
    constants = {"w": np.ones((4, 4), np.float32), "b": np.ones(4, np.float32)}
    product = helper.make_node("MatMul", ["x", "w"], ["p"])
    bias = helper.make_node("Add", ["p", "b"], ["y"])
    assert count_model(model([product, bias], constants, ("N", 4))).per_channel == 0
    scale = helper.make_node("Mul", ["p", "b"], ["y"])
    assert count_model(model([product, scale], constants, ("N", 4))).per_channel == 1
    rows = {**constants, "b": np.ones((4, 1), np.float32)}
    assert count_model(model([product, bias], rows, (2, 4, 4))).per_channel == 1


def test_a_constant_may_be_a_node_or_computed() -> None:
    vector = numpy_helper.from_array(np.ones(4, np.float32))
    nodes = [
        helper.make_node("Constant", [], ["v"], value=vector),
        helper.make_node("Unsqueeze", ["v", "axes"], ["c"]),
        helper.make_node("Mul", ["x", "c"], ["y"]),
    ]
    counts = count_model(model(nodes, {"axes": np.array([1, 2], np.int64)}))
    assert (counts.per_channel, counts.nodes) == (1, 2), "a Constant node is nothing that is executed"


def test_random_values_are_no_constant() -> None:
    nodes = [
        helper.make_node("RandomNormalLike", ["c"], ["r"]),
        helper.make_node("Mul", ["x", "r"], ["y"]),
    ]
    assert count_model(model(nodes, {"c": np.ones((4, 1, 1), np.float32)})).per_channel == 0


def test_bodies_count_and_know_the_constants_outside() -> None:
    out = helper.make_tensor_value_info("z", TensorProto.FLOAT, None)
    body = helper.make_graph([helper.make_node("Mul", ["x", "c"], ["z"])], "body", [], [out])
    node = helper.make_node("If", ["flag"], ["y"], then_branch=body, else_branch=body)
    counts = count_model(model([node], {"c": np.ones((4, 1, 1), np.float32), "flag": np.array(True)}))
    assert (counts.nodes, counts.per_channel) == (3, 2)


def test_functions_count() -> None:
    opset = [helper.make_opsetid("", 17)]
    inner = [
        helper.make_node("Constant", [], ["c"], value_floats=[1.0, 2.0]),
        helper.make_node("Mul", ["a", "c"], ["b"]),
    ]
    whole = model([helper.make_node("F", ["x"], ["y"], domain="d")], {})
    whole.functions.append(helper.make_function("d", "F", ["a"], ["b"], inner, opset))
    whole.opset_import.append(helper.make_opsetid("d", 1))
    assert count_model(whole).per_channel == 1


def test_convolutions_and_batchnorms_of_a_file(tmp_path: Any) -> None:
    constants = {"w": np.ones((4, 4, 1, 1), np.float32), **{k: np.ones(4, np.float32) for k in "gbmv"}}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("BatchNormalization", ["c", *"gbmv"], ["y"]),
    ]
    path = tmp_path / "model.onnx"
    onnx.save(model(nodes, constants), path)
    assert count_file(path) == Counts(nodes=2, convs=1, batchnorms=1, bytes=path.stat().st_size)
