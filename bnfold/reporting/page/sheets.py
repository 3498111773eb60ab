"""The sheet of each command's result: the verdict first, then everything behind it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bnfold.analysis.phrases import plural
from bnfold.reporting.page.data import drawing
from bnfold.reporting.page.sheet import BAD, CAUTION, GOOD, PLAIN, Card, Cell, Grid, Sheet
from bnfold.reporting.text import file_size

if TYPE_CHECKING:
    from bnfold.analysis.report import Report
    from bnfold.experiment.results import ExperimentResult
    from bnfold.folding.pair import Pair
    from bnfold.results import Comparison, EqualizeResult, FixResult, FoldResult, RestyleResult, Result
    from bnfold.scanning import ScanStore
    from bnfold.verification import RuntimeCheck, Verification

_MARKS = {"+": "comes", "-": "goes", " ": "stays"}
#: How long verification took is another number every time: not in a page that is the same for the same models.
_DURATION = re.compile(r",? in \d+(?:\.\d+)? s\b|,? \(\d+(?:\.\d+)? s of it in float64\)")


def of_report(report: Report) -> Sheet:
    """What ``analyze`` found. The report carries its graphs and statistics."""
    summary = report.summary
    left = summary.batchnorms - summary.foldable
    if not summary.batchnorms:
        done = Card("BatchNormalization", "none in this model")
    else:
        answer = f"{summary.foldable} of {summary.batchnorms} BN fold"
        done = Card("BatchNormalization", answer, CAUTION if left else GOOD, _counts(summary.placements))
    before, after = summary.size, summary.folded
    buys = Card(
        "What folding would buy",
        f"{before.nodes:,} → {after.nodes:,} operators",
        PLAIN,
        (f"{before.parameters:,} → {after.parameters:,} parameters",),
    )
    plan = report.pair.plan if report.pair is not None else None
    return Sheet(
        report.model, (done, buys, _attention(report)), replace(report, pair=None), plan,
        data=_drawn(report.pair, report), notes=plan.notes if plan is not None else (),
    )  # fmt: skip


def of_failure(model: str, sentence: str) -> Sheet:
    """A model that could not be read."""
    return Sheet(model, (Card("Not read", "this model could not be read", BAD, (sentence,)),), error=sentence)


def of_fold(model: str, result: FoldResult) -> Sheet:
    """What ``fold`` did, with what the rules say of the model as it was."""
    report = _analyzed(result.pair, model)
    plan = result.plan
    stays = sum(item.is_batchnorm for item in plan.remaining)
    answer = f"{result.summary.before.batchnorms} → {result.summary.after.batchnorms} BN"
    left = [plural(stays, "BN stays", "BN stay")] if stays else []
    details = (plural(len(plan.steps), "step"), *left, *_written(result))
    done = Card("What was done", answer, CAUTION if stays else GOOD, details)
    notes = [*plan.notes, *result.notes]
    notes += [f"left out, because it changed the outputs: {step.sentence()}" for step in result.dropped]
    notes += [f"makes the outputs differ: {step.sentence()}" for step in result.culprits]
    latency = (result.latency.sentence(),) if result.latency is not None else ()
    cards = (done, _same(result), _buys(result.summary, latency), _attention(report))
    return Sheet(
        model, cards, report, plan, checks=_checks(result.verification), notes=tuple(notes),
        data=_drawn(result.pair, report, result.verification),
    )  # fmt: skip


def of_fix(model: str, result: FixResult) -> Sheet:
    """What ``fix`` repaired, and what is left to find in the repaired model."""
    report = _analyzed(result.pair, model)
    answer = plural(len(result.changes), "repair") if result.changes else "nothing to repair"
    left = plural(len(result.remaining), "finding remains", "findings remain")
    cards = (
        Card("What was done", answer, GOOD, (left, *_written(result))),
        _same(result),
        _buys(result.summary, ()),
        _attention(report),
    )
    return Sheet(
        model, cards, report, changes=tuple(change.to_dict() for change in result.changes),
        checks=_checks(result.verification), data=_drawn(result.pair, report, result.verification),
    )  # fmt: skip


def of_equalize(model: str, result: EqualizeResult) -> Sheet:
    """What ``equalize`` folded and scaled, with what the rules say of the model as it was."""
    report = _analyzed(result.pair, model)
    plan = result.plan
    answer = f"{plural(len(plan.scaled), 'tensor')} scaled" if plan.scaled else "nothing to equalise"
    details = [f"by {'exact scales' if plan.exact else 'powers of two'}", result.summary.sentence()]
    done = Card("What was done", answer, GOOD, (*details, *_written(result)))
    grids = (
        Grid(
            "Weight ranges: spread between channels in bits", ("layer", "type", "before", "after"),
            tuple(
                (Cell(each.layer), Cell(each.type), *(Cell(f"{bits:.1f}", bits) for bits in (each.before, each.after)))
                for each in plan.layers
            ),
        ),
        Grid(
            "What keeps its scale, and why", ("output of", "channels", "because"),
            tuple((Cell(each.layer), Cell(f"{each.channels:,}", each.channels), Cell(each.reason))
                  for each in plan.unscaled),
        ),
    )  # fmt: skip
    cards = (done, _same(result), _buys(result.summary, ()), _attention(report))
    return Sheet(
        model, cards, report, result.folding, checks=_checks(result.verification),
        notes=(*result.folding.notes, *plan.notes), grids=grids, data=_drawn(result.pair, report, result.verification),
    )  # fmt: skip


def of_restyle(model: str, result: RestyleResult) -> Sheet:
    """What ``restyle`` changed, what it left alone, and the layers before and after."""
    from bnfold.restyling import difference

    answer = plural(len(result.changes), "change") if result.changes else "nothing to change"
    training = len(result.inexact)
    attention = f"{plural(training, 'change needs', 'changes need')} training" if training else "nothing"
    cards = (
        Card("What was done", answer, BAD if result.refused else GOOD, _written(result, result.refused)),
        _same_style(result),
        Card("What needs attention", attention, CAUTION if training else GOOD),
    )
    kinds = {True: Cell("exact", tone=GOOD), False: Cell("needs training", tone=CAUTION)}
    grids = (
        Grid(
            "Changes", ("layer", "class", "change", "why"),
            tuple((Cell(each.layer), kinds[each.exact], Cell(each.sentence), Cell(each.reason))
                  for each in result.changes), choose=1,
        ),
        Grid(
            "What is left as it is, and why", ("layer", "because"),
            tuple((Cell(each.layer), Cell(each.reason)) for each in result.left),
        ),
        Grid(
            "Layers before and after", ("layer", "", "what it is"),
            tuple(
                (Cell(name), Cell(_MARKS[mark]), Cell(words.strip()))
                for mark, row in difference(result.before, result.after) for name, _, words in [row.partition("  ")]
            ),
            choose=1,
        ),
    )  # fmt: skip
    return Sheet(
        model, cards, checks=_checks(result.verification), notes=result.notes, grids=grids,
        data=_drawn(result.pair, None, result.verification),
    )  # fmt: skip


def of_verification(first: str, second: str, found: Verification) -> Sheet:
    """What ``verify`` found about two models."""
    return Sheet(f"{first} and {second}", (_verified(found),), checks=_checks(found), data=_drawn(None, None, found))


def of_runtime_check(model: str, check: RuntimeCheck) -> Sheet:
    """What ``verify`` found about one model under the runtime's own optimisations."""
    answer = "the runtime keeps the outputs" if check.equivalent else "the runtime changes the outputs"
    card = Card(
        "Is it the same?", answer, GOOD if check.equivalent else BAD, (_timeless(check.sentence()), *_lines(check))
    )
    levels = {f"optimisation level {name}": _plain(level) for name, level in check.levels.items()}
    return Sheet(model, (card,), checks=levels)


