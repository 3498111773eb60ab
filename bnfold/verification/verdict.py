"""What verification found, as values that reports print and programs read."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

#: The verdicts: bit for bit, explained by rounding, not explained by rounding, and not known.
EQUAL = "equal"
WITHIN_ROUNDING = "within rounding"
DIFFERENT = "different"
NOT_VERIFIED = "not verified"


@dataclass(frozen=True, slots=True)
class OutputCheck:
    """How one output of the two models compares over all feeds.

    ``max_abs`` is in the output's own unit; ``max_rel`` is ``max_abs`` over the output's range
    (largest minus smallest finite value of the original on all feeds); ``snr_db`` is the power of
    the original over the power of the difference, None when they do not differ. ``tolerance`` is
    the part of the range that was allowed. ``noise`` is the original's own rounding sensitivity as
    part of the range, None when it was not needed or could not be measured; ``factor`` is the
    difference in units of that sensitivity, or of the dtype's rounding unit where it was not
    measured. For integers, booleans and strings ``mismatches`` counts the elements that differ.
    ``feed`` is the feed on which the factor is largest.
    """

    name: str
    dtype: str
    ok: bool
    identical: bool
    max_abs: float = 0.0
    max_rel: float = 0.0
    snr_db: float | None = None
    nonfinite_agree: bool = True
    mismatches: int = 0
    tolerance: float = 0.0
    noise: float | None = None
    factor: float = 0.0
    feed: str = ""
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        return {key: _plain(value) for key, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a judge says: one check for each output, and remarks."""

    checks: tuple[OutputCheck, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FeedSummary:
    """What the models were fed: one description a feed, and those the original itself rejected."""

    descriptions: tuple[str, ...] = ()
    #: Pairs of a description and the runtime's words.
    failed: tuple[tuple[str, str], ...] = ()

    @property
    def count(self) -> int:
        return len(self.descriptions)

    def to_dict(self) -> dict[str, Any]:
        return {
            "count": self.count,
            "descriptions": list(self.descriptions),
            "failed": [{"feed": feed, "error": error} for feed, error in self.failed],
        }


@dataclass(frozen=True, slots=True)
class FirstDifference:
    """The first tensor, in the original's topological order, that both models have and that differs.

    ``node`` and ``op_type`` name what produces it in the second model; ``amount`` is the largest
    difference as part of the tensor's range; ``feed`` is the feed that showed it.
    """

    tensor: str
    node: str
    op_type: str
    amount: float
    feed: str

    def sentence(self) -> str:
        """``first difference: tensor 'x' of Conv 'conv_3', 3.1e-02 of its range``."""
        producer = f" of {self.op_type} {self.node!r}" if self.op_type else ""
        amount = f"{self.amount:.1e} of its range" if math.isfinite(self.amount) else "NaN, infinity or shape"
        return f"first difference: tensor {self.tensor!r}{producer}, {amount}"

    def to_dict(self) -> dict[str, Any]:
        return {key: _plain(value) for key, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class Verification:
    """The outcome of comparing two models: the verdict and what it rests on."""

    verdict: str
    outputs: tuple[OutputCheck, ...] = ()
    feeds: FeedSummary = field(default_factory=FeedSummary)
    first_difference: FirstDifference | None = None
    seconds: float = 0.0
    #: Why the models differ or could not be compared; empty when they are equivalent.
    reason: str = ""
    #: Remarks that do not change the verdict.
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Verification({self.sentence()!r})"

    @property
    def equivalent(self) -> bool:
        """Equal bit for bit or within rounding. "Not verified" is not equivalent."""
        return self.verdict in (EQUAL, WITHIN_ROUNDING)

    def sentence(self) -> str:
        """One line for people: ``verified in 0.8 s, 6 feeds: within rounding (max difference …)``."""
        if self.verdict == NOT_VERIFIED:
            return f"not verified: {self.reason}"
        cost = f"in {self.seconds:.1f} s, {_plural(self.feeds.count, 'feed')}"
        if self.verdict == DIFFERENT:
            text = f"not equivalent, found {cost}: {self.reason}"
            return f"{text}; {self.first_difference.sentence()}" if self.first_difference else text
        if self.verdict == EQUAL:
            return f"verified {cost}: equal bit for bit"
        return f"verified {cost}: within rounding ({self._amounts()})"

    def _amounts(self) -> str:
        worst = max(self.outputs, key=lambda output: output.max_rel)
        text = f"max difference {worst.max_rel:.1e} of the range"
        powers = [output.snr_db for output in self.outputs if output.snr_db is not None]
        if powers:
            text += f", {min(powers):.0f} dB"
        factors = [output.factor for output in self.outputs if output.noise is not None]
        if factors:
            text += f", {max(factors):.2g} times the original's rounding noise"
        flipped = sum(output.mismatches for output in self.outputs)
        if flipped:
            text += f", {_plural(flipped, 'discrete value')} flipped"
        return text

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; numbers that JSON cannot hold become the strings "inf" and "nan"."""
        return {
            "verdict": self.verdict,
            "equivalent": self.equivalent,
            "sentence": self.sentence(),
            "reason": self.reason,
            "seconds": self.seconds,
            "outputs": [output.to_dict() for output in self.outputs],
            "feeds": self.feeds.to_dict(),
            "first_difference": self.first_difference.to_dict() if self.first_difference else None,
            "notes": list(self.notes),
        }


def _plain(value: Any) -> Any:
    """JSON has no infinity and no NaN."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
