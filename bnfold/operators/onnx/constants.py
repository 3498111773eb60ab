"""Which operators may be computed where they stand on constants alone, and how large the result is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import ceil, isfinite, prod

import numpy as np

from bnfold.graph import Array, ModelGraph, Op, Param

#: How many multiplications one matrix product may take.
MAX_PRODUCTS = 1 << 30

Inputs = Sequence["Param | None"]
#: How many elements the outputs of an operator have together; views of an input count as none.
Size = Callable[[Op, Inputs], int]


def _first(op: Op, inputs: Inputs) -> int:
    return given(inputs, 0).size


def _view(op: Op, inputs: Inputs) -> int:
    return 0


def _small(op: Op, inputs: Inputs) -> int:
    return len(given(inputs, 0).shape) + 1


def _broadcast(op: Op, inputs: Inputs) -> int:
    return prod(np.broadcast_shapes(*(param.shape for param in inputs if param is not None)))


def _sum(op: Op, inputs: Inputs) -> int:
    return sum(param.size for param in inputs if param is not None)


def _gather(op: Op, inputs: Inputs) -> int:
    data, indices = given(inputs, 0), given(inputs, 1)
    axis: int = op.attributes.get("axis", 0)
    return data.size // max(1, data.shape[axis]) * indices.size


def _expand(op: Op, inputs: Inputs) -> int:
    return prod(np.broadcast_shapes(given(inputs, 0).shape, tuple(_integers(inputs, 1))))


def _tile(op: Op, inputs: Inputs) -> int:
    return given(inputs, 0).size * prod(_integers(inputs, 1))


def _product(op: Op, inputs: Inputs) -> int:
    a, b = given(inputs, 0).shape, given(inputs, 1).shape
    if len(a) < 2 or len(b) < 2:
        return max(prod(a), prod(b))
    size = prod(np.broadcast_shapes(a[:-2], b[:-2])) * a[-2] * b[-1]
    if size * a[-1] > MAX_PRODUCTS:
        raise ValueError("a product that takes long")
    return size


def _filled(op: Op, inputs: Inputs) -> int:
    return prod(_integers(inputs, 0))


def _range(op: Op, inputs: Inputs) -> int:
    start, limit, delta = (float(given(inputs, slot).array().item()) for slot in range(3))
    count = (limit - start) / delta
    if not isfinite(count):
        raise ValueError("a range without an end")
    return max(0, ceil(count))


def given(inputs: Inputs, slot: int) -> Param:
    param = inputs[slot]
    if param is None:
        raise ValueError("a required input is left out")
    return param


def _integers(inputs: Inputs, slot: int) -> list[int]:
    param = given(inputs, slot)
    if param.size > 64:
        raise ValueError("a shape of more than 64 dimensions")
    return [int(value) for value in param.array().ravel()]


_BINARY = {"Add", "Sub", "Mul", "Div", "Pow", "Equal", "Greater", "Less", "And", "Or"}
_BROADCAST = {*_BINARY, "Max", "Min", "Sum", "Mean", "Where", "GreaterOrEqual", "LessOrEqual"}
_UNARY = {
    "Abs", "Cast", "CastLike", "Ceil", "Clip", "CumSum", "Erf", "Exp", "Floor", "Log", "Neg", "Not", "Reciprocal",
    "Relu", "Round", "Sigmoid", "Sign", "Sqrt", "Tanh", "Trilu",
}  # fmt: skip
_REDUCED = {
    "ReduceL1",
    "ReduceL2",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
}
_VIEWS = {"Flatten", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
_MOVES = {*_VIEWS, "Concat", "Expand", "Gather", "Tile", "Trilu"}

#: The operators that are evaluated.
SIZES: Mapping[str, Size] = {
    **dict.fromkeys(_BROADCAST, _broadcast),
    **dict.fromkeys(_UNARY, _first),
    **dict.fromkeys(_REDUCED, _first),
    **dict.fromkeys(_VIEWS, _view),
    "Concat": _sum,
    "ConstantOfShape": _filled,
    "Expand": _expand,
    "Gather": _gather,
    "MatMul": _product,
    "Range": _range,
    "Shape": _small,
    "Size": _small,
    "Tile": _tile,
}

#: Inputs of which the type alone matters.
_TYPE_ONLY: Mapping[str, tuple[int, ...]] = {"CastLike": (1,)}


def result_size(op: Op, inputs: Inputs, opset: int) -> int | None:
    """How many elements the outputs have together that are not views of an input; None for operators not computed.

    Raises ValueError, LookupError or TypeError where the inputs are none that the operator allows.
    """
    if op.type not in SIZES or (op.type in _BINARY and opset < 7):
        return None  # before opset 7, axis and broadcast attributes lined the operands up
    return SIZES[op.type](op, inputs)


def shape_read(graph: ModelGraph, op: Op) -> Op | None:
    """The Shape that an operator is or reads a part of, by constants that nothing computes; None for any other."""
    if op.type == "Shape":
        return op
    if op.type not in ("Gather", "Slice") or any(_is_computed(graph, tensor) for tensor in op.inputs[1:]):
        return None
    source = graph.producer(op.inputs[0])
    return source if source is not None and source.type == "Shape" and not source.domain else None


def _is_computed(graph: ModelGraph, tensor: str) -> bool:
    producer = graph.producer(tensor)
    return graph.constant(tensor) is None if producer is None or not producer.inputs else True


def is_copy(op: Op) -> bool:
    """Is the result the first input itself? It need not be read."""
    return op.type == "Identity"


def moves(op: Op) -> bool:
    """Does it put values elsewhere, and compute none?"""
    return op.type in _MOVES


def type_only(op: Op) -> tuple[int, ...]:
    """The slots whose values do not matter."""
    return _TYPE_ONLY.get(op.type, ())


def check_operands(op: Op, values: list[Array]) -> None:
    """Raise ValueError for operands on which implementations do not agree."""
    # ONNX truncates where numpy rounds down, and dividing by zero has no value.
    if op.type == "Div" and values[0].dtype.kind in "iu" and (values[0].min() < 0 or values[1].min() <= 0):
        raise ValueError("an integer division of a negative number or by zero")
