"""An experiment's result, made up: three seeds, one arm of which diverged once."""

from __future__ import annotations

from bnfold.experiment.results import ArmResult, ExperimentResult, RunResult, Shipped
from bnfold.experiment.significance import compare
from bnfold.experiment.training import Epoch

_SHIPPED = Shipped(
    batchnorms=2, batchnorms_left=1, parameters=1234, nodes=7, equivalent=True, verdict="verified", milliseconds=0.25,
    relative=1.5,
)  # fmt: skip


def run(seed: int, final: float | None, epochs: int = 3) -> RunResult:
    """A run whose scores rise to ``final``, or that diverges in its last epoch."""
    scores = [0.1 + (0.8 if final is None else final - 0.1) * number / epochs for number in range(1, epochs + 1)]
    rows = [Epoch(number, 0.5, 1.0, score - 0.01, 1.0, score) for number, score in enumerate(scores, 1)]
    if final is None:
        rows[-1] = Epoch(epochs, 0.5, None, None, None, None, True)
    return RunResult(
        seed=seed, rate=0.01, epochs=tuple(rows), best_epoch=epochs, val_score=final, diverged=final is None,
        test_score=final,
    )  # fmt: skip


def arm(label: str, *finals: float | None, worst: float = 0.6) -> ArmResult:
    runs = tuple(run(seed, final) for seed, final in enumerate(finals))
    return ArmResult(
        label=label, rate=0.01, runs=runs, by_rate={0.01: finals, 0.1: (None, *finals[1:])},
        scores=tuple(worst if final is None else final for final in finals), epochs_to_reach=2, shipped=_SHIPPED,
    )  # fmt: skip


def experiment(*arms: ArmResult, judged_on: str = "test") -> ExperimentResult:
    found = arms or (arm("none", 0.7, None, 0.6), arm("before", 0.9, 0.8, 0.85))
    pairs = compare({each.label: each.scores for each in found})
    return ExperimentResult(metric="accuracy", higher_is_better=True, judged_on=judged_on, arms=found, pairs=pairs)
