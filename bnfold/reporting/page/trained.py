"""The sheet of an experiment: the verdict, the tables, the learning curves."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

from markupsafe import Markup

from bnfold.analysis.phrases import plural
from bnfold.errors import MissingExtraError
from bnfold.experiment.results import ArmResult, ExperimentResult, RunResult
from bnfold.reporting.experiment import number
from bnfold.reporting.page.picture import picture
from bnfold.reporting.page.sheet import BAD, CAUTION, GOOD, PLAIN, Card, Cell, Grid, Sheet
from bnfold.reporting.text import cut, signed, visible

#: A longer label would leave the picture no place for curves.
_LABEL = 40
_CAPTION = "Learning curves: every seed thin, their mean thick"


def sheet(name: str, result: ExperimentResult) -> Sheet:
    """The sheet of an experiment on the models of that name. Without matplotlib it says how to get the curves."""
    notes = [*result.remarks()]
    drawn = _curves(result)
    if not drawn:
        notes.append(str(MissingExtraError.of("the learning curves need matplotlib", "experiment")))
    grids = (_arms(result), _pairs(result), _shipped(result))
    return Sheet(
        name, _cards(result), notes=tuple(notes), grids=grids, picture=drawn, caption=_CAPTION if drawn else ""
    )


def _cards(result: ExperimentResult) -> tuple[Card, ...]:
    clear = any(pair.clear for pair in result.pairs)
    judged = f"{result.metric} on {result.judged_on} data, {plural(result.seeds, 'seed')} an arm"
    shipped = [arm for arm in result.arms if arm.shipped is not None]
    unequal = [f"{arm.label} folded: {arm.shipped.verdict}" for arm in shipped if not arm.shipped.equivalent]  # type: ignore[union-attr]
    diverged = sum(arm.diverged for arm in result.arms)
    lost = [f"{plural(diverged, 'run')} diverged at the chosen rates"] if diverged else []
    same = Card("Is the folded model the same?", "no arm was folded")
    if shipped:
        same = Card(
            "Is the folded model the same?", f"in {len(shipped) - len(unequal)} of {plural(len(shipped), 'arm')}",
            BAD if unequal else GOOD, tuple(unequal),
        )  # fmt: skip
    return (
        Card("The verdict", result.verdict(), GOOD if clear else PLAIN, (judged,)),
        same,
        Card("What needs attention", lost[0] if lost else "nothing", CAUTION if lost else GOOD),
    )


def _arms(result: ExperimentResult) -> Grid:
    score = f"{result.metric} ({result.judged_on})"
    return Grid(
        "Arms", ("arm", "rate", score, "each seed", "diverged", "s/epoch", "epochs"),
        tuple(
            (
                Cell(arm.label), Cell("own") if arm.rate is None else Cell(f"{arm.rate:g}", arm.rate),
                Cell(number(arm.mean), arm.mean), Cell(plural(len(arm.runs), "seed"), details=_seeds(arm)),
                Cell(f"{arm.diverged_in_all} of {arm.runs_in_all}", arm.diverged_in_all),
                _optional(arm.seconds_an_epoch, ".2g"), _optional(arm.epochs_to_reach, "d"),
            )
            for arm in result.arms
        ),
    )  # fmt: skip


def _seeds(arm: ArmResult) -> tuple[tuple[str, str], ...]:
    return tuple(("", _seed(run, score)) for run, score in zip(arm.runs, arm.scores, strict=True))


def _seed(run: RunResult, score: float) -> str:
    return f"seed {run.seed}: " + ("diverged" if run.diverged else f"{number(score)}, best epoch {run.best_epoch}")


def _pairs(result: ExperimentResult) -> Grid:
    rows = []
    for pair in result.pairs:
        interval = (
            f"{signed(pair.low)} to {signed(pair.high)}" if pair.low is not None and pair.high is not None else "–"
        )
        rows.append((
            Cell(f"{pair.first} − {pair.second}"), Cell(signed(pair.mean), pair.mean),
            Cell(interval), Cell(f"{pair.p:.3g}", pair.p),
            Cell(f"{pair.corrected:.3g}", pair.corrected),
            Cell("clear", tone=GOOD) if pair.clear else Cell("not clear", tone=PLAIN),
        ))  # fmt: skip
    return Grid("Differences", ("pair", "difference", "95 % interval", "p", "p (Holm)", "verdict"), tuple(rows))


def _shipped(result: ExperimentResult) -> Grid:
    columns = ("arm", "BN", "after folding", "parameters", "nodes", "latency in ms", "relative", "the folded model")
    rows = []
    for arm in result.arms:
        if (what := arm.shipped) is not None:
            counts = (what.batchnorms, what.batchnorms_left, what.parameters)
            same = Cell("is equivalent", tone=GOOD) if what.equivalent else Cell("is not equivalent", tone=BAD)
            rows.append((
                Cell(arm.label), *(Cell(f"{count:,}", count) for count in counts), _optional(what.nodes, ",d"),
                _optional(what.milliseconds, ".3g"), _optional(what.relative, ".2f"), same,
            ))  # fmt: skip
    return Grid("What is shipped", columns, tuple(rows))


def _optional(value: float | None, form: str) -> Cell:
    return Cell("–") if value is None else Cell(f"{value:{form}}", value)


def _curves(result: ExperimentResult) -> Markup:
    if importlib.util.find_spec("matplotlib") is None:
        return Markup("")
    from bnfold.reporting.curves import svg

    arms = tuple(replace(arm, label=cut(visible(arm.label), _LABEL)) for arm in result.arms)
    metric = cut(visible(result.metric), _LABEL)
    return picture(svg(replace(result, arms=arms, metric=metric)), _CAPTION)
