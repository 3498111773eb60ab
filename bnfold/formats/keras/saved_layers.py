"""The BatchNormalizations and biases of a SavedModel, kept as they are through its conversion to ONNX.

An exported function computes a BN by arithmetic, and TensorFlow and tf2onnx fold constants: a bias, a mean and a
beta become one vector, and a convolution takes the scale in. The ONNX model would compute the same, but nothing
could be said of its layers. So vectors are inputs while the graph is converted, and constants again afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

_VECTOR_DTYPES = ("float16", "float32", "float64")


@dataclass(slots=True)
class Held:
    """What was taken out of a graph: its vectors by tensor, and the BN that arithmetic computes."""

    vectors: dict[str, NDArray[Any]] = field(default_factory=dict)
    batchnorms: list[_BatchNorm] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _BatchNorm:
    """The operations that compute a BN.

    ``scale`` is gamma / sqrt(variance + epsilon), ``product`` is data * scale, ``result`` is
    product + (beta - mean * scale). The vectors stand in the order of ONNX: gamma, beta, mean, variance.
    """

    result: str
    product: str
    scale: str
    vectors: tuple[str, ...]
    epsilon: float


def hold(tf: Any, graph_def: Any, ranks: Mapping[str, int | None]) -> Held:
    """Make every vector of the graph an input. ``ranks`` are those of the operations' first results.

    A BN over the last axis of an image becomes one operation, which tf2onnx can take across its transpositions.
    """
    held = Held()
    reader = _Reader(graph_def)
    for node in list(graph_def.node):
        found = reader.batchnorm(tf, node)
        rank = ranks.get(node.name)
        if found is not None and rank == 4:
            _fuse(graph_def, node, reader.source(found.product, 0), found, held)
        elif found is not None and rank == 2:
            held.batchnorms.append(found)
    for node in graph_def.node:
        if node.op == "Const" and tf.as_dtype(node.attr["dtype"].type).name in _VECTOR_DTYPES:
            value = tf.make_ndarray(node.attr["value"].tensor)
            if value.ndim == 1:
                held.vectors[f"{node.name}:0"] = value
                node.op = "Placeholder"
                del node.attr["value"]
                node.attr["shape"].shape.CopyFrom(tf.TensorShape(value.shape).as_proto())
    return held


class _Reader:
    """Recognises how ``tf.nn.batch_normalization`` writes a BN."""

    def __init__(self, graph_def: Any) -> None:
        self._nodes = {node.name: node for node in graph_def.node}

    def source(self, name: str, slot: int) -> str:
        """The tensor that an operation reads in a slot."""
        return str(self._nodes[name].input[slot])

    def _read(self, node: Any, slot: int, *kinds: str) -> Any:
        """The operation that one reads, if it is of one of these kinds; copies are looked through."""
        if node is None or slot >= len(node.input):
            return None
        found = self._nodes.get(node.input[slot].split(":")[0])
        while found is not None and found.op == "Identity":
            found = self._nodes.get(found.input[0].split(":")[0])
        return found if found is not None and found.op in kinds else None

    def batchnorm(self, tf: Any, result: Any) -> _BatchNorm | None:
        """The BN whose last operation this is; None where it is not one with gamma and beta."""
        if result.op != "AddV2":
            return None
        product, shift = self._read(result, 0, "Mul"), self._read(result, 1, "Sub")
        scale, beta = self._read(product, 1, "Mul"), self._read(shift, 0, "Const")
        moved = self._read(shift, 1, "Mul")
        mean = self._read(moved, 0, "Const")
        root, gamma = self._read(scale, 0, "Rsqrt"), self._read(scale, 1, "Const")
        total = self._read(root, 0, "AddV2", "Add")
        variance, epsilon = self._read(total, 0, "Const"), self._read(total, 1, "Const")
        vectors = [gamma, beta, mean, variance]
        if any(part is None for part in (*vectors, epsilon)) or self._read(moved, 1, "Mul") is not scale:
            return None
        names = tuple(vector.name for vector in vectors)
        value = float(tf.make_ndarray(epsilon.attr["value"].tensor))
        return _BatchNorm(result.name, product.name, scale.name, names, value)


def _fuse(graph_def: Any, node: Any, data: str, found: _BatchNorm, held: Held) -> None:
    dtype = node.attr["T"].type
    node.op = "FusedBatchNormV3"
    del node.input[:]
    node.input.extend([data, *found.vectors])
    node.attr.clear()
    node.attr["T"].type = node.attr["U"].type = dtype
    node.attr["epsilon"].f = found.epsilon
    node.attr["data_format"].s = b"NHWC"
    node.attr["is_training"].b = False


def restore(model: onnx.ModelProto, held: Held) -> None:
    """Make the vectors constants again, write each BN as one operator, and compute what constants alone give."""
    graph = model.graph
    inputs = [value for value in graph.input if value.name not in held.vectors]
    del graph.input[:]
    graph.input.extend(inputs)
    graph.initializer.extend(numpy_helper.from_array(np.array(value), name) for name, value in held.vectors.items())
    for found in held.batchnorms:
        _write(graph, found)
    _fold_constants(model)


def _write(graph: onnx.GraphProto, found: _BatchNorm) -> None:
    nodes = {node.name: node for node in graph.node}
    result, product, scale = (nodes.get(name) for name in (found.result, found.product, found.scale))
    known = {tensor.name for tensor in graph.initializer}
    vectors = [f"{name}:0" for name in found.vectors]
    if result is None or product is None or scale is None or not known.issuperset(vectors):
        return
    if (
        result.op_type != "Add"
        or list(result.input)[:1] != list(product.output)
        or product.input[1] not in scale.output
    ):
        return
    new = helper.make_node(
        "BatchNormalization", [product.input[0], *vectors], list(result.output), result.name, epsilon=found.epsilon
    )
    result.CopyFrom(new)


def _fold_constants(model: onnx.ModelProto) -> None:
    """Drop operators that nobody reads, and put in place of those on constants what they compute."""
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    kept = []
    for node in graph.node:
        inputs = [name for name in node.input if name]
        if not inputs or any(name not in constants for name in inputs) or len(node.output) != 1:
            kept.append(node)
            continue
        values = [helper.make_tensor_value_info(n, constants[n].data_type, constants[n].dims) for n in inputs]
        alone = helper.make_graph([node], "constant", values, [onnx.ValueInfoProto(name=node.output[0])])
        made = helper.make_model(alone, opset_imports=model.opset_import, ir_version=model.ir_version)
        (value,) = ReferenceEvaluator(made).run(None, {n: numpy_helper.to_array(constants[n]) for n in inputs})
        constants[node.output[0]] = numpy_helper.from_array(np.asarray(value), node.output[0])
    read = {value.name for value in graph.output}
    used = []
    for node in reversed(kept):
        if read & set(node.output):
            used.append(node)
            read.update(node.input)
            read.update(name for attribute in node.attribute for name in _captured(attribute))
    del graph.node[:]
    graph.node.extend(reversed(used))
    left = [constants[name] for name in constants if name in read]
    del graph.initializer[:]
    graph.initializer.extend(left)


def _captured(attribute: onnx.AttributeProto) -> set[str]:
    """Every name that a subgraph reads, its own included."""
    graphs = [attribute.g, *attribute.graphs]
    names = {name for graph in graphs for node in graph.node for name in node.input}
    names |= {value.name for graph in graphs for value in graph.output}
    return names.union(*(_captured(inner) for graph in graphs for node in graph.node for inner in node.attribute))
