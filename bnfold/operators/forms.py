"""The fewest operators that compute an affine, where one has to stand in the graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnfold.affine import Affine
from bnfold.graph import ModelGraph, Param
from bnfold.operators.base import NewOp, Placeholder, load_domain, rank_of
from bnfold.refusal import Refusal

DATA = Placeholder.DATA
Form = list[NewOp]
Builder = Callable[[ModelGraph, str, Affine, "np.dtype[Any]"], Form | Refusal]
_BUILDERS: dict[str, Builder] = {}


def builder(format: str) -> Callable[[Builder], Builder]:
    """Decorator: this function builds affines for graphs of that format."""

    def enter(function: Builder) -> Builder:
        _BUILDERS[format] = function
        return function

    return enter


def cheapest_form(graph: ModelGraph, tensor: str, affine: Affine, dtype: np.dtype[Any]) -> Form | Refusal:
    """Operators, in order, that compute ``affine`` of ``tensor``: none for an identity.

    Each reads :data:`DATA` where its predecessor's output goes. ``dtype`` is the tensor's.
    """
    if affine.is_identity:
        return []
    load_domain(graph.format)
    return _BUILDERS[graph.format](graph, tensor, affine, dtype)


def _operand(affine: Affine, values: NDArray[np.float64], rank: int, dtype: np.dtype[Any], name: str) -> Param:
    """A constant that broadcasts from the right against a tensor of that rank."""
    shape = [1] * rank
    for axis, size in affine.axes:
        shape[axis] = size
    first = next((axis for axis, size in enumerate(shape) if size != 1), rank)
    return Param.of(name, values.reshape(shape[first:]), dtype)


@builder("onnx")
def onnx_form(graph: ModelGraph, tensor: str, affine: Affine, dtype: np.dtype[Any]) -> Form | Refusal:
    """Mul, Add, one BatchNormalization where the channels are on axis 1, or Mul and Add."""
    # A number needs no rank to be broadcast against.
    rank = 0 if affine.axis is None else rank_of(graph, tensor)
    if rank is None:
        return Refusal("unknown-rank", f"{tensor} has an unknown rank, so no constant can be shaped for it")
    if graph.opsets.get("", 99) < 7:
        return Refusal("old-opset", "before opset 7 constants broadcast by other rules")
    scale = _operand(affine, affine.scale, rank, dtype, f"{tensor}_scale")
    shift = _operand(affine, affine.shift, rank, dtype, f"{tensor}_shift")
    if affine.is_scale:
        return [NewOp("Mul", (DATA, scale))]
    if affine.is_shift:
        return [NewOp("Add", (DATA, shift))]
    # Two numbers are no normalisation: a scaled input or a decomposed activation stays what it was.
    if affine.axis != 1 or affine.grid or dtype.name not in ("float16", "float32", "float64"):
        return [NewOp("Mul", (DATA, scale)), NewOp("Add", (DATA, shift))]
    vectors = {"scale": affine.scale, "bias": affine.shift}
    vectors |= {"mean": np.zeros(affine.size), "variance": np.ones(affine.size)}
    params = [Param.of(f"{tensor}_{name}", vector, dtype) for name, vector in vectors.items()]
    return [NewOp("BatchNormalization", (DATA, *params), {"epsilon": 0.0})]


#: For each format the operators for ``a + b``, ``a - b`` and ``a + b + c``.
_SUMS = {"onnx": ("Add", "Sub", "Sum"), "keras": ("Add", "Subtract", "Add")}
_DOMAINS = {"onnx": "", "keras": "keras"}


def identity_form(format: str) -> NewOp:
    """The operator that does nothing, where one has to stand."""
    return NewOp("Identity", (DATA,), domain=_DOMAINS[format])


def sum_form(format: str, tensors: Sequence[str], sign: float) -> NewOp:
    """The operator that adds tensors or, for a negative sign, subtracts the second one from the first."""
    plus, minus, many = _SUMS[format]
    kind = (many if len(tensors) > 2 else plus) if sign > 0 else minus
    return NewOp(kind, tuple(tensors), domain=_DOMAINS[format])


def can_add(graph: ModelGraph, tensor: str, rank: int | None) -> bool:
    """Can :func:`sum_form` read this tensor, in a sum of that rank? Keras's layers read no constants."""
    return graph.format != "keras" or (graph.constant(tensor) is None and graph.rank(tensor) == rank)
