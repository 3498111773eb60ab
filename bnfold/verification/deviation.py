"""How far two arrays are apart."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bnfold.graph import Array
from bnfold.verification.precision import EPSILON

#: Elements looked at together, to bound memory.
_CHUNK = 1 << 20
#: Quantiles are taken of at most about this many elements.
_SAMPLE = 1 << 16


@dataclass(frozen=True, slots=True)
class Deviation:
    """How one array differs from a reference of the same dtype.

    ``fault`` says why the elements could not be compared. ``largest``, ``rms`` and ``typical`` (the
    90th percentile) are of the absolute difference over the elements that are finite in both;
    ``signal`` is the reference's rms over the same. ``low`` and ``high`` bound its finite values.
    ``mismatches`` counts differing elements of types that are compared exactly.
    """

    dtype: str
    size: int
    identical: bool = False
    fault: str = ""
    nonfinite_agree: bool = True
    largest: float = 0.0
    rms: float = 0.0
    typical: float = 0.0
    signal: float = 0.0
    low: float = math.inf
    high: float = -math.inf
    mismatches: int = 0

    @property
    def span(self) -> float:
        """The reference's range, or its magnitude where it is one number."""
        if self.low > self.high:
            return 0.0
        return self.high - self.low if self.high > self.low else abs(self.high)

    @property
    def magnitude(self) -> float:
        """The reference's largest finite absolute value."""
        return max(abs(self.low), abs(self.high)) if self.low <= self.high else 0.0

    @property
    def informative(self) -> bool:
        """Whether there is anything to compare: not if the reference is NaN or infinite throughout."""
        return bool(self.fault) or self.exact_type or self.low <= self.high or not self.size

    @property
    def exact_type(self) -> bool:
        """Whether values of its type must be equal."""
        return self.dtype not in EPSILON

    def amounts(self) -> tuple[float, float, float]:
        return self.largest, self.rms, self.typical


#: Deviations by the name of the output and the index of the feed.
Measured = dict[str, dict[int, Deviation]]


def deviation(reference: Array, other: Array) -> Deviation:
    """Compare two arrays element by element."""
    dtype = "string" if reference.dtype.kind in "OUS" else reference.dtype.name
    size = int(reference.size)
    if reference.dtype != other.dtype:
        return Deviation(dtype, size, fault=f"{other.dtype} instead of {reference.dtype}")
    if reference.shape != other.shape:
        return Deviation(dtype, size, fault=f"shape {list(other.shape)} instead of {list(reference.shape)}")
    if dtype not in EPSILON:
        mismatches = int(np.count_nonzero(reference != other))
        return Deviation(dtype, size, identical=not mismatches, mismatches=mismatches)
    return _of_floats(dtype, np.ravel(reference), np.ravel(other))


def _of_floats(dtype: str, reference: Array, other: Array) -> Deviation:
    identical, agree = True, True
    largest = noise = signal = 0.0
    low, high = math.inf, -math.inf
    for start in range(0, reference.size, _CHUNK):
        mine, theirs = reference[start : start + _CHUNK], other[start : start + _CHUNK]
        identical = identical and mine.tobytes() == theirs.tobytes()
        a, b = mine.astype(np.float64), theirs.astype(np.float64)
        finite = np.isfinite(a)
        # Outside the finite values NaN must meet NaN and each infinity its like.
        agree = agree and bool(np.array_equal(a[~finite], b[~finite], equal_nan=True))
        if finite.any():
            low, high = min(low, float(a[finite].min())), max(high, float(a[finite].max()))
        both = finite & np.isfinite(b)
        agree = agree and bool(np.array_equal(both, finite))
        a, b = a[both], b[both]
        if a.size:
            difference = a - b
            largest = max(largest, float(np.abs(difference).max()))
            noise = math.hypot(noise, _norm(difference))
            signal = math.hypot(signal, _norm(a))
    mean = 1.0 / math.sqrt(max(1, reference.size))
    return Deviation(
        dtype,
        int(reference.size),
        identical,
        nonfinite_agree=agree,
        largest=largest,
        rms=noise * mean,
        typical=_typical(reference, other) if largest else 0.0,
        signal=signal * mean,
        low=low,
        high=high,
    )


def _norm(values: Array) -> float:
    """The Euclidean norm, without overflow in the squares."""
    peak = float(np.abs(values).max())
    return peak * math.sqrt(float(np.square(values / peak).sum())) if peak else 0.0


def _typical(reference: Array, other: Array) -> float:
    """The 90th percentile of the absolute difference, of a regular sample where there are many elements."""
    step = reference.size // _SAMPLE + 1
    with np.errstate(invalid="ignore"):
        difference = np.abs(reference[::step].astype(np.float64) - other[::step].astype(np.float64))
    difference = difference[np.isfinite(difference)]
    return float(np.quantile(difference, 0.9)) if difference.size else 0.0


def constant_outputs(measured: Measured) -> Iterator[str]:
    """Remarks on outputs that cannot show a difference."""
    for name, items in measured.items():
        low, high = min(item.low for item in items.values()), max(item.high for item in items.values())
        if low == high and len(items) > 1:
            yield f"{name} is {low:g} throughout on every feed, so that it cannot show a difference"
