"""The values of operators that stand on constants alone, by onnx's reference implementation.

Only operators are evaluated of which :mod:`bnfold.operators.onnx.constants` tells the size of the result, and
only where that is bounded: a file of a few bytes may ask for a constant of many gigabytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from onnx import NodeProto, helper

from bnfold.formats.onnx.attributes import Attributes, attribute_protos
from bnfold.formats.onnx.context import Context
from bnfold.formats.onnx.tensors import ELEMENT_TYPES
from bnfold.graph import Array, Evaluator, ModelGraph, Op, Param, float_limits, is_float
from bnfold.operators.onnx.constants import Inputs, check_operands, is_copy, moves, result_size, shape_read, type_only

#: The largest result of one operator, and the sum of all results of one model: so many bytes, and so many for each
#: byte that its own constants take. Weights that are standardised run through several operators.
MAX_RESULT_BYTES = 1 << 26
MAX_TOTAL_BYTES = 1 << 28
MAX_GROWTH = 16

#: So many roundings are one computation's own; what is farther off is another result.
_FEW = 64.0

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
        if inputs and inputs[0] is None and op.inputs[0]:
            return _known_sizes(graph, op, version)
        for slot in type_only(op):
            inputs = [*inputs[:slot], _typed(graph, op.input(slot)), *inputs[slot + 1 :]]
        if any(param is None and op.input(slot) for slot, param in enumerate(inputs)):
            return None
        if op.type == "Constant":
            return _constant(op)
        if is_copy(op) and inputs[0] is not None:
            return [inputs[0].renamed(op.outputs[0])]
        try:
            count = result_size(op, inputs, version)
            if count is None:
                return None
            # float64 and int64, the widest of what these operators give, have 8 bytes
            size = count * 8
            if not 0 <= size <= MAX_RESULT_BYTES or not _has_room(graph, spent + size):
                return None
            spent += size
            results = _run(op, [None if param is None else param.array() for param in inputs], version)
        except _FAILURES:
            return None
        if any(result.dtype not in ELEMENT_TYPES for result in results):
            return None
        exact = _unrounded(op, inputs, version, results)
        triples = zip(op.outputs, exact, results, strict=True)
        return [Param.of(name, value, rounded.dtype) for name, value, rounded in triples]

    return evaluate


def _has_room(graph: ModelGraph, size: int) -> bool:
    """May all results of a model together be that large?"""
    if size <= MAX_TOTAL_BYTES:
        return True
    while graph.parent is not None:
        graph = graph.parent
    stored = sum(param.size * param.dtype.itemsize for param in graph.params.values())
    return size <= MAX_TOTAL_BYTES + MAX_GROWTH * stored


def _known_sizes(graph: ModelGraph, op: Op, version: int) -> Sequence[Param] | None:
    """A Shape of a tensor that is no constant, or a part of one, where the graph knows all sizes that are asked for."""
    source = shape_read(graph, op)
    rank = None if source is None else graph.rank(source.input(0))
    if source is None or rank is None:
        return None
    axes = np.arange(rank)[source.attributes.get("start") : source.attributes.get("end")]
    if op is not source:
        others = [graph.constant(tensor) if tensor else None for tensor in op.inputs[1:]]
        try:
            (axes,) = _run(op, [axes, *[None if param is None else param.array() for param in others]], version)
        except _FAILURES:
            return None
    sizes = [graph.dim(source.input(0), axis) for axis in axes.ravel().tolist()]
    if None in sizes:
        return None
    return [Param.of(op.outputs[0], np.array(sizes, np.int64).reshape(axes.shape))]


def _typed(graph: ModelGraph, tensor: str) -> Param | None:
    """What stands for a tensor of which only the type matters."""
    dtype = graph.tensor(tensor).dtype
    return None if dtype is None else Param.of(tensor, np.zeros(1, dtype))


def _unrounded(op: Op, inputs: Inputs, version: int, results: list[Array]) -> list[Array]:
    """The results in float64, from inputs that were not rounded on the way: rounded once, where a weight is written.

    Where that is something else (a Floor, an overflow) the type matters, and what was computed in it counts.
    """
    if not any(is_float(result.dtype) and result.dtype != np.float64 for result in results):
        return results
    if moves(op) and not any(param is not None and param.is_rounded for param in inputs):
        return results  # what is stored is what they are
    arrays = [None if param is None else param.exact() if param.is_float else param.array() for param in inputs]
    try:
        found = [arrays[0]] if op.type in ("Cast", "CastLike") else _run(op, arrays, version)
    except _FAILURES:
        return results
    return [
        exact if exact is not None and _is_unrounded(exact, rounded) else rounded
        for exact, rounded in zip(found, results, strict=True)
    ]


def _is_unrounded(exact: Array, rounded: Array) -> bool:
    """May it be what ``rounded`` was computed from, but for some roundings?"""
    if not is_float(rounded.dtype) or exact.dtype != np.float64 or exact.shape != rounded.shape:
        return False
    wide = rounded.astype(np.float64)
    if np.array_equal(exact, wide, equal_nan=True):
        return False  # nothing was rounded, and a view of what is stored takes no memory
    near = _FEW * float_limits(rounded.dtype).eps
    largest = float(np.max(np.abs(wide), initial=0.0, where=np.isfinite(wide)))
    return bool(np.allclose(exact, wide, rtol=near, atol=near * largest, equal_nan=True))


def _run(op: Op, inputs: Sequence[Array | None], version: int) -> list[Array]:
    from onnx.reference import ReferenceEvaluator

    names = ["" if array is None else f"input_{slot}" for slot, array in enumerate(inputs)]
    outputs = [f"output_{slot}" for slot in range(len(op.outputs))]
    node = NodeProto(op_type=op.type, input=names, output=outputs, attribute=attribute_protos(op, version))
    opset = [helper.make_opsetid("", version)]
    function = helper.make_function("bnfold", op.type, [name for name in names if name], outputs, [node], opset)
    feeds = {name: array for name, array in zip(names, inputs, strict=True) if array is not None}
    check_operands(op, list(feeds.values()))
    with np.errstate(all="ignore"):
        results = ReferenceEvaluator(function).run(None, feeds, attributes={})
    return [np.asarray(result) for result in results]


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
