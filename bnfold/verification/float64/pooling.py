"""Pooling."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from bnfold.graph import Array
from bnfold.verification.float64.registry import Call, operator
from bnfold.verification.float64.windows import Geometry, geometry, padded, windows


def _spans(shape: Geometry) -> Any:
    """For each position in the kernel, where it lies in the padded input for all windows."""
    axes = zip(shape.kernel, shape.dilations, shape.strides, shape.output, strict=True)
    each = [[slice(k * d, k * d + s * (o - 1) + 1, s) for k in range(n)] for n, d, s, o in axes]
    return itertools.product(*each)


@operator("MaxPool")
def _max_pool(call: Call) -> Any:
    x = call.inputs[0]
    shape = geometry(call, x.shape[2:], call.attributes["kernel_shape"])
    lowest = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    whole = padded(x, shape, lowest)
    result = np.full((*x.shape[:2], *shape.output), lowest, x.dtype)
    for region in _spans(shape):
        np.maximum(result, whole[(slice(None), slice(None), *region)], out=result)
    return (result, _indices(call, x, whole, shape)) if call.wants(1) else result


def _indices(call: Call, x: Array, whole: Array, shape: Geometry) -> Array:
    """Where each maximum stands in the flattened input, the first of equal ones."""
    view = windows(whole, shape)
    rank = len(shape.kernel)
    flat = view.reshape(*view.shape[: 2 + rank], -1)
    place = np.unravel_index(flat.argmax(axis=-1), shape.kernel)
    spatial = []
    for axis in range(rank):
        starts = np.arange(shape.output[axis]) * shape.strides[axis] - shape.before[axis]
        starts = starts.reshape([-1 if index == axis else 1 for index in range(rank)])
        spatial.append(starts + place[axis] * shape.dilations[axis])
    if call.attribute("storage_order", 0):
        inside = np.ravel_multi_index(tuple(spatial[::-1]), x.shape[2:][::-1], mode="clip")
    else:
        inside = np.ravel_multi_index(tuple(spatial), x.shape[2:], mode="clip")
    planes = np.arange(x.shape[0] * x.shape[1]).reshape(*x.shape[:2], *[1] * rank)
    return np.asarray(planes * int(np.prod(x.shape[2:])) + inside, np.int64)


@operator("AveragePool")
def _average_pool(call: Call) -> Any:
    x = call.inputs[0]
    shape = geometry(call, x.shape[2:], call.attributes["kernel_shape"])
    whole = padded(x, shape, 0.0)
    counted = np.ones((1, 1, *x.shape[2:]))
    if call.attribute("count_include_pad", 0):
        # What ceil_mode adds beyond the stated padding does not count.
        pads = [(0, 0), (0, 0), *zip(shape.before, shape.stated, strict=True)]
        counted = np.pad(counted, pads, constant_values=1.0)
        more = [(0, 0), (0, 0), *((0, a - b) for a, b in zip(shape.after, shape.stated, strict=True))]
        counted = np.pad(counted, more)
    else:
        counted = padded(counted, shape, 0.0)
    total, count = np.zeros((*x.shape[:2], *shape.output)), np.zeros((1, 1, *shape.output))
    for region in _spans(shape):
        total += whole[(slice(None), slice(None), *region)]
        count += counted[(slice(None), slice(None), *region)]
    return total / count


@operator("LpPool")
def _lp_pool(call: Call) -> Any:
    x, p = call.inputs[0], call.attribute("p", 2)
    shape = geometry(call, x.shape[2:], call.attributes["kernel_shape"])
    whole = padded(np.abs(x) ** p, shape, 0.0)
    return sum(whole[(slice(None), slice(None), *region)] for region in _spans(shape)) ** (1.0 / p)


def _spatial(x: Array) -> tuple[int, ...]:
    return tuple(range(2, x.ndim))


@operator("GlobalAveragePool")
def _global_average(call: Call) -> Any:
    return call.inputs[0].mean(axis=_spatial(call.inputs[0]), keepdims=True)


@operator("GlobalMaxPool")
def _global_max(call: Call) -> Any:
    return call.inputs[0].max(axis=_spatial(call.inputs[0]), keepdims=True)


@operator("GlobalLpPool")
def _global_lp(call: Call) -> Any:
    x, p = call.inputs[0], call.attribute("p", 2)
    return (np.abs(x) ** p).sum(axis=_spatial(x), keepdims=True) ** (1.0 / p)


@operator("MaxUnpool")
def _max_unpool(call: Call) -> Any:
    """Every value at the place its index names, in the whole flattened output."""
    x, places = call.inputs[:2]
    rank = x.ndim - 2
    kernel, pads = call.attributes["kernel_shape"], call.attribute("pads", [0] * (2 * rank))
    strides = call.attribute("strides", [1] * rank)
    natural = [
        s * (n - 1) + k - pads[i] - pads[i + rank]
        for i, (n, s, k) in enumerate(zip(x.shape[2:], strides, kernel, strict=True))
    ]
    small = (*x.shape[:2], *natural)
    wanted = small if call.get(2) is None else tuple(int(size) for size in call.get(2))
    flat = np.zeros(int(np.prod(wanted)), x.dtype)
    if wanted != small:
        # Indices count in the natural output, which stands at the beginning of a larger one.
        places = np.ravel_multi_index(np.unravel_index(places, small), wanted)
    flat[np.ravel(places)] = np.ravel(x)
    return flat.reshape(wanted)
