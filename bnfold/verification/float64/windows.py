"""The geometry that convolutions and poolings share: paddings, and views of all windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import as_strided

from bnfold.graph import Array
from bnfold.verification.float64.registry import Call, NotEvaluatedError


@dataclass(frozen=True, slots=True)
class Geometry:
    """Sizes along the spatial axes; ``after`` includes what ``ceil_mode`` adds to the ``stated`` padding."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    stated: tuple[int, ...]
    output: tuple[int, ...]


def geometry(call: Call, spatial: Sequence[int], kernel: Sequence[int]) -> Geometry:
    """Of a convolution or pooling over an input with these spatial sizes."""
    rank = len(spatial)
    strides = tuple(call.attribute("strides", [1] * rank))
    dilations = tuple(call.attribute("dilations", [1] * rank))
    pads = call.attribute("pads", [0] * (2 * rank))
    auto, ceil = call.attribute("auto_pad", "NOTSET"), bool(call.attribute("ceil_mode", 0))
    before, stated, after, output = [], [], [], []
    for axis, size in enumerate(spatial):
        reach, stride = dilations[axis] * (kernel[axis] - 1) + 1, strides[axis]
        first, last = pads[axis], pads[axis + rank]
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            total = max((-(-size // stride) - 1) * stride + reach - size, 0)
            first = total // 2 if auto == "SAME_UPPER" else total - total // 2
            last = total - first
        elif auto == "VALID":
            first = last = 0
        free = size + first + last - reach
        count = (-(-free // stride) if ceil else free // stride) + 1
        if ceil and (count - 1) * stride >= size + first:
            count -= 1  # A window that begins in the padding behind the input is none.
        if count < 1:
            raise NotEvaluatedError(f"{call.op_type} has a window larger than its input")
        before.append(first)
        stated.append(last)
        after.append(max(last, (count - 1) * stride + reach - size - first))
        output.append(count)
    return Geometry(tuple(kernel), strides, dilations, tuple(before), tuple(after), tuple(stated), tuple(output))


def padded(x: Array, shape: Geometry, value: float) -> Array:
    """``x`` (N, C, *spatial) with its padding."""
    pads = [(0, 0), (0, 0), *zip(shape.before, shape.after, strict=True)]
    if not any(map(any, pads)):
        return x
    return np.pad(x, pads, constant_values=np.asarray(value, x.dtype))


def windows(x: Array, shape: Geometry) -> Array:
    """All windows of a padded ``x``, as a view: (N, C, *output, *kernel)."""
    steps = x.strides[2:]
    outer = tuple(step * stride for step, stride in zip(steps, shape.strides, strict=True))
    inner = tuple(step * dilation for step, dilation in zip(steps, shape.dilations, strict=True))
    return as_strided(x, x.shape[:2] + shape.output + shape.kernel, x.strides[:2] + outer + inner, writeable=False)
