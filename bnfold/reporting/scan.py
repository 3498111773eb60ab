"""A scan's store as text, JSON, SARIF or GitHub annotations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console

from bnfold.analysis import Finding, Repair, Report, Severity, Size, Summary
from bnfold.analysis.phrases import plural
from bnfold.reporting import as_json, renderers
from bnfold.reporting.console import STYLES, cell, line, show, table
from bnfold.reporting.text import file_size
from bnfold.scanning.records import ScanStore
from bnfold.scanning.row import GOOD, STATUSES
from bnfold.scanning.summary import ScanSummary, summarise

FORMATS = ("text", "json", "sarif", "github")
#: So many failures are named; the store has them all.
_FAILURES = 20


def render(output_format: str, store: ScanStore) -> str:
    """Everything in a store, in a format for programs."""
    if output_format == "json":
        return _json(store)
    reports = [_report(path, kind, found) for path, kind, found in store.findings() if found]
    return renderers.render(output_format, reports, store.failures())


def _json(store: ScanStore) -> str:
    cursor = store.query("select * from models order by path")
    names = [column[0] for column in cursor.description if column[0] != "id"]
    found = {path: findings for path, _, findings in store.findings()}
    models = [dict(zip(names, row[1:], strict=True)) for row in cursor]
    for model in models:
        model["findings"] = found.get(model["path"], [])
    return as_json.dump({**as_json.header(), "summary": summarise(store).to_dict(), "models": models})


def _report(path: str, kind: str, findings: Sequence[Mapping[str, Any]]) -> Report:
    """As much of a report as the formats for findings look at."""
    entries = tuple(
        Finding(
            code=each["code"], name=each["name"], severity=Severity(each["severity"]), message=each["message"],
            layer=each["layer"], scope=each["scope"], repair=Repair(each["repair"]), values=each["values"],
        )
        for each in findings
    )  # fmt: skip
    return Report(path, kind, (), entries, Summary(Size(), Size()))


def print_summary(console: Console, store: ScanStore) -> None:
    """Models by status, what folding would save, rules with their worst models, failures, slowest and largest."""
    summary = summarise(store)
    unchanged, earlier = store.meta("unchanged") or 0, summary.models - (store.meta("found") or 0)
    note = f", {unchanged:,} of them unchanged since the last scan" if unchanged else ""
    note += f", {earlier:,} of them known from earlier scans into this store alone" if earlier > 0 else ""
    line(console, (plural(summary.models, "model"), "bold"), note)
    show(console, _statuses(summary), indent=2)
    console.print()
    for sentence in _savings(summary):
        line(console, sentence, indent=2)
    if summary.rules:
        console.print()
        show(console, _rules(summary), indent=2)
    _print_failures(console, store)
    for title, entries in (("slowest", _slowest(summary)), ("largest", _largest(summary))):
        if not entries:
            continue
        console.print()
        line(console, (title, "bold"), indent=2)
        for text in entries:
            line(console, text, indent=4)
    console.print()
    line(console, f"all results are in {store.path}")


def _statuses(summary: ScanSummary) -> Any:
    grid = table("models", "status", "", right=("models",))
    for status, count in summary.statuses.items():
        style = "" if status in GOOD else STYLES["error"]
        grid.add_row(cell(f"{count:,}"), cell(status, style), cell(STATUSES.get(status, "")))
    return grid


def _savings(summary: ScanSummary) -> Iterator[str]:
    if not summary.batchnorms:
        yield "no BN was found"
    else:
        saved = f"{summary.parameters_saved:,} parameters ({file_size(summary.bytes_saved)})"
        yield f"{summary.foldable:,} of {summary.batchnorms:,} BN fold, which takes {saved} away"
    if summary.folded:
        files = "1 file was" if summary.folded == 1 else f"{summary.folded:,} files were"
        less = summary.file_bytes_saved
        size = f"{file_size(abs(less))} {'smaller' if less >= 0 else 'larger'} than before"
        yield f"{files} written, {size}" if summary.folded == 1 else f"{files} written, together {size}"
    if summary.read_requests:
        yield f"{file_size(summary.read_bytes)} fetched in {plural(summary.read_requests, 'request')}"


def _rules(summary: ScanSummary) -> Any:
    grid = table("rule", "name", "severity", "findings", "models", "most in", right=("findings", "models"))
    for rule in summary.rules:
        worst = ", ".join(f"{path} ({count})" for path, count in rule.worst[:2])
        grid.add_row(
            cell(rule.code, "bold"), cell(rule.name), cell(rule.severity, STYLES[rule.severity]),
            cell(f"{rule.findings:,}"), cell(f"{rule.models:,}"), cell(worst),
        )  # fmt: skip
    return grid


def _print_failures(console: Console, store: ScanStore) -> None:
    failures = store.failures()
    if not failures:
        return
    console.print()
    line(console, ("failures", STYLES["error"]), indent=2)
    for path, sentence in list(failures.items())[:_FAILURES]:
        line(console, sentence if renderers.names(sentence, path) else f"{path}: {sentence}", indent=4)
    if len(failures) > _FAILURES:
        line(console, f"and {len(failures) - _FAILURES:,} more", indent=4)


def _slowest(summary: ScanSummary) -> list[str]:
    return [f"{seconds:.1f} s  {path}" for path, seconds in summary.slowest]


def _largest(summary: ScanSummary) -> list[str]:
    return [f"{file_size(size)}  {path}" for path, size in summary.largest]
