"""Gathering, scattering, and finding places."""

from __future__ import annotations

from typing import Any

import numpy as np

from bnfold.graph import Array
from bnfold.verification.float64.registry import Call, NotEvaluatedError, operator, positive_axis


def _within(places: Array, size: int) -> Array:
    """Indices counted from 0."""
    result = np.where(places < 0, places + size, places)
    if result.size and (result.min() < 0 or result.max() >= size):
        raise NotEvaluatedError("an index is out of range")
    return result


@operator("Gather")
def _gather(call: Call) -> Any:
    x, places = call.inputs
    axis = call.attribute("axis", 0)
    return np.take(x, _within(places, x.shape[axis]), axis=axis)


@operator("GatherElements")
def _gather_elements(call: Call) -> Any:
    x, places = call.inputs
    axis = positive_axis(call.attribute("axis", 0), x.ndim)
    grid = list(np.indices(places.shape, sparse=True))
    grid[axis] = _within(places, x.shape[axis])
    return x[tuple(grid)]


@operator("GatherND")
def _gather_nd(call: Call) -> Any:
    x, places = call.inputs
    batch = call.attribute("batch_dims", 0)
    if not batch:
        return x[tuple(np.moveaxis(places, -1, 0))]
    shape = x.shape[:batch]
    flat, chosen = x.reshape(-1, *x.shape[batch:]), places.reshape(-1, *places.shape[batch:])
    parts = [one[tuple(np.moveaxis(at, -1, 0))] for one, at in zip(flat, chosen, strict=True)]
    return np.stack(parts).reshape(*shape, *parts[0].shape)


_COMBINED = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}


def _put(x: Array, where: Any, updates: Array, reduction: str) -> Array:
    result = x.copy()
    if reduction == "none":
        result[where] = updates
    else:
        _COMBINED[reduction].at(result, where, updates)
    return result


@operator("ScatterElements", "Scatter")
def _scatter_elements(call: Call) -> Any:
    x, places, updates = call.inputs
    axis = positive_axis(call.attribute("axis", 0), x.ndim)
    grid = list(np.indices(places.shape))
    grid[axis] = _within(places, x.shape[axis])
    return _put(x, tuple(grid), updates, call.attribute("reduction", "none"))


@operator("ScatterND")
def _scatter_nd(call: Call) -> Any:
    x, places, updates = call.inputs
    return _put(x, tuple(np.moveaxis(places, -1, 0)), updates, call.attribute("reduction", "none"))


@operator("TensorScatter")
def _tensor_scatter(call: Call) -> Any:
    raise NotEvaluatedError("TensorScatter is not known here")


@operator("ArgMax", "ArgMin")
def _arg(call: Call) -> Any:
    x, axis = call.inputs[0], call.attribute("axis", 0)
    find = np.argmax if call.op_type == "ArgMax" else np.argmin
    if call.attribute("select_last_index", 0):
        found = x.shape[axis] - 1 - find(np.flip(x, axis), axis=axis)
    else:
        found = find(x, axis=axis)
    return np.expand_dims(found, axis) if call.attribute("keepdims", 1) else found


@operator("TopK")
def _top_k(call: Call) -> Any:
    x = call.inputs[0]
    count = call.attribute("k") if call.version < 10 else int(np.ravel(call.inputs[1])[0])
    axis = positive_axis(call.attribute("axis", -1), x.ndim)
    largest = bool(call.attribute("largest", 1))
    # Unsigned integers have no negative.
    falling = np.iinfo(x.dtype).max - x if x.dtype.kind == "u" else -x
    keys = falling if largest else x
    # Stable: of equal values the one with the lower index comes first.
    order = np.argsort(keys, axis=axis, kind="stable").take(range(count), axis=axis)
    return np.take_along_axis(x, order, axis), order.astype(np.int64)


@operator("NonZero")
def _non_zero(call: Call) -> Any:
    x = call.inputs[0]
    return np.array(np.nonzero(np.atleast_1d(x)), np.int64).reshape(max(x.ndim, 1), -1)


@operator("Compress")
def _compress(call: Call) -> Any:
    x, condition = call.inputs
    axis = call.attribute("axis")
    return np.compress(condition, x, axis=axis) if axis is not None else np.compress(condition, np.ravel(x))


@operator("OneHot")
def _one_hot(call: Call) -> Any:
    places, depth, values = call.inputs
    size = int(np.ravel(depth)[0])
    axis = positive_axis(call.attribute("axis", -1), places.ndim + 1)
    whole = np.asarray(places).astype(np.int64)
    whole = np.where(whole < 0, whole + size, whole)
    line = np.arange(size).reshape([-1 if index == axis else 1 for index in range(places.ndim + 1)])
    return np.where(np.expand_dims(whole, axis) == line, values[1], values[0])


@operator("Unique")
def _unique(call: Call) -> Any:
    x, axis = call.inputs[0], call.attribute("axis")
    values, first, inverse, counts = np.unique(x, return_index=True, return_inverse=True, return_counts=True, axis=axis)
    inverse = np.ravel(inverse)
    if not call.attribute("sorted", 1):
        order = np.argsort(first)
        back = np.empty_like(order)
        back[order] = np.arange(order.size)
        values = np.take(values, order, axis=0 if axis is None else axis)
        first, counts, inverse = first[order], counts[order], back[inverse]
    return values, first.astype(np.int64), inverse.astype(np.int64), counts.astype(np.int64)
