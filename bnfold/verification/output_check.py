"""One output of two models on all feeds: is the difference within a fixed tolerance, the original's noise, or both?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from bnfold.verification.deviation import Deviation
from bnfold.verification.precision import ROUNDOFF, TINY
from bnfold.verification.verdict import OutputCheck

#: What one rounding inside the model may do to a result, as part of the result's range. Less than
#: epsilon for the short types: the runtime keeps their intermediate results in float32.
ROUNDING_UNIT = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-12, "bfloat16": 2.0**-9}
#: The fixed tolerance by dtype, as part of the range: the limit where the original's own noise
#: cannot be measured, and one of two limits under ``strict``.
TOLERANCE = {"float64": 1e-10, "float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
#: A difference of so many rounding units passes without the noise being measured.
UNMEASURED_FACTOR = 8.0
#: How many times the measured noise a result may differ. Right rewritings of real networks were
#: seen to differ by up to 2.
NOISE_FACTOR = 4.0


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What the caller allows: ``atol + rtol × range``. Both None: judged by rounding noise alone."""

    rtol: float | None = None
    atol: float | None = None
    strict: bool = False

    @property
    def given(self) -> bool:
        return self.rtol is not None or self.atol is not None

    def accepts(self, within_limit: bool, within_noise: bool) -> bool:
        """Whether a difference passes, by the fixed limit, by the noise, or under ``strict`` by both."""
        if self.strict:
            return within_limit and within_noise
        return within_limit if self.given else within_noise

    def limit(self, dtype: str, span: float) -> float:
        """The largest difference allowed by the fixed tolerance, in the output's unit."""
        if self.given:
            return (self.atol or 0.0) + (self.rtol or 0.0) * span
        return TOLERANCE.get(dtype, 0.0) * span


def factor(measured: Deviation, noise: Sequence[Deviation]) -> float:
    """The difference in units of noise: of the measured kind, and never less than the rounding unit.

    Largest, root mean square and typical difference are each held against their like. A network
    with a discrete decision in it (a rounding, an argmax) shows large noise in a few elements; a
    wrong weight of that size moves all of them, and so stands out in the other two.
    """
    # No result can be closer than half the spacing of numbers of its magnitude.
    spacing = ROUNDOFF[measured.dtype] * measured.magnitude
    unit = max(ROUNDING_UNIT[measured.dtype] * measured.span, spacing, TINY[measured.dtype])
    worst = 0.0
    for index, amount in enumerate(measured.amounts()):
        floor = max([unit, *(item.amounts()[index] for item in noise)])
        worst = max(worst, amount / floor)
    return worst


class OnFeed(NamedTuple):
    """An output on one feed: how the second model's differs, and how the original's differs from itself under jitter.

    ``noise`` is empty where nothing called for it, None where it could not be measured.
    """

    feed: str
    deviation: Deviation
    noise: Sequence[Deviation] | None = None


def check_output(name: str, measured: Sequence[OnFeed], tolerance: Tolerance) -> OutputCheck:
    """The verdict on one output."""
    for feed, item, _ in measured:
        if item.fault:
            reason = f"{name} has {item.fault} on feed {feed!r}"
            return OutputCheck(name, item.dtype, False, False, factor=math.inf, feed=feed, reason=reason)
    judged = _of_exact_type if measured[0].deviation.exact_type else _of_floats
    return judged(name, measured, tolerance)


