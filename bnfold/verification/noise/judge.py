"""The judge by noise: a difference is rounding if it is no more than a few times what rounding alone does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bnfold.verification.comparison import Comparison
from bnfold.verification.deviation import Deviation, Measured, constant_outputs
from bnfold.verification.noise.jitter import MANY_SAMPLES, Samples
from bnfold.verification.output_check import NOISE_FACTOR, UNMEASURED_FACTOR, OnFeed, Tolerance, check_output, factor
from bnfold.verification.reference import Reference
from bnfold.verification.verdict import Judgement

#: Up to so many times the noise it is measured again before a difference is called one, and for an
#: output of few elements in any case: the largest of few random numbers says little about the next.
_UNDECIDED_FACTOR, _FEW_ELEMENTS = 16.0, 256


def suspicious(measured: Deviation, strict: bool = False) -> bool:
    """Whether a difference must be held against the noise: under ``strict`` any, else one of many rounding units."""
    if measured.fault or measured.identical:
        return False
    if measured.exact_type or strict:
        return True
    return factor(measured, ()) > UNMEASURED_FACTOR


def unexplained(measured: Deviation, noise: Sequence[Deviation]) -> bool:
    """Whether a difference is beyond the noise that was measured, if it was."""
    if measured.fault or not noise:
        return False
    if measured.exact_type:
        return measured.mismatches > NOISE_FACTOR * max(sample.mismatches for sample in noise)
    return factor(measured, noise) > NOISE_FACTOR


def undecided(measured: Deviation, noise: Sequence[Deviation]) -> bool:
    """Whether a difference beyond a few measurements of the noise may still be within many of them."""
    if not unexplained(measured, noise):
        return False
    few = measured.size < _FEW_ELEMENTS
    return measured.exact_type or few or factor(measured, noise) <= _UNDECIDED_FACTOR


@dataclass(frozen=True, slots=True)
class NoiseJudge:
    """Implements :class:`bnfold.verification.comparison.Judge` with the original's noise or a fixed tolerance."""

    tolerance: Tolerance

    def doubts(self, item: Deviation) -> bool:
        """Whether a difference must be judged: any under a fixed tolerance, else one of many rounding units."""
        return self.tolerance.given or suspicious(item) or bool(item.fault) or not item.nonfinite_agree

    def judge(self, case: Comparison) -> Judgement:
        """One check for each output or inner tensor of the reference, in the order of ``case.measured``."""
        reference, measured = case.reference, case.measured
        noise = self._noise(reference, measured)
        checks = []
        for name, items in measured.items():
            on_feeds = [
                OnFeed(reference.answers.feeds[index].description, item, _of_output(noise.get(index, []), name))
                for index, item in items.items()
            ]
            checks.append(check_output(name, on_feeds, self.tolerance))
        return Judgement(tuple(checks), tuple(_remarks(measured, noise)))

    def _noise(self, reference: Reference, measured: Measured) -> dict[int, Samples | None]:
        """The original's noise on the feeds that call for it, measured further where that may change the verdict."""
        if self.tolerance.given and not self.tolerance.strict:
            return {}
        items = [(name, index, item) for name, by_feed in measured.items() for index, item in by_feed.items()]
        found = reference.noise(sorted({index for _, index, item in items if suspicious(item, self.tolerance.strict)}))
        open_ones = {index for name, index, item in items if undecided(item, _samples(found, index, name))}
        if open_ones:
            found.update(reference.noise(sorted(open_ones), MANY_SAMPLES))
        return found


def _of_output(samples: Samples | None, name: str) -> list[Deviation] | None:
    return None if samples is None else [sample[name] for sample in samples]


def _samples(found: Mapping[int, Samples | None], index: int, name: str) -> list[Deviation]:
    return _of_output(found.get(index, []), name) or []


def _remarks(measured: Measured, noise: Mapping[int, Samples | None]) -> Iterator[str]:
    yield from constant_outputs(measured)
    if None in noise.values():
        yield "the original's rounding noise could not be measured: a fixed tolerance was used"
