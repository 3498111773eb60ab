"""``--format markdown``: for a comment on a pull request."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from bnfold.analysis import Report
from bnfold.analysis.phrases import plural
from bnfold.reporting.text import clean

_ICONS = {"error": "🔴 error", "warning": "🟡 warning", "info": "🔵 info"}
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~])")


def render(
    reports: Sequence[Report], failures: Mapping[str, str], *, counts: Sequence[tuple[int, str, str]] | None = None
) -> str:
    """A section a model: findings as a table, placements folded away."""
    parts = [_section(report) for report in reports]
    parts += [f"### {_text(model)}\n\n🔴 {_text(sentence)}" for model, sentence in failures.items()]
    if counts is not None:
        rows = [f"| {count} | {code} | {name} |" for count, code, name in counts]
        parts.append("\n".join(["| count | code | rule |", "| ---: | --- | --- |", *rows]))
    return "\n\n".join(parts)


def _section(report: Report) -> str:
    summary = report.summary
    head = f"### {_text(report.model)}\n\n"
    if not report.batchnorms:
        head += "No BatchNormalization in this model."
    else:
        head += f"{plural(summary.batchnorms, 'BN', 'BN')}, {summary.foldable} of them fold."
    return "\n\n".join(part for part in (head, _findings(report), _placements(report)) if part)


def _findings(report: Report) -> str:
    if not report.findings:
        return "No findings."
    rows = [
        f"| {_ICONS[finding.severity.value]} | {finding.code} | {_text(finding.layer)} | {_text(finding.message)} |"
        for finding in report.findings
    ]
    return "\n".join(["| severity | rule | layer | finding |", "| --- | --- | --- | --- |", *rows])


def _placements(report: Report) -> str:
    if not report.batchnorms:
        return ""
    rows = [
        f"| {_text(item.name)} | {item.channels or '?'} | {_text(item.pattern)} | {item.placement.value} "
        f"| {_text(item.foldability.sentence())} |"
        for item in report.batchnorms
    ]
    table = ["| BN | channels | pattern | placement | folding |", "| --- | ---: | --- | --- | --- |", *rows]
    title = f"<summary>{plural(len(rows), 'BatchNormalization')}</summary>"
    return "\n".join(["<details>", title, "", *table, "", "</details>"])


def _text(text: str) -> str:
    """Plain text: nothing in a name or a sentence is Markdown or HTML."""
    return _SPECIAL.sub(r"\\\1", clean(text))