def _of_exact_type(name: str, measured: Sequence[OnFeed], tolerance: Tolerance) -> OutputCheck:
    """Integers must be equal, but a flip at a tie that rounding alone causes as well is not a fault.

    A caller who gives a tolerance or wants it strict gets no such allowance.
    """
    mismatches = sum(item.mismatches for _, item, _ in measured)
    total = sum(item.size for _, item, _ in measured)
    flips = sum(max((sample.mismatches for sample in noise or ()), default=0) for _, _, noise in measured)
    factor = mismatches / flips if flips else math.inf if mismatches else 0.0
    ok = not mismatches or (factor <= NOISE_FACTOR and not tolerance.strict and not tolerance.given)
    reason = "" if ok else f"{mismatches} of {total} values of {name} differ"
    if flips and not ok:
        reason += f" (rounding alone flips {flips})"
    return OutputCheck(
        name,
        measured[0].deviation.dtype,
        ok,
        identical=not mismatches,
        max_rel=mismatches / max(1, total),
        mismatches=mismatches,
        noise=flips / max(1, total) if flips else None,
        factor=factor,
        feed=measured[_argmax([item.mismatches for _, item, _ in measured])].feed,
        reason=reason,
    )


def _of_floats(name: str, measured: Sequence[OnFeed], tolerance: Tolerance) -> OutputCheck:
    deviations, noises = [item for _, item, _ in measured], [noise for _, _, noise in measured]
    factors = [factor(item, noise or ()) for _, item, noise in measured]
    agreeing = [item.nonfinite_agree for item in deviations]
    largest = max(item.largest for item in deviations)
    span = _common_span(deviations)
    limit = tolerance.limit(deviations[0].dtype, span)
    within_limit = largest <= limit
    is_limited = tolerance.given or tolerance.strict or None in noises
    # Where the noise could not be measured the fixed tolerance stands in for it.
    within_noise = all(
        within_limit if noise is None else value <= (NOISE_FACTOR if noise else UNMEASURED_FACTOR)
        for value, noise in zip(factors, noises, strict=True)
    )
    ok = tolerance.accepts(within_limit, within_noise)
    jittered = [sample.largest for noise in noises for sample in noise or ()]
    if jittered:
        # Units of measured noise and of rounding are not to be mixed: the former say more.
        factors = [value if noise else 0.0 for value, noise in zip(factors, noises, strict=True)]
    check = OutputCheck(
        name,
        deviations[0].dtype,
        ok and all(agreeing),
        identical=all(item.identical for item in deviations),
        max_abs=largest,
        max_rel=_ratio(largest, span),
        snr_db=_snr(deviations),
        nonfinite_agree=all(agreeing),
        tolerance=_ratio(limit, span) if is_limited else None,
        noise=_ratio(max(jittered), span) if jittered else None,
        factor=max(factors),
        feed=measured[_argmax(factors) if all(agreeing) else agreeing.index(False)].feed,
    )
    return check if check.ok else replace(check, reason=_reason(check))


def _reason(check: OutputCheck) -> str:
    if not check.nonfinite_agree:
        return f"NaN or infinity stand in other places in {check.name} on feed {check.feed!r}"
    text = f"{check.name} differs by {check.max_rel:.1e} of its range"
    if check.snr_db is not None:
        text += f" ({check.snr_db:.0f} dB)"
    if check.noise is not None:
        text += f", {check.factor:.2g} times the original's rounding noise"
    if check.tolerance is not None and check.max_rel > check.tolerance:
        text += f", tolerance {check.tolerance:.1e}"
    return text


def _common_span(deviations: Sequence[Deviation]) -> float:
    """The range of the reference over all feeds."""
    low = min(item.low for item in deviations)
    high = max(item.high for item in deviations)
    return Deviation(deviations[0].dtype, 0, low=low, high=high).span


def _snr(deviations: Sequence[Deviation]) -> float | None:
    """Signal-to-noise ratio in dB over all feeds, None without a difference or without a signal."""
    signal = math.hypot(*(item.signal * math.sqrt(item.size) for item in deviations))
    noise = math.hypot(*(item.rms * math.sqrt(item.size) for item in deviations))
    return 20.0 * math.log10(signal / noise) if signal > 0.0 and noise > 0.0 else None


def _ratio(amount: float, span: float) -> float:
    if amount == 0.0:
        return 0.0
    return amount / span if span > 0.0 else math.inf


def _argmax(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)
