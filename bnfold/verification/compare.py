"""How far two arrays are apart, and whether that is rounding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bnfold.graph import Array
from bnfold.verification.results import OutputCheck

#: The rounding unit that differences are judged in: part of the range that one rounding may move
#: a result by. The machine epsilon; a quarter of it for the short types, whose intermediate
#: results the runtime keeps in float32, so that their outputs are rounded once.
ROUNDING_UNIT = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-12, "bfloat16": 2.0**-9}
#: The fixed tolerance by dtype, as part of the range: the limit where the original's own noise
#: cannot be measured, and one of two limits under ``strict``.
TOLERANCE = {"float64": 1e-10, "float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
#: How many times its measured noise (or its rounding unit) a result may differ.
NOISE_FACTOR = 8.0
#: Elements looked at together, to bound memory.
_CHUNK = 1 << 20
#: Quantiles are taken of at most about this many elements.
_SAMPLE = 1 << 18


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What the caller allows: ``atol + rtol × range``. Both None: judged by rounding noise alone."""

    rtol: float | None = None
    atol: float | None = None
    strict: bool = False

    @property
    def given(self) -> bool:
        return self.rtol is not None or self.atol is not None

    def limit(self, dtype: str, span: float) -> float:
        """The largest difference allowed by the fixed tolerance, in the output's unit."""
        if self.given:
            return (self.atol or 0.0) + (self.rtol or 0.0) * span
        return TOLERANCE.get(dtype, 0.0) * span


