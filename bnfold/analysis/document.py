"""Writes docs/rules.md from the rules themselves: ``python -m bnfold.analysis.document``."""

from __future__ import annotations

import sys
from pathlib import Path

from bnfold.analysis.rule import Rule, all_rules

PAGE = Path(__file__).parents[2] / "docs" / "rules.md"
_INTRODUCTION = """\
# The rules of `bnfold analyze`

Made from the docstrings of the rules by `python -m bnfold.analysis.document`; change them there.
`bnfold rules CODE` prints one of these pages. BN stands for BatchNormalization."""


def page() -> str:
    """The whole page as Markdown."""
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
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE
    path.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
