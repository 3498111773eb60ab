"""How far a tensor is from another one, in each slice of each axis.

A channel that is small beside the others shows a fault only where it is measured by its own size. Which axis
the channels lie along need not be known: every slice along every axis is looked at, and the whole.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bnfold.graph import Array

Vector = NDArray[np.float64]
#: Axes longer than this have no channels: their slices are too many, and too short to say anything.
_LONGEST = 1 << 16


@dataclass(frozen=True, slots=True)
class Slices:
    """A difference, slice by slice: the whole first, then the slices of axis 0, of axis 1 and so on.

    ``size`` is the root mean square (rms) of the reference, ``rms`` that of the difference, ``mean`` the
    difference's mean, and ``along`` the part of it that is a multiple of the reference, as an rms too: a
    wrong factor is all in that, a wrong shift all in the mean, and rounding hardly in either.
    ``count`` are the numbers of elements, ``axis`` the axes (−1: the whole).
    """

    axis: NDArray[np.int64]
    count: Vector
    size: Vector
    rms: Vector
    mean: Vector
    along: Vector

    def worst(self, allowed: Vector) -> tuple[float, int]:
        """The largest rms in units of what is allowed, and where."""
        ratio = np.divide(self.rms, allowed, out=np.where(self.rms > 0, math.inf, 0.0), where=allowed > 0)
        at = int(ratio.argmax())
        return float(ratio[at]), at

    def place(self, at: int) -> str:
        """A slice in words, with its axis."""
        axis = int(self.axis[at])
        if axis < 0:
            return "the whole"
        return f"index {at - int(np.flatnonzero(self.axis == axis)[0])} of axis {axis}"


def slices(reference: Array, difference: Array) -> Slices:
    """Both float64 and of one shape; what is not finite in either counts as 0."""
    finite = np.isfinite(reference) & np.isfinite(difference)
    if not finite.all():
        reference, difference = np.where(finite, reference, 0.0), np.where(finite, difference, 0.0)
    peak = max(float(np.abs(reference).max(initial=0.0)), float(np.abs(difference).max(initial=0.0)))
    # Squares neither overflow nor vanish.
    unit = 1.0 if 1e-100 < peak < 1e100 or peak == 0.0 else peak
    reference, difference = (
        reference / unit if unit != 1.0 else reference,
        difference / unit if unit != 1.0 else difference,
    )
    parts = [difference, difference * difference, reference * reference, reference * difference]
    axes = [-1, *(axis for axis, size in enumerate(reference.shape) if 1 < size <= _LONGEST and reference.ndim > 1)]
    kind, counts, columns = [], [], []
    for axis in axes:
        others = tuple(other for other in range(reference.ndim) if other != axis)
        sums = [np.atleast_1d(part.sum(axis=others)) for part in parts]
        kind.append(np.full(sums[0].size, axis))
        counts.append(np.full(sums[0].size, max(1, reference.size // max(1, sums[0].size)), np.float64))
        columns.append(sums)
    total, noise, signal, product = (np.concatenate(column) for column in zip(*columns, strict=True))
    count = np.concatenate(counts)
    # A slice may be so much smaller than the rest that its squares do vanish: then there is nothing to compare.
    total, product = (np.where(noise > 0, part, 0.0) for part in (total, product))
    size = np.sqrt(signal / count)
    along = np.divide(product, np.sqrt(signal * count), out=np.zeros_like(product), where=signal > 0)
    rms = np.sqrt(noise / count)
    return Slices(np.concatenate(kind), count, size * unit, rms * unit, total / count * unit, along * unit)
