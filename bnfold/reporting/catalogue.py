"""The rules on the console: a table of all, or one page."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.constrain import Constrain
from rich.markdown import Markdown

from bnfold.analysis import Repair, Rule
from bnfold.reporting.console import STYLES, cell, line, show, table

#: Pages are set in lines of this length at most.
_PAGE_WIDTH = 100


def print_catalogue(console: Console, rules: Sequence[Rule]) -> None:
    """Every rule in a line, and what repairs it."""
    grid = table("code", "name", "severity", "repaired by", "what it says")
    for rule in rules:
        grid.add_row(
            cell(rule.code, "bold"),
            cell(rule.name),
            cell(rule.severity.value, STYLES[rule.severity.value]),
            cell(f"bnfold {rule.repair.value}" if rule.repair is not Repair.NONE else ""),
            cell(rule.summary()),
        )
    show(console, grid)
    console.print()
    line(console, "`bnfold rules CODE` explains one of them.")


def print_rule(console: Console, rule: Rule) -> None:
    """One rule: its first line, then its sections."""
    line(console, (f"{rule.code} {rule.name}", "bold"), " ", (rule.severity.value, STYLES[rule.severity.value]))
    console.print()
    line(console, rule.summary())
    width = min(console.width, _PAGE_WIDTH)
    for title, text in rule.sections().items():
        console.print()
        line(console, (title, "bold"))
        show(console, Constrain(Markdown(text, code_theme="bw"), width), indent=2)
