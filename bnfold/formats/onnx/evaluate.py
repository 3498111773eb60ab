"""The values of operators that stand on constants alone, by onnx's reference implementation.

Only operators of the table below are evaluated, and only after the size of the result is known to be
bounded: a file of a few bytes may ask for a constant of many gigabytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import ceil, isfinite, prod

import numpy as np
from onnx import NodeProto, helper

from bnfold.formats.onnx.attributes import Attributes, attribute_protos
from bnfold.formats.onnx.context import Context
from bnfold.formats.onnx.tensors import ELEMENT_TYPES
from bnfold.graph import Array, Evaluator, ModelGraph, Op, Param

#: The largest result of one operator, and the sum of all results of one model.
MAX_RESULT_BYTES = 1 << 26
MAX_TOTAL_BYTES = 1 << 28
#: How many multiplications one matrix product may take.
MAX_PRODUCTS = 1 << 30

Inputs = Sequence["Param | None"]
#: How many elements the outputs of an operator have together; views of an input count as none.
Size = Callable[[Op, Inputs], int]


def _first(op: Op, inputs: Inputs) -> int:
    return _given(inputs, 0).size


def _view(op: Op, inputs: Inputs) -> int:
    return 0


def _small(op: Op, inputs: Inputs) -> int:
    return len(_given(inputs, 0).shape) + 1


def _broadcast(op: Op, inputs: Inputs) -> int:
    return prod(np.broadcast_shapes(*(param.shape for param in inputs if param is not None)))


def _sum(op: Op, inputs: Inputs) -> int:
    return sum(param.size for param in inputs if param is not None)


def _gather(op: Op, inputs: Inputs) -> int:
    data, indices = _given(inputs, 0), _given(inputs, 1)
    axis: int = op.attributes.get("axis", 0)
    return data.size // max(1, data.shape[axis]) * indices.size


def _expand(op: Op, inputs: Inputs) -> int:
    return prod(np.broadcast_shapes(_given(inputs, 0).shape, tuple(_integers(inputs, 1))))


def _tile(op: Op, inputs: Inputs) -> int:
    return _given(inputs, 0).size * prod(_integers(inputs, 1))


def _product(op: Op, inputs: Inputs) -> int:
    a, b = _given(inputs, 0).shape, _given(inputs, 1).shape
    if len(a) < 2 or len(b) < 2:
        return max(prod(a), prod(b))
    size = prod(np.broadcast_shapes(a[:-2], b[:-2])) * a[-2] * b[-1]
    if size * a[-1] > MAX_PRODUCTS:
        raise ValueError("a product that takes long")
    return size


def _filled(op: Op, inputs: Inputs) -> int:
    return prod(_integers(inputs, 0))


def _range(op: Op, inputs: Inputs) -> int:
    start, limit, delta = (float(_given(inputs, slot).array().item()) for slot in range(3))
    count = (limit - start) / delta
    if not isfinite(count):
        raise ValueError("a range without an end")
    return max(0, ceil(count))


def _given(inputs: Inputs, slot: int) -> Param:
    param = inputs[slot]
    if param is None:
        raise ValueError("a required input is left out")
    return param


def _integers(inputs: Inputs, slot: int) -> list[int]:
    param = _given(inputs, slot)
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

#: What the reference implementation raises for inputs that the operator does not allow.
_FAILURES = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def evaluator(context: Context) -> Evaluator:
    """The ``evaluate`` of a model's graphs: the outputs of an operator on constants, or None."""
    spent = 0
    version = context.opsets.get("", 1)

    def evaluate(graph: ModelGraph, op: Op, inputs: Inputs) -> Sequence[Param] | None:
        nonlocal spent
        if op.domain:
            return None
        if op.type == "CastLike":
            inputs = [inputs[0], _typed(graph, op.input(1))]
        if any(param is None and op.input(slot) for slot, param in enumerate(inputs)):
            return None
        if op.type == "Constant":
            return _constant(op)
        if op.type == "Identity":
            return [_given(inputs, 0).renamed(op.outputs[0])]
        if op.type not in SIZES or (op.type in _BINARY and version < 7):
            return None  # before opset 7, axis and broadcast attributes lined the operands up
        try:
            # float64 and int64, the widest of what these operators give, have 8 bytes
            size = SIZES[op.type](op, inputs) * 8
            if not 0 <= size <= min(MAX_RESULT_BYTES, MAX_TOTAL_BYTES - spent):
                return None
            spent += size
            results = _run(op, inputs, version)
        except _FAILURES:
            return None
        if any(result.dtype not in ELEMENT_TYPES for result in results):
            return None
        return [Param.of(name, value) for name, value in zip(op.outputs, results, strict=True)]

    return evaluate


def _typed(graph: ModelGraph, tensor: str) -> Param | None:
    """What stands for a tensor of which only the type matters."""
    dtype = graph.tensor(tensor).dtype
    return None if dtype is None else Param.of(tensor, np.zeros(1, dtype))


def _run(op: Op, inputs: Inputs, version: int) -> list[Array]:
    from onnx.reference import ReferenceEvaluator

    names = ["" if param is None else f"input_{slot}" for slot, param in enumerate(inputs)]
    outputs = [f"output_{slot}" for slot in range(len(op.outputs))]
    node = NodeProto(op_type=op.type, input=names, output=outputs, attribute=attribute_protos(op, version))
    opset = [helper.make_opsetid("", version)]
    function = helper.make_function("bnfold", op.type, [name for name in names if name], outputs, [node], opset)
    feeds = {name: param.array() for name, param in zip(names, inputs, strict=True) if param is not None}
    _check_division(op, list(feeds.values()))
    with np.errstate(all="ignore"):
        results = ReferenceEvaluator(function).run(None, feeds, attributes={})
    return [np.asarray(result) for result in results]


def _check_division(op: Op, values: list[Array]) -> None:
    # ONNX truncates where numpy rounds down, and dividing by zero has no value.
    if op.type == "Div" and values[0].dtype.kind in "iu" and (values[0].min() < 0 or values[1].min() <= 0):
        raise ValueError("an integer division that implementations do not agree on")


def _constant(op: Op) -> Sequence[Param] | None:
    """The value of a Constant node; a large one is not read."""
    attributes, name = op.attributes, op.outputs[0]
    if isinstance(attributes, Attributes):
        param = attributes.param("value")
        if param is not None:
            return [param.renamed(name)]
    for key, dtype in _CONSTANTS.items():
        if key in attributes:
            return [Param.of(name, np.asarray(attributes[key], dtype))]
    return None


_CONSTANTS: Mapping[str, type | None] = {
    "value": None,
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
}
