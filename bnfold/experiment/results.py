"""What an experiment found, as values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from statistics import fmean, median
from typing import Any

from bnfold.display import Displayed
from bnfold.experiment.significance import LEVEL, Difference, lowest_p, seeds_needed
from bnfold.experiment.training import Epoch

NO_DIFFERENCE = "no clear difference"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shipped:
    """What a trained arm is when it is deployed: folded, as ONNX, and compared with what was trained.

    ``verdict`` is the sentence of the verification. ``milliseconds`` is one inference in onnxruntime, ``relative``
    that time in the first arm's; None where the models were not equivalent or could not be timed. A model that cannot
    be converted is folded as a Keras model and compared by its predictions; then ``nodes`` is None.
    """

    batchnorms: int
    batchnorms_left: int
    parameters: int
    nodes: int | None
    equivalent: bool
    verdict: str
    milliseconds: float | None = None
    relative: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """One run at one rate: its epochs, and its score on validation and on test data (None where there is none)."""

    seed: int
    rate: float | None
    epochs: tuple[Epoch, ...] = field(repr=False)
    best_epoch: int
    val_score: float | None
    diverged: bool
    test_score: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmResult:
    """An arm at the rate that was chosen for it. ``runs`` has one a seed, ``by_rate`` all rates' validation scores."""

    label: str
    rate: float | None
    runs: tuple[RunResult, ...]
    by_rate: Mapping[float | None, tuple[float | None, ...]]
    #: What each run counts as, one a seed: a diverged one as the worst of all.
    scores: tuple[float, ...]
    epochs_to_reach: int | None
    shipped: Shipped | None = None

    @property
    def mean(self) -> float:
        return fmean(self.scores)

    @property
    def diverged(self) -> int:
        """How many runs diverged at the chosen rate."""
        return sum(run.diverged for run in self.runs)

    @property
    def diverged_in_all(self) -> int:
        """How many runs diverged at any rate."""
        return sum(score is None for scores in self.by_rate.values() for score in scores)

    @property
    def runs_in_all(self) -> int:
        return sum(len(scores) for scores in self.by_rate.values())

    @property
    def seconds_an_epoch(self) -> float | None:
        """The median; the first epoch, in which TensorFlow compiles, counts only where there is no other."""
        seconds = [epoch.seconds for run in self.runs for epoch in run.epochs[1:] or run.epochs]
        return median(seconds) if seconds else None

    def to_dict(self) -> dict[str, Any]:
        return {
            "arm": self.label,
            "learning_rate": self.rate,
            "mean": self.mean,
            "scores": list(self.scores),
            "diverged": self.diverged,
            "diverged_at_any_rate": self.diverged_in_all,
            "validation_by_rate": [
                {"learning_rate": rate, "scores": list(scores)} for rate, scores in self.by_rate.items()
            ],
            "seconds_an_epoch": self.seconds_an_epoch,
            "epochs_to_reach": self.epochs_to_reach,
            "shipped": asdict(self.shipped) if self.shipped is not None else None,
            "runs": [asdict(run) for run in self.runs],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentResult(Displayed):
    """The table and the verdict. ``judged_on`` is "test", or "validation" where there are no test data."""

    metric: str
    higher_is_better: bool
    judged_on: str
    arms: tuple[ArmResult, ...]
    pairs: tuple[Difference, ...]
    #: What was found out before any run.
    notes: tuple[str, ...] = ()

    @property
    def seeds(self) -> int:
        return len(self.arms[0].runs)

    def verdict(self) -> str:
        """One sentence: which differences are clear, or that none is."""
        clear = [pair for pair in self.pairs if pair.clear]
        return "; ".join(map(self._sentence, clear)) if clear else f"{NO_DIFFERENCE} in {self.metric}"

    def _sentence(self, pair: Difference) -> str:
        ahead = (pair.mean > 0) == self.higher_is_better
        better, worse = (pair.first, pair.second) if ahead else (pair.second, pair.first)
        interval = ""
        if pair.low is not None and pair.high is not None:
            low, high = sorted((abs(pair.low), abs(pair.high))) if pair.low * pair.high > 0 else (pair.low, pair.high)
            interval = f"95 % interval {low:.4f} to {high:.4f}, "
        return f"{better} is better than {worse} by {abs(pair.mean):.4f} ({interval}p = {pair.corrected:.3g})"

    def remarks(self) -> list[str]:
        """What one has to know to read the table."""
        found = []
        count, pairs = self.seeds, len(self.pairs)
        lowest = lowest_p(count)
        sentence = f"with {count} {'seed' if count == 1 else 'seeds'} p can at best be {lowest:.3g}"
        if pairs > 1:
            sentence += f", {lowest_p(count, pairs):.3g} after Holm's correction for {pairs} pairs"
        if lowest_p(count, pairs) >= LEVEL:
            sentence += f": a clear difference (p < {LEVEL:g}) takes at least {seeds_needed(pairs)} seeds"
        found.append(sentence)
        if self.judged_on == "validation":
            found.append(
                "there are no test data: scores are those on validation data, by which rates and epochs were chosen, "
                "so all of them are flattering"
            )
        if any(arm.diverged for arm in self.arms):
            found.append("a diverged run counts as the worst score that was seen in any")
        return [*found, *self._unconverted(), *self.notes]

    def _unconverted(self) -> Iterator[str]:
        """Which arms no ONNX could be made of, by the reason."""
        reasons: dict[str, list[str]] = {}
        for arm in self.arms:
            if arm.shipped is not None and arm.shipped.nodes is None:
                reasons.setdefault(", ".join(arm.shipped.notes), []).append(arm.label)
        for reason, labels in reasons.items():
            yield f"folded as a Keras model, without nodes and latency ({', '.join(labels)}): {reason}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "metric": self.metric,
            "higher_is_better": self.higher_is_better,
            "judged_on": self.judged_on,
            "arms": [arm.to_dict() for arm in self.arms],
            "pairs": [pair.to_dict() for pair in self.pairs],
            "lowest_p": lowest_p(self.seeds),
            "lowest_p_holm": lowest_p(self.seeds, len(self.pairs)),
            "verdict": self.verdict(),
            "remarks": self.remarks(),
        }
