"""What ``restyle`` changed, on the console."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

from bnfold.reporting.console import BAD, GOOD, STYLES, cell, line, show, table
from bnfold.reporting.outcomes import print_verdict, print_written
from bnfold.restyling import difference

if TYPE_CHECKING:
    from bnfold.results import RestyleResult

_MARKS = {"+": GOOD, "-": "red", " ": "dim"}


def print_restyle(console: Console, name: str, result: RestyleResult, *, layers: bool = False) -> None:
    """The changes with their classes, the layers left alone, the verdict; ``layers`` adds both lists of layers."""
    line(console, (name, "bold"))
    console.print()
    if layers and result.changes:
        _print_layers(console, result)
    if not result.changes:
        line(console, "nothing to change: the layers that can take a BN have this style", indent=2)
    else:
        _print_changes(console, result)
    for item in result.left:
        line(console, (f"{item.layer} is left as it is: {item.reason}", "dim"), indent=2)
    console.print()
    for note in result.notes:
        line(console, note, indent=2)
    if result.inexact:
        sentence = f"{result.inexact_sentence()}: train the model before you use it"
        line(console, ("warning ", STYLES["warning"]), sentence, indent=2)
    _print_end(console, result)


def _print_changes(console: Console, result: RestyleResult) -> None:
    grid = table("class", "change", "why")
    for change in result.changes:
        kind = cell("exact", GOOD) if change.exact else cell("needs training", STYLES["warning"])
        grid.add_row(kind, cell(change.sentence), cell(change.reason))
    show(console, grid, indent=2)
    console.print()


def _print_layers(console: Console, result: RestyleResult) -> None:
    width = max(len(row.partition("  ")[0]) for row in (*result.before, *result.after))
    for mark, row in difference(result.before, result.after):
        name, _, words = row.partition("  ")
        line(console, (f"{mark} {name:{width}}  {words}", _MARKS[mark]), indent=2)
    console.print()


def _print_end(console: Console, result: RestyleResult) -> None:
    if result.verification is not None:
        print_verdict(console, result.verification)
    for check in (result.agreement, result.rounding):
        if check is not None:
            line(console, (check.sentence(), GOOD if check.equivalent else BAD), indent=2)
    print_written(console, result, result.refused)