def of_experiment(models: Sequence[str], result: ExperimentResult) -> Sheet:
    """What an experiment found."""
    from bnfold.reporting.page.trained import sheet

    return sheet(", ".join(models), result)


def of_scan(store: ScanStore) -> Sheet:
    """What a scan's store says of all its models."""
    from bnfold.reporting.page.scanned import sheet

    return sheet(store)


def _lines(check: RuntimeCheck) -> tuple[str, ...]:
    return tuple(check.snippet().splitlines())


def _analyzed(pair: Pair | None, model: str) -> Report | None:
    if pair is None:
        return None
    from bnfold.analysis import analyze_graph

    return analyze_graph(pair.before, name=model, statistics=True)


def _drawn(pair: Pair | None, report: Report | None, found: Verification | None = None) -> dict[str, Any]:
    data = drawing(pair, report) if pair is not None else {}
    if found is not None:
        data["outputs"] = [_plain_output(output.to_dict()) for output in found.outputs]
    return data


def _plain_output(output: Mapping[str, Any]) -> dict[str, Any]:
    return {key: output.get(key) for key in ("name", "max_rel", "tolerance", "noise", "ok")}


# -- cards ----------------------------------------------------------------------------------------------


def _written(result: Result, why: str = "") -> tuple[str, ...]:
    """Where the model is now; or that it was not written, and ``why`` where that is not the verdict."""
    if result.path is not None:
        return (f"written to {result.path}",)
    return (f"nothing was written{': ' if why else ''}{why}",) if why or not result.equivalent else ()


