"""What the difference between two arms is worth: paired by seed, exact, and corrected for how many pairs are looked at.

Scores come as one number a seed; both arms of a pair have the same seeds in the same order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from bnfold.errors import UsageError

#: A difference is clear if its corrected p value is below this.
LEVEL = 0.05
#: The exact test looks at 2^(n/2) sums twice: so many seeds at most.
MOST_SEEDS = 40
#: Sums that differ by no more than this part of what was added up are the same: the order of adding rounds them.
_TIE = 1e-9

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """``first`` minus ``second``, by seed. ``low`` and ``high`` are the 95 % t-interval; None for a single seed.

    ``p`` is that of the two-sided sign-flip test, ``corrected`` Holm's over all pairs.
    """

    first: str
    second: str
    differences: tuple[float, ...]
    mean: float
    low: float | None
    high: float | None
    p: float
    corrected: float

    @property
    def clear(self) -> bool:
        return self.corrected < LEVEL

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "first": self.first,
            "second": self.second,
            "differences": list(self.differences),
            "mean": self.mean,
            "interval": None if self.low is None else [self.low, self.high],
            "p": self.p,
            "p_holm": self.corrected,
            "clear": self.clear,
        }


def compare(scores: Mapping[str, Sequence[float]]) -> tuple[Difference, ...]:
    """Every pair of arms, in their order. Raises UsageError where arms have different numbers of seeds, or too many."""
    if len({len(values) for values in scores.values()}) > 1:
        raise UsageError("the arms have different numbers of seeds, so they cannot be paired")
    pairs = list(combinations(scores, 2))
    differences = [np.subtract(scores[a], scores[b]).astype(np.float64) for a, b in pairs]
    p_values = [sign_flip_p(values) for values in differences]
    found = []
    for (a, b), values, p, corrected in zip(pairs, differences, p_values, holm(p_values), strict=True):
        low, high = t_interval(values)
        found.append(
            Difference(
                first=a,
                second=b,
                differences=tuple(map(float, values)),
                mean=float(values.mean()),
                low=low,
                high=high,
                p=p,
                corrected=corrected,
            )
        )
    return tuple(found)


def t_interval(differences: Array, level: float = 0.95) -> tuple[float, float] | tuple[None, None]:
    """Student's interval for the mean of paired differences; none of fewer than two."""
    count = len(differences)
    if count < 2:
        return None, None
    from scipy import stats

    mean = float(np.mean(differences))
    half = float(stats.t.ppf((1 + level) / 2, count - 1) * np.std(differences, ddof=1) / math.sqrt(count))
    return mean - half, mean + half


def sign_flip_p(differences: Array) -> float:
    """The two-sided p value of Fisher's randomisation test of paired differences, exact.

    Under the null hypothesis each difference might as well have had the other sign: p is the part of the 2^n ways
    to choose the signs whose sum is at least as far from 0 as the one that was seen. Raises UsageError for more
    than :data:`MOST_SEEDS`.
    """
    values = np.asarray(differences, np.float64)
    if len(values) > MOST_SEEDS:
        raise UsageError(f"the exact test takes {MOST_SEEDS} seeds at most, not {len(values)}")
    limit = abs(values.sum()) - _TIE * np.abs(values).sum()
    half = len(values) // 2
    left, right = _signed_sums(values[:half]), np.sort(_signed_sums(values[half:]))
    # For each sum of one half, how many of the other's bring both to the limit or beyond it.
    above = len(right) - np.searchsorted(right, limit - left, side="left")
    below = np.searchsorted(right, -limit - left, side="right")
    both = np.minimum(above + below, len(right))  # a limit that is not positive counts what lies between twice
    return float(both.sum()) / 2.0 ** len(values)


def _signed_sums(values: Array) -> Array:
    """The 2^n sums of the values with every choice of signs."""
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return sums


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's corrected p values (1979), in the order given: the chance of any false alarm stays below the level."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def lowest_p(seeds: int, pairs: int = 1) -> float:
    """What the corrected p value can at best be: both signs of all differences alike, times the number of pairs."""
    return min(1.0, pairs * 2.0 ** (1 - seeds))


def seeds_needed(pairs: int) -> int:
    """The fewest seeds with which a difference can be clear at all."""
    return next(count for count in range(1, 64) if lowest_p(count, pairs) < LEVEL)


def with_diverged(scores: Sequence[float | None], worst: float) -> list[float]:
    """The scores of one arm, where a run that diverged (None) counts as the worst that was seen in any.

    A run that is dropped would make an arm look better for each that it loses. Known as worst-rank imputation
    (Lachin 1999).
    """
    return [worst if score is None else score for score in scores]
