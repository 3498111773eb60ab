"""What is left in an ONNX file, counted with the onnx package alone, nothing of bnfold's.

An affine is a Mul, Add, Sub or Div of a tensor with a floating-point constant that varies along
exactly one axis (``per_channel``) or along none (``scalar``: activations such as hard swish are made
of these). ``constant / tensor`` is none, and neither is the Add directly behind a MatMul whose
constant lies along the last axis: it is the layer's bias. Constants are initializers, Constant nodes
and whatever is computed from those alone. ``nodes`` are all but the Constant nodes, which nobody
executes. Bodies of subgraphs and functions count.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, shape_inference

_ARITHMETIC = {"Mul", "Add", "Sub", "Div"}
_CONVOLUTIONS = {"Conv", "FusedConv"}  # the second is onnxruntime's, a Conv with its activation
_PRODUCTS = {"MatMul", "FusedMatMul"}
_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
_RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}


@dataclass
class Counts:
    """Numbers of operators in a model, and the bytes of its file."""

    nodes: int = 0
    convs: int = 0
    batchnorms: int = 0
    per_channel: int = 0
    scalar: int = 0
    bytes: int = 0

    @property
    def left(self) -> int:
        """BN and per-channel affines together."""
        return self.batchnorms + self.per_channel


def count_file(path: Path) -> Counts:
    """Count the operators of an ONNX file. Raises what onnx raises where it cannot be read."""
    model = onnx.load(path, load_external_data=False)
    counts = count_model(model)
    counts.bytes = path.stat().st_size
    return counts


def count_model(model: ModelProto) -> Counts:
    """Count the operators of a model."""
    _strip(model.graph)
    inferred = shape_inference.infer_shapes(model, data_prop=True)
    counts = Counts()
    _count(inferred.graph.node, _Constants(inferred.graph, {}), counts)
    for function in inferred.functions:
        _count(function.node, _Constants(None, {}, function.node), counts)
    return counts


def _strip(graph: GraphProto) -> None:
    """Drop the values of large weights, whose shapes alone matter."""
    for tensor in graph.initializer:
        if len(tensor.raw_data) > 4096:
            tensor.ClearField("raw_data")


class _Constants:
    """The shapes of the floating-point constants of a graph; ``outer`` are those of the graphs around it."""

    def __init__(
        self, graph: GraphProto | None, outer: dict[str, list[int] | None], nodes: Iterator[NodeProto] | None = None
    ) -> None:
        self.shapes: dict[str, list[int] | None] = dict(outer)
        known = {} if graph is None else dict(_value_infos(graph))
        if graph is not None:
            self.shapes.update({t.name: list(t.dims) if t.data_type in _FLOATS else None for t in graph.initializer})
        for node in graph.node if graph is not None else nodes or ():
            if node.op_type == "Constant":
                self.shapes[node.output[0]] = _constant_shape(node)
            elif self._computed(node):
                self.shapes.update({name: known.get(name) for name in node.output})

    def _computed(self, node: NodeProto) -> bool:
        reads = [name for name in node.input if name]
        whole = not any(a.HasField("g") or a.graphs for a in node.attribute) and node.op_type not in _RANDOM
        return bool(reads) and whole and all(name in self.shapes for name in reads)


def _value_infos(graph: GraphProto) -> Iterator[tuple[str, list[int] | None]]:
    for value in (*graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        static = tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim)
        shape = [dim.dim_value for dim in tensor.shape.dim]
        yield value.name, shape if static and tensor.elem_type in _FLOATS else None


def _constant_shape(node: NodeProto) -> list[int] | None:
    attribute = node.attribute[0]
    if attribute.name == "value":
        return list(attribute.t.dims) if attribute.t.data_type in _FLOATS else None
    return {"value_float": [], "value_floats": [len(attribute.floats)]}.get(attribute.name)


def _count(nodes: list[NodeProto], constants: _Constants, counts: Counts) -> None:
    producers = {name: node for node in nodes for name in node.output}
    for node in nodes:
        counts.nodes += node.op_type != "Constant"
        counts.convs += node.op_type in _CONVOLUTIONS
        counts.batchnorms += node.op_type == "BatchNormalization"
        axes = _affine_axes(node, constants, producers)
        counts.per_channel += axes == 1
        counts.scalar += axes == 0
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                if body.node:
                    _count(body.node, _Constants(body, constants.shapes), counts)


def _affine_axes(node: NodeProto, constants: _Constants, producers: dict[str, NodeProto]) -> int | None:
    """Along how many axes the constant of an affine varies; None for what is no affine, or is a bias."""
    if node.op_type not in _ARITHMETIC or node.domain:
        return None
    fixed = [name in constants.shapes for name in node.input]
    if sum(fixed) != 1 or (node.op_type == "Div" and fixed[0]):
        return None
    shape = constants.shapes[node.input[fixed.index(True)]]
    if shape is None:
        return None
    producer = producers.get(node.input[fixed.index(False)])
    behind_product = producer is not None and producer.op_type in _PRODUCTS
    if node.op_type == "Add" and behind_product and shape and all(size == 1 for size in shape[:-1]):
        return None
    return sum(size != 1 for size in shape)
