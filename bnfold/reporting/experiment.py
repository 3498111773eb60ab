"""Results of an experiment on the console."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from bnfold.experiment.results import ArmResult, ExperimentResult, RunResult, Shipped
from bnfold.reporting.console import cell, line, show, table
from bnfold.reporting.text import signed

_DASH = "–"


def print_experiment(console: Console, name: str, result: ExperimentResult) -> None:
    """The arms side by side, their differences, the verdict, and what one has to know to read them."""
    line(console, (name, "bold"))
    console.print()
    show(console, _arms(result), indent=2)
    console.print()
    show(console, _cost(result), indent=2)
    console.print()
    show(console, _pairs(result), indent=2)
    console.print()
    clear = any(pair.clear for pair in result.pairs)
    line(console, (result.verdict(), "bold green" if clear else "bold"), indent=2)
    for remark in result.remarks():
        line(console, remark, indent=2)
    for arm in result.arms:
        if arm.shipped is not None and not arm.shipped.equivalent:
            line(console, (f"{arm.label} folded: ", "yellow"), arm.shipped.verdict, indent=2)


def _arms(result: ExperimentResult) -> Table:
    score = f"{result.metric} ({result.judged_on})"
    numbers = ("rate", score, "diverged", "s/epoch", "epochs")
    grid = table("arm", "rate", score, "each seed", "diverged", "s/epoch", "epochs", right=numbers)
    for arm in result.arms:
        seeds = " ".join("diverged" if run.diverged else number(score) for run, score in _with_scores(arm))
        grid.add_row(
            cell(arm.label, "bold"), cell("own" if arm.rate is None else f"{arm.rate:g}"), cell(number(arm.mean)),
            cell(seeds), cell(f"{arm.diverged_in_all} of {arm.runs_in_all}"), cell(_seconds(arm.seconds_an_epoch)),
            cell(_DASH if arm.epochs_to_reach is None else arm.epochs_to_reach),
        )  # fmt: skip
    return grid


def _with_scores(arm: ArmResult) -> list[tuple[RunResult, float]]:
    return list(zip(arm.runs, arm.scores, strict=True))


def _cost(result: ExperimentResult) -> Table:
    numbers = ("BN", "after folding", "parameters", "nodes", "latency", "relative")
    grid = table("shipped", *numbers, "the folded model", right=numbers)
    for arm in result.arms:
        if arm.shipped is not None:
            grid.add_row(cell(arm.label, "bold"), *map(cell, _shipped(arm.shipped)))
    return grid


def _shipped(shipped: Shipped) -> list[str]:
    time = _DASH if shipped.milliseconds is None else f"{shipped.milliseconds:.3g} ms"
    relative = _DASH if shipped.relative is None else f"{shipped.relative:.2f}"
    nodes = _DASH if shipped.nodes is None else f"{shipped.nodes:,}"
    return [
        f"{shipped.batchnorms:,}", f"{shipped.batchnorms_left:,}", f"{shipped.parameters:,}", nodes, time, relative,
        "is equivalent" if shipped.equivalent else "is not equivalent",
    ]  # fmt: skip


def _pairs(result: ExperimentResult) -> Table:
    numbers = ("difference", "95 % interval", "p", "p (Holm)")
    grid = table("pair", *numbers, "", right=numbers)
    for pair in result.pairs:
        interval = _DASH
        if pair.low is not None and pair.high is not None:
            interval = f"{signed(pair.low)} to {signed(pair.high)}"
        grid.add_row(
            cell(f"{pair.first} − {pair.second}"), cell(signed(pair.mean)), cell(interval), cell(f"{pair.p:.3g}"),
            cell(f"{pair.corrected:.3g}"), cell("clear" if pair.clear else "not clear"),
        )  # fmt: skip
    return grid


def number(value: float) -> str:
    """A score: ``0.9467``, ``12.31``, or in powers of ten where it is far from 1."""
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e3 or value == 0 else f"{value:.3g}"


def _seconds(value: float | None) -> str:
    return _DASH if value is None else f"{value:.2g}"
