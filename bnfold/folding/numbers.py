"""Is a constant still good in its own dtype after folding?"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from bnfold.graph import Array, Param, Scaled


def rounding_fault(param: Param, channel_axis: int = 0) -> str | None:
    """Why the exact values of a new constant do not survive rounding to its dtype, or None.

    Two things refuse a fold: a value that is not finite after rounding, and a channel (along
    ``channel_axis``) whose largest weight falls below the smallest normal number, so that all of the
    channel's weights lose precision or vanish.
    """
    if not param.is_float or not param.size:
        return None
    info = ml_dtypes.finfo(param.dtype)
    largest, smallest = float(info.max), float(info.smallest_normal)
    source = param.source
    if isinstance(source, Scaled):
        if _clearly_safe(source, largest, smallest):
            return None
    elif not param.shape:
        return _fault(np.abs(param.exact()).reshape(1), np.abs(param.exact()).reshape(1), largest, 0.0, param)
    peaks: NDArray[np.float64] | None = None
    for start, stop in param.row_blocks():
        block = np.abs(param.exact_rows(start, stop))
        others = tuple(axis for axis in range(block.ndim) if axis != channel_axis)
        here = block.max(axis=others) if block.ndim > 1 else block
        if channel_axis == 0:
            fault = _fault(here, here, largest, smallest if len(param.shape) > 1 else 0.0, param)
            if fault:
                return fault
        else:
            peaks = here if peaks is None else np.maximum(peaks, here)
    return None if peaks is None else _fault(peaks, peaks, largest, smallest if len(param.shape) > 1 else 0.0, param)


def _fault(
    peaks: NDArray[np.float64], channels: NDArray[np.float64], largest: float, smallest: float, param: Param
) -> str | None:
    name = param.dtype.name
    if not np.isfinite(peaks).all():
        return "the weights are not finite"
    if (peaks > largest).any():
        return f"the folded weights would overflow {name} ({peaks.max():.3g} is above {largest:.3g})"
    if ((channels > 0) & (channels < smallest)).any():
        low = channels[(channels > 0)].min()
        return f"the folded weights of a channel would vanish in {name} (its largest is {low:.3g})"
    return None


def _clearly_safe(source: Scaled, largest: float, smallest: float) -> bool:
    """A bound from the stored weights alone: no product is formed when the factors are moderate."""
    low = high = 1.0
    for factor in source.factors:
        size = np.abs(factor)
        if not np.isfinite(size).all() or not size.all():
            return False
        low, high = low * float(size.min()), high * float(size.max())
    top, bottom = 0.0, np.inf
    for start, stop in source.base.row_blocks():
        rows = source.base.source.rows(start, stop)
        peaks = _row_peaks(rows)
        if not np.isfinite(peaks).all():
            return False
        top = max(top, float(peaks.max(initial=0.0)))
        bottom = min(bottom, float(peaks[peaks > 0].min(initial=np.inf)))
    # A channel along another axis than the first may be smaller than any row: be content with rows
    # only where the weight's rows are its channels or everything is far from the limits.
    margin = 2.0**40 if largest > 1e30 else 2.0**4
    return top * high < largest / margin and bottom * low > smallest * margin


def _row_peaks(rows: Array) -> NDArray[Any]:
    flat = rows.reshape(rows.shape[0], -1)
    if flat.dtype.kind != "f":
        flat = flat.astype(np.float32)
    return np.maximum(flat.max(axis=1, initial=0), -flat.min(axis=1, initial=0))
