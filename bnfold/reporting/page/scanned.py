"""The sheet of a scan: all models of a store in one table, and what was found in each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice, pairwise
from typing import Any

from bnfold.analysis.phrases import plural
from bnfold.reporting.page.sheet import BAD, CAUTION, GOOD, PLAIN, Card, Cell, Grid, Sheet
from bnfold.reporting.text import file_size
from bnfold.scanning.records import ScanStore
from bnfold.scanning.row import GOOD as WELL
from bnfold.scanning.summary import ScanSummary, summarise

#: So many models stand in the table, those that did not go well first, and so many findings below each.
_MODELS, _FINDINGS = 5_000, 50
#: Of so many BN in all each is named below its model; of more only those that stay.
_BATCHNORMS = 5_000
_COLUMNS = ("model", "status", "size", "BN", "fold", "findings", "seconds")
#: What unfolds below a cell: pairs of a rule's code, empty where there is none, and a sentence.
_Lines = tuple[tuple[str, str], ...]
_NONE: tuple[_Lines, _Lines] = ((), ())
#: Upper ends of the bars, in bytes and in seconds.
_SIZES = tuple((10.0**power, file_size(10**power)) for power in (4, 5, 6, 7, 8, 9))
_TIMES = tuple((seconds, f"{seconds:g} s") for seconds in (0.1, 1.0, 10.0, 100.0))


def sheet(store: ScanStore) -> Sheet:
    """The sheet of everything in a store."""
    summary = summarise(store)
    models = store.query(
        "select path, status, sentence, size, batchnorms, foldable, seconds from models "
        f"order by status in ({', '.join('?' * len(WELL))}), path",
        *sorted(WELL),
    )
    found = {path: findings for path, _, findings in store.findings()}
    normalised = _batchnorms(store, one_by_one=summary.batchnorms <= _BATCHNORMS)
    rows = tuple(
        _row(model, found.get(model[0], ()), *normalised.get(model[0], _NONE)) for model in islice(models, _MODELS)
    )
    notes = [f"the table has {_MODELS:,} models, the store all {summary.models:,}"] if summary.models > _MODELS else []
    rules = tuple(
        (
            Cell(f"{rule.code} {rule.name}"), Cell(rule.severity), _count(rule.findings), _count(rule.models),
            Cell(", ".join(f"{path} ({count})" for path, count in rule.worst)),
        )
        for rule in summary.rules
    )  # fmt: skip
    grids = (
        Grid("Models", _COLUMNS, rows, choose=1),
        Grid("Rules", ("rule", "severity", "findings", "models", "most in"), rules, choose=1),
    )
    return Sheet(
        plural(summary.models, "model"), _cards(summary), notes=tuple(notes), grids=grids,
        codes=frozenset(rule.code for rule in summary.rules), data={"bars": _bars(store, summary)},
    )  # fmt: skip


def _cards(summary: ScanSummary) -> tuple[Card, ...]:
    bad = {status: count for status, count in summary.statuses.items() if status not in WELL}
    words = tuple(f"{count:,} {status}" for status, count in summary.statuses.items())
    done = f"{summary.models - sum(bad.values()):,} of {plural(summary.models, 'model')} went well"
    details: tuple[str, ...] = (f"{summary.parameters_saved:,} parameters", file_size(summary.bytes_saved))
    if summary.folded:
        details += (f"{plural(summary.folded, 'model is', 'models are')} folded and verified",)
    severities: Counter[str] = Counter()
    for rule in summary.rules:
        severities[rule.severity] += rule.findings
    tone = BAD if severities["error"] else CAUTION if severities["warning"] else GOOD
    total = severities.total()
    return (
        Card("What was done", done, BAD if bad else GOOD, words),
        Card("What folding buys", f"{summary.foldable:,} of {summary.batchnorms:,} BN fold", PLAIN, details),
        Card(
            "What needs attention", plural(total, "finding") if total else "nothing", tone,
            tuple(f"{count:,} {severity}" for severity, count in severities.items()),
        ),
    )  # fmt: skip


def _batchnorms(store: ScanStore, *, one_by_one: bool) -> dict[str, tuple[_Lines, _Lines]]:
    """By model: how many BN stand where and what each of them is, and which stay and why."""
    found: dict[str, tuple[list[tuple[str, str]], list[tuple[str, str]]]] = {}
    placements = store.query(
        "select path, placement, count(*) from batchnorms join models on models.id = job "
        "group by path, placement order by path, count(*) desc, placement"
    )
    for path, placement, count in placements:
        found.setdefault(path, ([], []))[0].append(("", f"{count:,} {placement}"))
    each = store.query(
        "select path, name, channels, pattern, into_layers from batchnorms join models on models.id = job "
        "order by path, batchnorms.rowid"
    )
    for path, name, channels, pattern, into in each if one_by_one else ():
        fate = f"folds into {into}" if into else "stays"
        found[path][0].append(("", f"{name}: {pattern}, {'?' if channels is None else channels} channels, {fate}"))
    left = store.query(
        "select path, name, reason from batchnorms join models on models.id = job "
        "where direction = 'stays' order by path, batchnorms.rowid"
    )
    for path, name, reason in left:
        found[path][1].append(("", f"{name} stays: {reason}"))
    return {path: (_cut(where), _cut(stay)) for path, (where, stay) in found.items()}


def _cut(lines: Sequence[tuple[str, str]]) -> _Lines:
    more = [("", f"and {len(lines) - _FINDINGS:,} more, in the store")] if len(lines) > _FINDINGS else []
    return (*lines[:_FINDINGS], *more)


def _row(
    model: tuple[Any, ...], findings: Iterable[Mapping[str, Any]], where: _Lines, stay: _Lines
) -> tuple[Cell, ...]:
    path, status, sentence, size, batchnorms, foldable, seconds = model
    found = list(findings)
    details = [*_cut([(each["code"], f"{each['severity']}: {each['message']}") for each in found])]
    if sentence:
        details.insert(0, ("", sentence))
    tone = GOOD if status in WELL else BAD
    return (
        Cell(path), Cell(status, tone=tone), Cell("–") if size is None else Cell(file_size(size), size),
        _count(batchnorms, where), _count(foldable, stay),
        Cell(f"{len(found):,}" if found or not sentence else "why", len(found), details=tuple(details)),
        Cell("–") if seconds is None else Cell(f"{seconds:.2f}", seconds),
    )  # fmt: skip


def _count(number: int | None, details: _Lines = ()) -> Cell:
    return Cell("–") if number is None else Cell(f"{number:,}", number, details=details)


def _bars(store: ScanStore, summary: ScanSummary) -> list[dict[str, Any]]:
    measured = {column: [row[0] for row in store.query(f"select {column} from models where {column} is not null")]
                for column in ("size", "seconds")}  # fmt: skip
    return [
        {"title": "Models by status", "bars": [[status, count] for status, count in summary.statuses.items()]},
        {"title": "Models by size of the file", "bars": _histogram(measured["size"], _SIZES)},
        {"title": "Models by the time that they took", "bars": _histogram(measured["seconds"], _TIMES)},
    ]


def _histogram(values: Iterable[float], ends: tuple[tuple[float, str], ...]) -> list[list[Any]]:
    """How many values are below each end and not below the one before; the last bar has no end."""
    counts = Counter(sum(value >= end for end, _ in ends) for value in values)
    labels = [f"below {ends[0][1]}", *(f"{low} – {high}" for (_, low), (_, high) in pairwise(ends))]
    return [[label, counts[at]] for at, label in enumerate([*labels, f"from {ends[-1][1]}"]) if counts]
