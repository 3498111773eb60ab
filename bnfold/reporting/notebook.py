"""Results in a notebook: a table, and the picture of what happened around one operator."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from bnfold.analysis.report import Report
from bnfold.errors import UsageError
from bnfold.reporting.drawing.svg import side_by_side
from bnfold.reporting.drawing.view import picture
from bnfold.reporting.int8 import decibels
from bnfold.reporting.page import sheets
from bnfold.reporting.page.sheet import Sheet
from bnfold.reporting.text import clean, cut, file_size
from bnfold.results import EqualizeResult, FixResult, FoldResult, RestyleResult
from bnfold.verification import RuntimeCheck, Verification

if TYPE_CHECKING:
    from bnfold.folding.pair import Pair
    from bnfold.quantization import Int8Report

#: So many rows are shown; ``--report`` has them all.
_ROWS = 20
_LONGEST = 300
#: Notebooks set cells to the right, as suits numbers; these are words.
_LEFT = ' style="text-align:left"'


def html(result: Any) -> str:
    """A fragment of HTML for a report, the result of a command, or a verification."""
    if isinstance(result, Report):
        return _report(result)
    if isinstance(result, FoldResult):
        return _fold(result)
    if isinstance(result, FixResult):
        rows = [(change.code, change.sentence) for change in result.changes]
        return _page(repr(result), _verdict(result), _table(("rule", "repair"), rows))
    if isinstance(result, EqualizeResult):
        bits = [(each.layer, each.type, f"{each.before:.1f}", f"{each.after:.1f}") for each in result.plan.layers]
        return _page(repr(result), _verdict(result), _table(("layer", "type", "spread in bits", "after"), bits))
    if isinstance(result, RestyleResult):
        return _restyle(result)
    if isinstance(result, RuntimeCheck):
        levels = [(name, level.sentence()) for name, level in result.levels.items()]
        return _page(result.sentence(), _table(("optimisations", "verdict"), levels))
    if isinstance(result, Verification):
        return _page(result.sentence(), _outputs(result))
    return _of_many(result)


def _of_many(result: Any) -> str:
    """What is about several models at once; who asks for anything else imports none of it."""
    from bnfold.experiment.results import ExperimentResult
    from bnfold.quantization import Int8Report

    if isinstance(result, Int8Report):
        return _int8(result)
    if isinstance(result, ExperimentResult):
        return _sheet(sheets.of_experiment([result.verdict()], result))
    return _sheet(sheets.of_scan(result))


def _sheet(sheet: Sheet) -> str:
    """The tables of a page's sheet, with its notes and its picture."""
    grids = [
        f"<p>{escape(grid.title)}</p>{_table(grid.columns, [[cell.text for cell in row] for row in grid.rows])}"
        for grid in sheet.grids
        if grid.rows
    ]
    return _page(sheet.title, *grids, *(f"<p>{_cell(note)}</p>" for note in sheet.notes), sheet.picture)


def _int8(report: Int8Report) -> str:
    rows = [
        (
            row.model, row.weights, output.name, decibels(output.snr_db),
            "–" if output.agreement is None else f"{100 * output.agreement:.1f} %",
            "–" if row.size is None else file_size(row.size),
            "–" if row.latency_ms is None else f"{row.latency_ms:.2f} ms",
        )
        for row in report.rows
        for output in row.outputs
    ]  # fmt: skip
    failed = [(row.model, row.weights, row.error) for row in report.rows if row.error]
    losses = [(loss.layer, model, decibels(snr)) for loss in report.losses for model, snr in loss.snr_db.items()]
    return _page(
        f"int8: {report.calibration} samples to calibrate, {report.held_out} held out",
        _table(("model", "weights", "output", "SNR", "same top-1", "size", "latency"), rows),
        _table(("model", "weights", "failed"), failed),
        _table(("layer", "model", "SNR"), losses),
        *(f"<p>{_cell(note)}</p>" for note in report.notes),
    )


def _report(report: Report) -> str:
    rows = [
        (item.name, item.channels or "?", item.pattern, item.placement.value, item.foldability.sentence())
        for item in report.batchnorms
    ]
    found = [(finding.severity.value, finding.code, finding.message) for finding in report.findings]
    shown = next((item for item in report.batchnorms if not item.foldability.folds), None)
    shown = shown or next(iter(report.batchnorms), None)
    centre = "" if shown is None else f"{shown.scope}/{shown.op}" if shown.scope else shown.op
    return _page(
        repr(report),
        _table(("BN", "channels", "pattern", "placement", "folding"), rows),
        _table(("", "rule", "finding"), found),
        _picture(report.pair, centre, report),
    )


def _fold(result: FoldResult) -> str:
    rows = [(step.label, step.kind.value, ", ".join(step.into), ", ".join(step.through)) for step in result.plan.steps]
    left = [
        (item.label, item.backward.sentence, "" if item.is_own else item.forward.sentence)
        for item in result.plan.remaining
    ]
    subjects = [item.subject for item in result.plan.remaining] + [step.subject for step in result.plan.steps]
    return _page(
        repr(result),
        _verdict(result),
        _table(("folded", "how", "into", "through"), rows),
        _table(("stays", "backward", "forward"), left),
        _picture(result.pair, subjects[0] if subjects else ""),
    )


def _restyle(result: RestyleResult) -> str:
    rows = [
        (change.layer, "exact" if change.exact else "needs training", change.sentence, change.reason)
        for change in result.changes
    ]
    left = _table(("left as it is", "because"), [(item.layer, item.reason) for item in result.left])
    return _page(repr(result), _verdict(result), _table(("layer", "class", "change", "why"), rows), left)


def _verdict(result: FoldResult | FixResult | EqualizeResult | RestyleResult) -> str:
    checks = (result.verification, result.agreement)
    return "".join(f"<p>{_cell(check.sentence())}</p>" for check in checks if check is not None)


def _outputs(found: Verification) -> str:
    rows = [
        (item.name, item.dtype, f"{item.max_abs:.2e}", f"{item.max_rel:.2e}", item.sentence()) for item in found.outputs
    ]
    return _table(("output", "type", "largest difference", "of the range", "verdict"), rows)


def _picture(pair: Pair | None, key: str, report: Report | None = None) -> str:
    if pair is None or not key:
        return ""
    drawn = picture(pair, report)
    if key not in drawn.before.by_key():
        return ""
    try:
        return side_by_side(drawn, [key])
    except UsageError:  # so many operators read one tensor that no picture holds them
        return ""


def _page(head: str, *parts: str) -> str:
    return "\n".join(["<div>", f"<p><b>{_cell(head)}</b></p>", *filter(None, parts), "</div>"])


def _table(columns: Sequence[str], rows: Sequence[Iterable[object]]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th{_LEFT}>{escape(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(f'<td{_LEFT}>{_cell(value)}</td>' for value in row)}</tr>" for row in rows[:_ROWS])
    more = f"<p>and {len(rows) - _ROWS:,} more</p>" if len(rows) > _ROWS else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def _cell(value: object) -> str:
    return escape(clean(cut(str(value), _LONGEST)))
