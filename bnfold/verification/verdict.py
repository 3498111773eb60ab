"""What verification found, as values that reports print and programs read."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from bnfold.display import Displayed

#: The verdicts: bit for bit, explained by rounding, not explained by rounding, right but clearly farther from
#: exact than the original, and not known.
EQUAL = "equal"
WITHIN_ROUNDING = "within rounding"
DIFFERENT = "different"
LESS_ACCURATE = "less accurate"
NOT_VERIFIED = "not verified"

#: A largest error of up to so many times another is as good: it is one number out of many.
_AS_ACCURATE = 4.0


@dataclass(frozen=True, slots=True)
class OutputCheck:
    """How one output of the two models compares over all feeds.

    ``ok`` says whether this output agrees on these feeds, whatever is found elsewhere: False where it is wrong,
    with the ``reason``; None where it is off behind a tensor that is wrong, so that nobody knows whether it would
    agree without that. ``max_abs`` is in the output's own unit; ``max_rel`` is ``max_abs`` over the output's range
    (largest minus smallest finite value of the original on all feeds); ``snr_db`` is the power of
    the original over the power of the difference, None when they do not differ. ``tolerance`` is
    the part of the range that was allowed, None where no fixed one was asked about. ``noise`` is the
    original's own rounding sensitivity as part of the range, None when it was not needed or could not
    be measured; ``factor`` is the difference in units of that sensitivity, or of the dtype's rounding unit
    where it was not measured, or of what is allowed of the original's own error where both errors are known.
    For integers, booleans and strings ``mismatches`` counts the elements that differ.
    ``feed`` is the feed on which the difference is largest. ``original_error`` and ``result_error`` are the largest
    distances of the two models from a float64 evaluation, as part of its range; None where that was not made.
    ``flips`` are discrete values that rounding tipped over an edge, in the original and in the second model.
    """

    name: str
    dtype: str
    ok: bool | None
    identical: bool
    max_abs: float = 0.0
    max_rel: float = 0.0
    snr_db: float | None = None
    nonfinite_agree: bool = True
    mismatches: int = 0
    tolerance: float | None = None
    noise: float | None = None
    factor: float = 0.0
    feed: str = ""
    reason: str = ""
    original_error: float | None = None
    result_error: float | None = None
    flips: tuple[int, int] = (0, 0)

    def sentence(self) -> str:
        """``equal``, ``within rounding``, what is wrong, or ``not equal`` where that is a tensor before it."""
        if self.ok is False:
            return self.reason
        if self.identical:
            return "equal"
        return "within rounding" if self.ok else "not equal"

    def to_dict(self) -> dict[str, Any]:
        return {key: _plain(value) for key, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class Exactness:
    """What the evaluation of both models in float64 showed.

    ``tensors`` were compared on each of ``feeds`` feeds, slice by slice along every axis; ``agreement`` is the
    largest part of a slice's own size by which two of them differ, ``flips`` the number of discrete values that
    fell to the other side of an edge. ``unrounded`` says whether the second model's weights were known before they
    were rounded, ``parts`` how many rewritten parts were run by themselves, ``seconds`` what all of this took.
    """

    tensors: int
    agreement: float
    flips: int
    feeds: int
    unrounded: bool
    parts: int = 0
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        return {key: _plain(value) for key, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a judge says: one check for each output, and remarks.

    ``verdict`` overrides what follows from the checks, with its ``reason``; ``exactness`` is None where nothing was
    evaluated in float64.
    """

    checks: tuple[OutputCheck, ...]
    notes: tuple[str, ...] = ()
    verdict: str = ""
    reason: str = ""
    exactness: Exactness | None = None
    first_difference: FirstDifference | None = None


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
        finite = math.isfinite(self.amount)
        amount = f"{self.amount:.1e} of its range" if finite else "whose shape differs, or where it is NaN or infinite"
        return f"first difference: tensor {self.tensor!r}{producer}, {amount}"

    def to_dict(self) -> dict[str, Any]:
        return {key: _plain(value) for key, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class Verification(Displayed):
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
    #: None where the models were judged by rounding noise or by a fixed tolerance alone.
    exactness: Exactness | None = None

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
        if self.exactness is not None and self.exactness.seconds >= 0.05:
            cost += f" ({self.exactness.seconds:.1f} s of it in float64)"
        if self.verdict == DIFFERENT:
            text = f"not equivalent, found {cost}: {self.reason}"
            return f"{text}; {self.first_difference.sentence()}" if self.first_difference else text
        if self.verdict == LESS_ACCURATE:
            return f"less accurate than the original, found {cost}: {self.reason}"
        if self.verdict == EQUAL:
            return f"verified {cost}: equal bit for bit"
        if self.exactness is not None:
            return f"verified {cost}: {self._accuracy()}"
        return f"verified {cost}: within rounding ({self._amounts()})"

    def _accuracy(self) -> str:
        """What both models are from exact, at the output where the original is farthest."""
        measured = [output for output in self.outputs if output.result_error is not None]
        texts = []
        if measured:
            worst = max(measured, key=lambda output: output.original_error or 0.0)
            mine, theirs = worst.original_error or 0.0, worst.result_error or 0.0
            # What is not as near to exact is still within what its types allow, or it would be less accurate.
            how = "as accurate as the original" if theirs <= _AS_ACCURATE * mine else "accurate to its types"
            texts = [f"{how}: {theirs:.1e} of the range from exact, the original {mine:.1e}"]
        flips = [sum(output.flips[side] for output in self.outputs) for side in (0, 1)]
        if any(flips):
            texts.append(f"{_plural(flips[1], 'discrete value')} flipped by rounding, {flips[0]} in the original")
        if self.exactness is not None and self.exactness.flips:
            texts.append(f"{_plural(self.exactness.flips, 'value')} on an edge decided otherwise")
        if not texts and self.exactness is not None:
            texts = [f"the same in float64, to {self.exactness.agreement:.0e} of each channel's size"]
        return "; ".join(texts)

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
            "float64": self.exactness.to_dict() if self.exactness else None,
        }


def _plain(value: Any) -> Any:
    """JSON has no infinity and no NaN."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