@dataclass(frozen=True, slots=True)
class Deviation:
    """How one array differs from a reference of the same dtype.

    ``largest``, ``rms`` and ``typical`` (the 90th percentile) are of the absolute difference over
    the elements that are finite in both. ``low`` and ``high`` bound the reference's finite values.
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
    power: float = 0.0
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
    def has_finite(self) -> bool:
        return self.low <= self.high

    @property
    def exact_type(self) -> bool:
        return self.dtype not in ROUNDING_UNIT

    def amounts(self) -> tuple[float, float, float]:
        return self.largest, self.rms, self.typical


def deviation(reference: Array, other: Array) -> Deviation:
    """Compare two arrays element by element."""
    dtype = "string" if reference.dtype.kind in "OUS" else reference.dtype.name
    size = int(reference.size)
    if reference.dtype != other.dtype:
        return Deviation(dtype, size, fault=f"{other.dtype} instead of {reference.dtype}")
    if reference.shape != other.shape:
        return Deviation(dtype, size, fault=f"shape {list(other.shape)} instead of {list(reference.shape)}")
    if dtype not in ROUNDING_UNIT:
        mismatches = int(np.count_nonzero(reference != other))
        return Deviation(dtype, size, identical=not mismatches, mismatches=mismatches)
    return _of_floats(dtype, np.ravel(reference), np.ravel(other))


def _of_floats(dtype: str, reference: Array, other: Array) -> Deviation:
    identical, agree = True, True
    largest = squares = power = 0.0
    low, high = math.inf, -math.inf
    for start in range(0, reference.size, _CHUNK):
        mine, theirs = reference[start : start + _CHUNK], other[start : start + _CHUNK]
        identical = identical and mine.tobytes() == theirs.tobytes()
        a, b = mine.astype(np.float64), theirs.astype(np.float64)
        finite = np.isfinite(a)
        # Outside the finite values NaN must meet NaN and each infinity its like.
        agree = agree and bool(np.array_equal(finite, np.isfinite(b)))
        agree = agree and bool(np.array_equal(a[~finite], b[~finite], equal_nan=True))
        both = finite & np.isfinite(b)
        a, b = a[both], b[both]
        if a.size:
            difference = a - b
            largest = max(largest, float(np.abs(difference).max()))
            squares += float(np.dot(difference, difference))
            power += float(np.dot(a, a))
            low, high = min(low, float(a.min())), max(high, float(a.max()))
    size = int(reference.size)
    mean = 1.0 / max(1, size)
    typical = largest and _typical(reference, other)
    return Deviation(
        dtype, size, identical, "", agree, largest, math.sqrt(squares * mean), typical, power * mean, low, high
    )


def _typical(reference: Array, other: Array) -> float:
    """The 90th percentile of the absolute difference, of a regular sample where there are many elements."""
    step = reference.size // _SAMPLE + 1
    with np.errstate(invalid="ignore"):
        difference = np.abs(reference[::step].astype(np.float64) - other[::step].astype(np.float64))
    difference = difference[np.isfinite(difference)]
    return float(np.quantile(difference, 0.9)) if difference.size else 0.0


def factor(measured: Deviation, noise: Sequence[Deviation]) -> float:
    """The difference in units of noise: of the measured kind, and never less than the rounding unit.

    Largest, root mean square and typical difference are each held against their like. A network
    with a discrete decision in it (a rounding, an argmax) shows large noise in a few elements; a
    wrong weight of that size moves all of them, and so stands out in the other two.
    """
    unit = ROUNDING_UNIT[measured.dtype] * measured.span
    worst = 0.0
    for index, amount in enumerate(measured.amounts()):
        floor = max([unit, *(item.amounts()[index] for item in noise)])
        if amount > 0.0:
            worst = max(worst, amount / floor if floor > 0.0 else math.inf)
    return worst


def suspicious(measured: Deviation) -> bool:
    """Whether a difference is more than a few rounding units, so that the noise has to be measured."""
    if measured.exact_type:
        return measured.mismatches > 0
    return not measured.identical and factor(measured, ()) > NOISE_FACTOR


def judge(
    name: str,
    deviations: Sequence[Deviation],
    noises: Sequence[Sequence[Deviation] | None],
    tolerance: Tolerance,
) -> OutputCheck:
    """The verdict on one output from its deviations, one a feed.

    ``noises`` holds for each feed the deviations of the original from itself under jitter: empty
    where it was not measured because nothing called for it, None where that was not possible.
    """
    dtype = deviations[0].dtype
    fault = next((item.fault for item in deviations if item.fault), "")
    if fault:
        return OutputCheck(name, dtype, ok=False, identical=False, factor=math.inf, reason=f"{name} has {fault}")
    if all(item.exact_type for item in deviations):
        return _judge_exact(name, deviations, noises, tolerance)
    return _judge_floats(name, deviations, noises, tolerance)


def _judge_exact(
    name: str, deviations: Sequence[Deviation], noises: Sequence[Sequence[Deviation] | None], tolerance: Tolerance
) -> OutputCheck:
    """Integers must be equal, except that a flip at a tie which rounding alone also causes is not a fault."""
    dtype = deviations[0].dtype
    mismatches = sum(item.mismatches for item in deviations)
    flips = sum(max((noise.mismatches for noise in items or ()), default=0) for items in noises)
    total = sum(item.size for item in deviations)
    worst = mismatches / flips if flips else math.inf if mismatches else 0.0
    ok = not mismatches or (worst <= NOISE_FACTOR and not tolerance.strict and not tolerance.given)
    reason = ""
    if not ok:
        reason = f"{mismatches} of {total} values of {name} differ"
        reason += f", where rounding alone flips {flips}" if flips else ""
    return OutputCheck(
        name,
        dtype,
        ok,
        identical=not mismatches,
        mismatches=mismatches,
        max_rel=mismatches / max(1, total),
        noise=flips / max(1, total) if flips else None,
        factor=worst,
        reason=reason,
    )


def _judge_floats(
    name: str, deviations: Sequence[Deviation], noises: Sequence[Sequence[Deviation] | None], tolerance: Tolerance
) -> OutputCheck:
    dtype = deviations[0].dtype
    largest = max(item.largest for item in deviations)
    span = _common_span(deviations)
    limit = tolerance.limit(dtype, span)
    worst = max(factor(item, noise or ()) for item, noise in zip(deviations, noises, strict=True))
    agree = all(item.nonfinite_agree for item in deviations)
    unmeasured = any(noise is None for noise in noises)
    within_fixed = largest <= limit
    within_noise = within_fixed if unmeasured else worst <= NOISE_FACTOR
    ok = within_fixed if tolerance.given else within_noise
    if tolerance.strict:
        ok = within_fixed and within_noise
    measured = [item.largest for noise in noises for item in noise or ()]
    check = OutputCheck(
        name,
        dtype,
        ok and agree,
        identical=all(item.identical for item in deviations),
        max_abs=largest,
        max_rel=_ratio(largest, span),
        snr_db=_snr(deviations),
        nonfinite_agree=agree,
        tolerance=_ratio(limit, span),
        noise=_ratio(max(measured), span) if measured else None,
        factor=worst,
    )
    return check if check.ok else _with_reason(check)


def _with_reason(check: OutputCheck) -> OutputCheck:
    from dataclasses import replace

    if not check.nonfinite_agree:
        return replace(check, reason=f"NaN or infinity stand in other places in {check.name}")
    text = f"{check.name} differs by {check.max_rel:.1e} of its range"
    text += f" ({check.snr_db:.0f} dB)" if check.snr_db is not None else ""
    if check.noise is not None:
        text += f", {check.factor:.2g} times the original's rounding noise"
    if check.max_rel > check.tolerance:
        text += f", tolerance {check.tolerance:.1e}"
    return replace(check, reason=text)


def _common_span(deviations: Sequence[Deviation]) -> float:
    """The range of the reference over all feeds."""
    low = min(item.low for item in deviations)
    high = max(item.high for item in deviations)
    return Deviation("", 0, low=low, high=high).span


def _snr(deviations: Sequence[Deviation]) -> float | None:
    """Signal-to-noise ratio in dB over all feeds, None if there is no difference."""
    signal = sum(item.power * item.size for item in deviations)
    noise = sum(item.rms**2 * item.size for item in deviations)
    if noise == 0.0 or signal == 0.0:
        return None
    return 10.0 * math.log10(signal / noise)


def _ratio(amount: float, span: float) -> float:
    if amount == 0.0:
        return 0.0
    return amount / span if span > 0.0 else math.inf


def any_finite(values: Sequence[Any]) -> bool:
    """Whether at least one of the deviations saw a finite value, or a type that has no others."""
    return any(item.exact_type or item.has_finite or not item.size for item in values)
