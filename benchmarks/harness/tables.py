"""Numbers as tables: for the terminal with rich, for a README in Markdown."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence

from .comparison import Comparison, Row

MISSING = "–"
FULL_HEADERS = (
    "tool",
    *("wall s", "× bnfold", "CPU s", "peak MB", "× bnfold"),
    *("nodes", "Convs", "BN", "per-channel", "scalar"),
    *("difference", "latency ms", "× original"),
)


class Table:
    """Rows of text under headers, the first column a name, the others numbers; ``notes`` stand below."""

    def __init__(self, title: str, headers: Sequence[str]) -> None:
        self.title = title
        self.headers = list(headers)
        self.rows: list[list[str]] = []
        self.notes: list[str] = []

    def add(self, *cells: str) -> None:
        self.rows.append(list(cells))

    def print(self) -> None:
        from rich.box import SIMPLE
        from rich.console import Console
        from rich.table import Table as RichTable

        table = RichTable(title=self.title, title_justify="left", box=SIMPLE)
        for index, header in enumerate(self.headers):
            table.add_column(header, justify="right" if index else "left", no_wrap=True)
        for row in self.rows:
            table.add_row(*row)
        # Into a file or a pipe the table goes at its full width.
        console = Console() if sys.stdout.isatty() else Console(width=1000)
        console.print(table, width=None if console.is_terminal else console.measure(table).maximum)
        for note in self.notes:
            console.print(note, highlight=False)

    def markdown(self) -> str:
        lines = [self.headers, ["---"] + ["---:"] * (len(self.headers) - 1), *self.rows]
        drawn = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        return "\n\n".join([drawn, *self.notes])


def number(value: float | None, form: str = ".2f", factor: float = 1.0) -> str:
    return MISSING if value is None else format(value * factor, form)


def ratio(value: float | None, base: float | None) -> str:
    return MISSING if not value or not base else f"{value / base:.2f}×"


def full_table(comparison: Comparison) -> Table:
    """Everything that was measured about one model. Ratios are to bnfold; latency's is to the original."""
    size = comparison.bytes / 1e6
    table = Table(
        f"{comparison.model} ({size:.3g} MB)",
        FULL_HEADERS,
    )
    original, bnfold = comparison.rows[0], comparison.row("bnfold") or Row("bnfold")
    for row in comparison.rows:
        if row.fault:
            table.add(row.tool, "failed", *[""] * (len(table.headers) - 2))
            continue
        table.add(
            row.tool,
            number(row.wall),
            ratio(row.wall, bnfold.wall),
            number(row.cpu),
            number(row.peak, ".0f", 1e-6),
            ratio(row.peak, bnfold.peak),
            *counts(row),
            number(row.result.get("difference"), ".1e"),
            number(row.latency, ".3g"),
            ratio(row.latency, original.latency),
        )
    table.notes = faults(comparison)
    return table


def counts(row: Row) -> list[str]:
    return [str(row.result[key]) for key in ("nodes", "convs", "batchnorms", "per_channel", "scalar")]


def faults(comparison: Comparison) -> list[str]:
    """Which tools failed on a model, and how."""
    return [f"{row.tool} on {comparison.model}: {row.fault}." for row in comparison.rows if row.fault]


def short_table(comparisons: Iterable[Comparison], title: str, cell: Callable[[Row], str]) -> Table:
    """One row a model and one column a tool, for a single number."""
    comparisons = list(comparisons)
    table = Table(title, ["model", *(row.tool for row in comparisons[0].rows)])
    for comparison in comparisons:
        table.add(comparison.model, *("failed" if row.fault else cell(row) for row in comparison.rows))
        table.notes += faults(comparison)
    return table
