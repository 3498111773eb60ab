"""Which learning rate an arm is judged at, and how soon it gets where the others do: by validation alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

Score = float | None


def best_rate(scores: Mapping[float | None, Sequence[Score]], *, higher: bool) -> float | None:
    """The rate with the fewest diverged runs (None among its scores), of those the one with the best mean score.

    Of equal ones the first. The rate None stands for a model's own; raises ValueError where there is no rate at all.
    """

    def rank(rate: float | None) -> tuple[int, float]:
        finite = [score for score in scores[rate] if score is not None]
        mean = fmean(finite) if finite else 0.0
        return len(scores[rate]) - len(finite), -mean if higher else mean

    return min(scores, key=rank)


def best_so_far(scores: Sequence[Score], length: int, *, higher: bool) -> list[float]:
    """For each of ``length`` epochs the best score up to it; a run that ended early keeps what it had.

    Empty for a run without any score.
    """
    found: list[float] = []
    for score in scores:
        if score is not None:
            ahead = not found or (score > found[-1]) == higher
            found.append(score if ahead else found[-1])
        elif found:
            found.append(found[-1])
    return (found + found[-1:] * length)[:length] if found else []


def epochs_to_reach(curves: Mapping[str, Sequence[Sequence[Score]]], *, higher: bool) -> dict[str, int | None]:
    """After how many epochs each arm's mean best score reaches what the worst of the arms comes to in the end.

    ``curves`` are the validation scores by arm, run and epoch. None for an arm without any score.
    """
    length = max((len(run) for runs in curves.values() for run in runs), default=0)
    means: dict[str, list[float]] = {}
    for label, runs in curves.items():
        usable = [best for run in runs if (best := best_so_far(run, length, higher=higher))]
        if usable:
            means[label] = [fmean(column) for column in zip(*usable, strict=True)]
    ends = [mean[-1] for mean in means.values()]
    if not ends:
        return dict.fromkeys(curves)
    target = min(ends) if higher else max(ends)
    return {label: _first(means[label], target, higher) if label in means else None for label in curves}


def _first(curve: Sequence[float], target: float, higher: bool) -> int | None:
    reached = (number for number, value in enumerate(curve, 1) if (value >= target if higher else value <= target))
    return next(reached, None)
