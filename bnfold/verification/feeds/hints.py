"""What a graph demands of its inputs: index bounds, roles of integers, channel counts, ranks.

Random feeds are useless when the model rejects them. The operators that read an input, directly or
through operators that only move values, say what it must look like.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

    Dims = tuple[int, ...]

# fmt: off
#: Operators whose output holds the values of their first input (of any input for Concat), moved.
_MOVES = frozenset({
    "Identity", "Cast", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Transpose", "Expand", "Slice", "Split",
    "Gather", "Tile", "Concat", "Dropout",
})
#: Operators that compute with integers before they are used as indices: what comes out has about the same size.
_COUNTS = frozenset({"Abs", "Add", "Clip", "Max", "Min", "Mod", "Mul", "Neg", "Sub", "Where"})
#: Operators through which rank and axes stay as they are.
_KEEPS_SHAPE = frozenset({
    "Identity", "Cast", "Relu", "LeakyRelu", "Clip", "Dropout", "BatchNormalization", "Add", "Sub", "Mul", "Div",
})
#: Slots that hold indices, with the slot of the tensor that they index.
_INDICES = {
    ("Gather", 1): 0,
    ("GatherElements", 1): 0,
    ("GatherND", 1): 0,
    ("ScatterElements", 1): 0,
    ("ScatterND", 1): 0,
    ("EmbedLayerNormalization", 0): 2,
    ("EmbedLayerNormalization", 1): 4,
}
#: Slots that hold shapes, axes, counts or lengths: numbers that steer an operator. Every Reduce operator's slot 1 too.
_CONTROLS = {
    "Slice": {1, 2, 3, 4}, "Range": {0, 1, 2}, "Resize": {3}, "ConstantOfShape": {0},
    "LSTM": {4}, "GRU": {4}, "RNN": {4}, "CenterCropPad": {1}, "CumSum": {1}, "Expand": {1}, "OneHot": {1},
    "Pad": {1}, "Reshape": {1}, "ReverseSequence": {1}, "Split": {1}, "SplitToSequence": {1}, "Squeeze": {1},
    "Tile": {1}, "TopK": {1}, "Unsqueeze": {1},
}
# fmt: on


@dataclass(frozen=True, slots=True)
class Hint:
    """What the readers of an input demand of it.

    ``bound`` is the exclusive upper limit of an index, None where it is not known. ``role`` is
    "index", "control" (shapes, axes, counts: small numbers), "trips" (how often a loop runs) or "value".
    ``reach`` is the size of what a value indexes after it was computed with. ``rank`` and ``dims``
    (axis to size; negative axes count from the end) are what the weights of its readers fix.
    """

    role: str = "value"
    bound: int | None = None
    reach: int | None = None
    rank: int | None = None
    dims: Mapping[int, int] = field(default_factory=dict)


class Tracer:
    """Follows tensors of one model, through subgraphs too, to the operators that read them."""

    def __init__(self, model: ModelProto) -> None:
        self._readers: dict[str, list[tuple[NodeProto, int]]] = {}
        self._producer: dict[str, NodeProto] = {}
        self._dims: dict[str, Dims] = {}
        self._scalars: dict[str, int] = {}
        for graph in graphs(model.graph):
            self._index(graph)

    def hint(self, name: str) -> Hint:
        """What is known about the input of that name."""
        bounds: list[int] = []
        roles = set()
        trips = False
        for node, slot in self._reached(name, _MOVES):
            if (node.op_type, slot) in _INDICES:
                roles.add("index")
                bounds.extend(self._index_bound(node, _INDICES[node.op_type, slot]))
            elif node.op_type == "OneHot" and slot == 0:
                roles.add("index")
                bounds.extend(self._scalar(node.input[1]))
            elif node.op_type == "Loop" and slot == 0:
                trips = True
            elif slot in _CONTROLS.get(node.op_type, ()) or (slot == 1 and node.op_type.startswith("Reduce")):
                roles.add("control")
        role = "control" if "control" in roles else "index" if roles else "trips" if trips else "value"
        rank, dims = self._weights_shape(name)
        reach = None if roles else self._reach(name)
        return Hint(role, min(bounds) if bounds else None, reach, rank, dims)

    def _reach(self, name: str) -> int | None:
        bounds = [
            bound
            for node, slot in self._reached(name, _MOVES | _COUNTS)
            if (node.op_type, slot) in _INDICES
            for bound in self._index_bound(node, _INDICES[node.op_type, slot])
        ]
        return min(bounds, default=None)

    def _index(self, graph: GraphProto) -> None:
        from onnx import numpy_helper

        for tensor in graph.initializer:
            self._dims[tensor.name] = tuple(tensor.dims)
            if not tensor.dims and tensor.data_type == tensor.INT64 and not tensor.external_data:
                self._scalars[tensor.name] = int(numpy_helper.to_array(tensor))
        for value in graph.value_info:
            sizes = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
            if all(sizes):
                self._dims.setdefault(value.name, tuple(sizes))
        for node in graph.node:
            for slot, name in enumerate(node.input):
                self._readers.setdefault(name, []).append((node, slot))
            for name in node.output:
                self._producer[name] = node
            if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
                self._dims[node.output[0]] = tuple(node.attribute[0].t.dims)

    def _reached(self, name: str, through: Iterable[str]) -> Iterator[tuple[NodeProto, int]]:
        """Every read of the tensor, directly or by way of operators that are in ``through``."""
        seen, queue = {name}, deque([name])
        while queue:
            for node, slot in self._readers.get(queue.popleft(), ()):
                yield node, slot
                if node.op_type in through and (slot == 0 or node.op_type == "Concat"):
                    fresh = [output for output in node.output if output and output not in seen]
                    seen.update(fresh)
                    queue.extend(fresh)

    def _size(self, name: str) -> Dims | None:
        """The static shape of a tensor, by way of operators on weights that keep it."""
        while name not in self._dims:
            node = self._producer.get(name)
            if node is None or node.op_type not in ("Identity", "Cast", "DequantizeLinear"):
                return None
            name = node.input[0]
        return self._dims[name]

    def _index_bound(self, node: NodeProto, table: int) -> list[int]:
        dims = self._size(node.input[table])
        if not dims:
            return []
        if node.op_type in ("GatherND", "ScatterND"):
            return [min(dims)]
        axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
        return [dims[axis]] if -len(dims) <= axis < len(dims) else []

    def _scalar(self, name: str) -> list[int]:
        return [self._scalars[name]] if name in self._scalars else []

    def _weights_shape(self, name: str) -> tuple[int | None, dict[int, int]]:
        """Rank and sizes that the weights of the first linear readers fix."""
        rank: int | None = None
        dims: dict[int, int] = {}
        for node, slot in self._reached(name, _KEEPS_SHAPE):
            if slot != 0:
                continue
            weight = self._size(node.input[1]) if len(node.input) > 1 else None
            if weight is None:
                continue
            found = _demand(node, weight)
            rank = found[0] if rank is None else rank
            for axis, size in found[1].items():
                dims.setdefault(axis, size)
        return rank, dims


def _demand(node: NodeProto, weight: Dims) -> tuple[int | None, dict[int, int]]:
    """The rank and sizes of an operator's first input, from the shape of its second."""
    attributes = {attribute.name: attribute.i for attribute in node.attribute}
    kind, rank = node.op_type, len(weight)
    if kind == "Conv" and rank > 2:
        return rank, {1: weight[1] * attributes.get("group", 1)}
    if kind == "ConvTranspose" and rank > 2:
        return rank, {1: weight[0]}
    if kind == "Gemm" and rank == 2:
        return 2, {0 if attributes.get("transA") else 1: weight[1 if attributes.get("transB") else 0]}
    if kind == "MatMul" and rank >= 2:
        return None, {-1: weight[-2]}
    if kind in ("LSTM", "GRU", "RNN") and rank == 3:
        return 3, {2: weight[2]}
    if kind in ("BatchNormalization", "InstanceNormalization") and rank == 1:
        return None, {1: weight[0]}
    return None, {}


def graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """The graph and every subgraph inside it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from graphs(attribute.g)
            for body in attribute.graphs:
                yield from graphs(body)
