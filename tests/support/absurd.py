"""Files that no exporter writes: each a name, its bytes, the exit code and the words it has to be met with."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper


class Absurd(NamedTuple):
    """``words`` is None where the file is odd but can be folded."""

    name: str
    data: bytes
    words: str | None


def value(name: str, shape: Any = ("N", 4), kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def model(nodes: list[NodeProto], params: dict[str, Any] | None = None, **fields: Any) -> ModelProto:
    """A model from x [N, 4] to y."""
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in (params or {}).items()]
    outputs = fields.pop("outputs", [value("y")])
    graph = helper.make_graph(nodes, "g", fields.pop("inputs", [value("x")]), outputs, tensors)
    opsets = fields.pop("opset_imports", [helper.make_opsetid("", 17)])
    proto = helper.make_model(graph, opset_imports=opsets, **fields)
    proto.ir_version = 8
    return proto


def node(kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> NodeProto:
    return helper.make_node(kind, inputs, outputs, name=f"{kind}_{outputs[0]}", **attributes)


RELU = node("Relu", ["x"], ["y"])


def claims(dims: list[int], data: bytes = b"\0" * 16) -> bytes:
    """An initializer of more elements than there is data for."""
    proto = model([node("Add", ["x", "w"], ["y"])])
    proto.graph.initializer.append(TensorProto(name="w", dims=dims, data_type=TensorProto.FLOAT, raw_data=data))
    return proto.SerializeToString()


def field(number: int, content: bytes) -> bytes:
    length, prefix = len(content), bytearray()
    while length > 127:
        prefix.append(length & 127 | 128)
        length >>= 7
    return bytes([number << 3 | 2]) + bytes([*prefix, length]) + content


def nested(depth: int) -> bytes:
    """If in If in If…: written by hand, for protobuf itself gives up at a hundred messages."""
    graph = helper.make_graph([], "g", [], []).SerializeToString()
    for _ in range(depth):
        attribute = field(1, b"then_branch") + field(6, graph) + b"\xa0\x01\x05"
        graph = field(1, field(1, b"x") + field(4, b"If") + field(5, attribute)) + field(2, b"g")
    return model([RELU]).SerializeToString() + field(7, graph)


def bomb(kind: str, inputs: dict[str, Any], **attributes: Any) -> bytes:
    """A small operator with an enormous result, which is then added to the input."""
    nodes = [node(kind, list(inputs), ["big"], **attributes), node("ReduceMax", ["big"], ["one"], keepdims=0)]
    return model([*nodes, node("Add", ["x", "one"], ["y"])], inputs).SerializeToString()


def doubling(times: int) -> bytes:
    """A constant that is concatenated with itself again and again."""
    nodes = [node("Concat", [f"c{i}", f"c{i}"], [f"c{i + 1}"], axis=0) for i in range(times)]
    nodes += [node("ReduceMax", [f"c{times}"], ["one"], keepdims=0), node("Add", ["x", "one"], ["y"])]
    return model(nodes, {"c0": np.ones(1000, np.float32)}).SerializeToString()


def many_inputs(count: int) -> bytes:
    return model([node("Sum", ["x"] * count, ["y"])]).SerializeToString()


def long_chain(length: int) -> bytes:
    names = ["x", *(f"t{index}" for index in range(length - 1)), "y"]
    return model([node("Relu", [names[i]], [names[i + 1]]) for i in range(length)]).SerializeToString()


def strange_input(kind: onnx.TypeProto | None) -> bytes:
    info = onnx.ValueInfoProto(name="x")
    if kind is not None:
        info.type.CopyFrom(kind)
    return model([RELU], inputs=[info]).SerializeToString()


def absurd_files() -> list[Absurd]:
    """All of them."""
    good = model([RELU]).SerializeToString()
    cycle = [node("Add", ["x", "b"], ["a"]), node("Relu", ["a"], ["b"]), node("Relu", ["b"], ["y"])]
    twice = [node("Relu", ["x"], ["t"]), node("Neg", ["x"], ["t"]), node("Relu", ["t"], ["y"])]
    custom = [helper.make_node("Mystery", ["x"], ["t"], domain="com.example"), node("Relu", ["t"], ["y"])]
    domains = [helper.make_opsetid("", 17), helper.make_opsetid("com.example", 1)]
    newer = [helper.make_opsetid("", onnx.defs.onnx_opset_version() + 1)]
    big = np.array([1 << 20, 1 << 20], np.int64)
    return [
        Absurd("empty", b"", "is empty"),
        Absurd("text", b"#!/bin/sh\necho this is not a model\n", "is a text file, not an ONNX model"),
        Absurd("zeros", bytes(1000), "is damaged, or not an ONNX model"),
        Absurd("truncated", good[:-9], "is damaged, or not an ONNX model"),
        Absurd("length beyond the end", b"\x08\x08\x3a\xff\xff\xff\xff\x0f" + good, "is damaged"),
        Absurd("2^60 elements", claims([1 << 60]), "the impossible shape"),
        Absurd("2^60 elements in two dimensions", claims([1 << 30, 1 << 30]), "16 bytes of data where"),
        Absurd("2^60 elements and no data", claims([1 << 30, 1 << 30], b""), "0 bytes of data where"),
        Absurd("20,000 dimensions", claims([1] * 20_000), "has 20000 dimensions"),
        Absurd("a negative size", claims([-4]), "the impossible shape"),
        Absurd("10,000 subgraphs deep", nested(10_000), "nested more than"),
        Absurd("a cycle", model(cycle).SerializeToString(), "its own output leads to: a cycle"),
        Absurd("duplicate names", model(twice).SerializeToString(), "the name 't' to two tensors"),
        Absurd("a missing initializer", model([node("Add", ["x", "w"], ["y"])]).SerializeToString(), "reads 'w'"),
        Absurd("a newer opset", model([RELU], opset_imports=newer).SerializeToString(), "a newer onnx is needed"),
        Absurd("an unknown element type", strange_input(helper.make_tensor_type_proto(99, [4])), None),
        Absurd("an input without a type", strange_input(None), "onnx.checker"),
        Absurd(
            "a sequence", strange_input(helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, [4]))), None
        ),
        Absurd("a custom domain", model(custom, opset_imports=domains).SerializeToString(), None),
        Absurd("ConstantOfShape bomb", bomb("ConstantOfShape", {"s": big}), None),
        Absurd("Expand bomb", bomb("Expand", {"c": np.ones((1, 1), np.float32), "s": big}), None),
        Absurd("Tile bomb", bomb("Tile", {"c": np.ones((4, 4), np.float32), "s": big}), None),
        Absurd("Range bomb", bomb("Range", {"a": np.float32(0), "b": np.float32(1e15), "c": np.float32(1)}), None),
        Absurd("doubling", doubling(60), None),
        Absurd("a million inputs", many_inputs(1_000_000), None),
        Absurd("10,000 nodes in a row", long_chain(10_000), None),
    ]
