"""``--format github``: workflow commands, which GitHub shows as annotations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bnfold.analysis import Finding, Report, Severity
from bnfold.reporting.text import clean

_COMMANDS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "notice"}


def render(
    reports: Sequence[Report], failures: Mapping[str, str], *, counts: Sequence[tuple[int, str, str]] | None = None
) -> str:
    """One line a finding, and one for each model that could not be read."""
    lines = [_finding(report, finding) for report in reports for finding in report.findings]
    lines += [_command("error", model, "bnfold", sentence) for model, sentence in failures.items()]
    return "\n".join(lines)


def _finding(report: Report, finding: Finding) -> str:
    title = f"{finding.code} {finding.name}"
    return _command(_COMMANDS[finding.severity], report.model, title, finding.message)


def _command(command: str, model: str, title: str, message: str) -> str:
    return f"::{command} file={_property(model)},title={_property(title)}::{_data(message)}"


def _data(text: str) -> str:
    """Escaped as the runner undoes it: the percent sign first, then line ends, which would end the command."""
    escaped = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return clean(escaped)


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
