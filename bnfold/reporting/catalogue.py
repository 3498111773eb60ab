"""The rules on the console, and the page of the documentation that is made from them.

``python -m bnfold.reporting.catalogue`` writes docs/rules.md anew.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.constrain import Constrain
from rich.markdown import Markdown

from bnfold.analysis import Repair, Rule, all_rules
from bnfold.reporting.console import STYLES, cell, line, show, table

#: Pages are set in lines of this length at most.
_PAGE_WIDTH = 100

_DOCUMENT = Path(__file__).parents[2] / "docs" / "rules.md"
_INTRODUCTION = """\
# The rules of `bnfold analyze`

Made from the docstrings of the rules by `python -m bnfold.reporting.catalogue`; change them there.
`bnfold rules CODE` prints one of these pages. BN stands for BatchNormalization."""


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


def document() -> str:
    """The page of all rules as Markdown."""
    rules = all_rules()
    header = ["| code | name | severity | repaired by | |", "| --- | --- | --- | --- | --- |"]
    return "\n".join([_INTRODUCTION, "", *header, *map(_row, rules), "", *map(_section, rules)])


def _row(rule: Rule) -> str:
    repair = f"`bnfold {rule.repair.value}`" if rule.repair.value else ""
    link = f"[{rule.code}](#{rule.code.lower()}-{rule.name})"
    return f"| {link} | {rule.name} | {rule.severity.value} | {repair} | {rule.summary()} |"


def _section(rule: Rule) -> str:
    parts = [f"## {rule.code} {rule.name}", rule.summary()]
    for title, text in rule.sections().items():
        parts += [f"### {title}", text]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Write the page, or the one named on the command line."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else _DOCUMENT
    path.write_text(document(), encoding="utf-8")


if __name__ == "__main__":
    main()
