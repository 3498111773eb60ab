"""Is a constant still good in its own dtype after folding?"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnfold.graph import BLOCK_BYTES, Array, Derived, Limits, Param, float_limits


def overflow_code(dtype: np.dtype[Any]) -> str:
    """The code of a refusal to round to ``dtype``."""
    return "fp16-overflow" if dtype.name == "float16" else "overflow"


def scale_fault(scale: NDArray[np.float64], dtype: np.dtype[Any]) -> str | None:
    """Why a vector of scales does not survive rounding to ``dtype``: one of them would vanish; or None."""
    sizes = np.abs(scale[scale != 0])
    if (sizes < float_limits(dtype).smallest_normal).any():
        return f"a scale would vanish in {dtype.name} ({sizes.min():.3g})"
    return None


def rounding_fault(param: Param, channel_axis: int = 0) -> str | None:
    """Why the exact values of a new constant do not survive rounding to its dtype, or None.

    Two things refuse a fold: a value that is not finite after rounding, and a channel (along
    ``channel_axis``) whose largest weight falls below the smallest normal number, so that all of the
    channel's weights lose precision or vanish. Vectors (biases) are held to the first alone.
    """
    if not param.is_float or not param.size:
        return None
    limits = float_limits(param.dtype)
    # Small products are formed faster than bounds of them are found.
    if param.nbytes <= BLOCK_BYTES:
        safe = _all_normal(param.exact(), limits)
    else:
        safe = isinstance(param.data, Derived) and _clearly_safe(param.data, limits, channel_axis)
    if safe:
        return None
    peaks = _channel_peaks(param, channel_axis)
    # A NaN is in no range.
    largest = np.maximum.reduce(peaks)
    if largest <= limits.largest and (len(param.shape) < 2 or np.minimum.reduce(peaks) >= limits.smallest_normal):
        return None
    name = param.dtype.name
    if not np.isfinite(peaks).all():
        return "the weights are not finite"
    if (peaks > limits.largest).any():
        return f"the folded weights would overflow {name} ({peaks.max():.3g} is above {limits.largest:.3g})"
    if len(param.shape) > 1 and ((peaks > 0) & (peaks < limits.smallest_normal)).any():
        low = peaks[peaks > 0].min()
        return f"the folded weights of a channel would vanish in {name} (its largest is {low:.3g})"
    return None


def _all_normal(values: NDArray[np.float64], limits: Limits) -> bool:
    """Are they all normal numbers? A NaN is in no range."""
    sizes = np.abs(values)
    smallest, largest = np.minimum.reduce(sizes, axis=None), np.maximum.reduce(sizes, axis=None)
    return bool(smallest >= limits.smallest_normal and largest <= limits.largest)


def _channel_peaks(param: Param, channel_axis: int) -> NDArray[np.float64]:
    """The largest magnitude of each channel, in float64, before rounding."""
    if not param.shape:
        return np.abs(param.exact()).reshape(1)
    if len(param.shape) == 1:
        return np.abs(param.exact())
    others = tuple([axis for axis in range(1, len(param.shape)) if axis != channel_axis])
    rows = []
    for start, stop in param.row_blocks():
        block = np.abs(param.exact_rows(start, stop))
        rows.append(np.maximum.reduce(block, axis=others) if others else block)
    peaks = np.concatenate(rows) if len(rows) > 1 else rows[0]
    return peaks if channel_axis == 0 or peaks.ndim == 1 else np.asarray(peaks.max(axis=0))


def _clearly_safe(source: Derived, limits: Limits, channel_axis: int) -> bool:
    """A bound from the stored weights alone, so that no product is formed where factors are moderate."""
    low = high = 1.0
    for is_factor, factor in source.steps:
        if not is_factor:
            return False
        size = np.abs(factor)
        if not np.isfinite(size).all() or not size.all():
            return False
        low, high = low * float(size.min()), high * float(size.max())
    extent = source.base.extent or _extent(source.base)
    if extent is None:
        return False
    source.base.note_extent(extent)
    bottom, top = extent
    # Rows are channels along axis 0 only. Along another axis a channel may be smaller than every row,
    # which the exponent range of float32 and wider leaves room for.
    margin = 1.0 if channel_axis == 0 else 2.0**40
    return top * high < limits.largest and bottom * low > limits.smallest_normal * margin


def _extent(param: Param) -> tuple[float, float] | None:
    """The smallest of the largest magnitudes of its rows that are not zero, and the largest; None if not finite."""
    top, bottom = 0.0, np.inf
    for start, stop in param.row_blocks():
        peaks = _row_peaks(param.data.rows(start, stop))
        if not np.isfinite(peaks).all():
            return None
        top = max(top, float(peaks.max(initial=0.0)))
        bottom = min(bottom, float(peaks[peaks > 0].min(initial=np.inf)))
    return bottom, top


def _row_peaks(rows: Array) -> NDArray[np.float64]:
    flat = rows.reshape(rows.shape[0], -1)
    if flat.dtype.kind != "f":
        flat = flat.astype(np.float32)  # bfloat16 has no fast extrema
    return np.asarray(np.maximum(flat.max(axis=1, initial=0), -flat.min(axis=1, initial=0)), dtype=np.float64)
