"""Reductions, cumulative sums, and softmax."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from bnfold.graph import Array
from bnfold.verification.float64.registry import OPERATORS, Call, operator, positive_axis


def _log_sum_exp(x: Array, axis: Any, keepdims: bool) -> Any:
    top = np.max(x, axis=axis, keepdims=True, initial=-np.inf)
    top = np.where(np.isfinite(top), top, 0.0)
    total = np.log(np.sum(np.exp(x - top), axis=axis, keepdims=True)) + top
    return total if keepdims else total.reshape(np.sum(x, axis=axis, keepdims=False).shape)


def _extreme(function: Callable[..., Any], largest: bool) -> Callable[..., Any]:
    def reduce(x: Array, axis: Any, keepdims: bool) -> Any:
        if x.size:
            return function(x, axis=axis, keepdims=keepdims)
        bound = np.inf if largest else -np.inf
        if x.dtype.kind == "b":
            return function(x, axis=axis, keepdims=keepdims, initial=largest)
        if x.dtype.kind != "f":
            limits = np.iinfo(x.dtype)
            bound = limits.max if largest else limits.min
        return function(x, axis=axis, keepdims=keepdims, initial=bound)

    return reduce


REDUCTIONS: dict[str, Callable[..., Any]] = {
    "ReduceL1": lambda x, **how: np.sum(np.abs(x), **how),
    "ReduceL2": lambda x, **how: np.sqrt(np.sum(np.square(x), **how)),
    "ReduceLogSum": lambda x, **how: np.log(np.sum(x, **how)),
    "ReduceLogSumExp": _log_sum_exp,
    "ReduceMax": _extreme(np.max, False),
    "ReduceMean": np.mean,
    "ReduceMin": _extreme(np.min, True),
    "ReduceProd": np.prod,
    "ReduceSum": np.sum,
    "ReduceSumSquare": lambda x, **how: np.sum(np.square(x), **how),
}


def _reduction(name: str) -> Callable[[Call], Any]:
    function = REDUCTIONS[name]

    def evaluate(call: Call) -> Any:
        x = call.inputs[0]
        axes = call.numbers(1, "axes")
        if not axes and call.attribute("noop_with_empty_axes", 0):
            # Nothing is added up, but what the operator does to each element it still does.
            return function(x[None], axis=0, keepdims=False).astype(x.dtype)
        result = function(x, axis=tuple(axes) if axes else None, keepdims=bool(call.attribute("keepdims", 1)))
        return np.asarray(result).astype(x.dtype)

    return evaluate


for _name in REDUCTIONS:
    OPERATORS["", _name] = _reduction(_name)


@operator("CumSum", "CumProd")
def _cumulative(call: Call) -> Any:
    x, axis = call.inputs[0], int(np.ravel(call.inputs[1])[0])
    back = bool(call.attribute("reverse", 0))
    moved = np.moveaxis(x, axis, 0)
    moved = moved[::-1] if back else moved
    adds = call.op_type == "CumSum"
    total = (np.cumsum if adds else np.cumprod)(moved, axis=0, dtype=x.dtype)
    if call.attribute("exclusive", 0):
        total = np.concatenate([np.full_like(total[:1], 0 if adds else 1), total[:-1]])
    return np.moveaxis(total[::-1] if back else total, 0, axis)


@operator("Softmax", "LogSoftmax", "Hardmax")
def _softmax(call: Call) -> Any:
    """From opset 13 on along one axis, before over all axes from one on."""
    x = call.inputs[0]
    if call.version >= 13:
        return _along(call.op_type, x, call.attribute("axis", -1))
    axis = positive_axis(call.attribute("axis", 1), x.ndim)
    flat = x.reshape(prod(x.shape[:axis]), -1) if x.size else x
    return _along(call.op_type, flat, -1).reshape(x.shape)


def _along(kind: str, x: Array, axis: int) -> Array:
    if not x.size:
        return x
    if kind == "Hardmax":
        hot = np.zeros(x.shape)
        np.put_along_axis(hot, np.expand_dims(np.argmax(x, axis), axis), 1.0, axis)
        return hot
    shifted = x - np.max(x, axis=axis, keepdims=True)
    if kind == "LogSoftmax":
        return np.asarray(shifted - np.log(np.sum(np.exp(shifted), axis=axis, keepdims=True)))
    parts = np.exp(shifted)
    return np.asarray(parts / np.sum(parts, axis=axis, keepdims=True))
