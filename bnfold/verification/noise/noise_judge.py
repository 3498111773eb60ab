"""The judge by noise: a difference is rounding if it is no more than a few times what rounding alone does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from bnfold.verification.comparison import Comparison
from bnfold.verification.noise.deviation import Deviation, Measured, constant_outputs
from bnfold.verification.noise.jitter import MANY_SAMPLES, Samples
from bnfold.verification.noise.judge import Tolerance, judge, suspicious, undecided
from bnfold.verification.reference import Reference
from bnfold.verification.verdict import Judgement


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
            noises = [_of_output(noise.get(index, []), name) for index in items]
            feeds = [reference.answers.feeds[index].description for index in items]
            checks.append(judge(name, list(items.values()), noises, self.tolerance, feeds))
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