def _same_style(result: RestyleResult) -> Card:
    if result.rounding is not None and not result.rounding.equivalent:
        return Card("Is it the same?", result.rounding.sentence(), BAD)
    return _same(result)


def _same(result: Result) -> Card:
    """Verified in onnxruntime, or by Keras's own predictions where no ONNX can be made of the model."""
    found = result.agreement
    if found is None or result.verification is not None:
        return _verified(result.verification)
    return Card("Is it the same?", found.sentence(), GOOD if found.equivalent else BAD)


def _verified(found: Verification | None) -> Card:
    if found is None:
        return Card("Is it the same?", "not verified", PLAIN, ("no verification was asked for",))
    tone = GOOD if found.equivalent else BAD
    return Card("Is it the same?", found.verdict, tone, (_timeless(found.sentence()),))


def _buys(summary: Comparison, more: Sequence[str]) -> Card:
    before, after = summary.before, summary.after
    details = [f"{before.parameters:,} → {after.parameters:,} parameters"]
    if summary.file_before is not None and summary.file_after is not None:
        details.append(f"{file_size(summary.file_before)} → {file_size(summary.file_after)} on disk")
    return Card("What it buys", f"{before.nodes:,} → {after.nodes:,} operators", PLAIN, (*details, *more))


def _attention(report: Report | None) -> Card:
    found = [finding.severity.value for finding in report.findings] if report is not None else []
    counts = {level: found.count(level) for level in ("error", "warning", "info")}
    words = tuple(plural(count, level, "info" if level == "info" else "") for level, count in counts.items() if count)
    tone = BAD if counts["error"] else CAUTION if counts["warning"] else GOOD
    return Card("What needs attention", plural(len(found), "finding") if found else "nothing", tone, words)


def _counts(placements: Mapping[str, int]) -> tuple[str, ...]:
    return tuple(f"{count} {placement}" for placement, count in placements.items())


def _checks(found: Verification | None) -> dict[str, Mapping[str, Any]]:
    return {} if found is None else {"": _plain(found)}


def _plain(found: Verification) -> dict[str, Any]:
    """The verification as data, without the time that it took."""
    return {**_without_times(found.to_dict()), "sentence": _timeless(found.sentence())}


def _without_times(data: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_times(value) if isinstance(value, Mapping) else value
        for key, value in data.items()
        if key != "seconds"
    }


def _timeless(sentence: str) -> str:
    return _DURATION.sub("", sentence)
