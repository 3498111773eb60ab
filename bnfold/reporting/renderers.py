"""The formats of ``analyze``: which function writes which. Each is imported when it is asked for."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from bnfold.reporting.text import clean

if TYPE_CHECKING:
    from bnfold.analysis import Report

#: The module of each format, beside text.
FORMATS = {"json": "as_json", "sarif": "as_sarif", "github": "as_github", "markdown": "as_markdown"}


def render(output_format: str, reports: Sequence[Report], failures: Mapping[str, str], *, counts: bool = False) -> str:
    """All reports as one text. ``failures`` are models that could not be read, with the reason.

    ``counts`` asks for findings by rule, for the formats that are not a protocol of their own.
    """
    module = import_module(f"bnfold.reporting.{FORMATS[output_format]}")
    return str(module.render(reports, failures, counts=rule_counts(reports) if counts else None))


def print_text(
    reports: Sequence[Report], failures: Mapping[str, str], *, counts: bool, quiet: bool, verbose: bool = False
) -> None:
    """All reports on the console; several end in a table."""
    from bnfold.reporting import as_text
    from bnfold.reporting.console import make_console

    console = make_console()
    if counts:
        as_text.print_counts(console, rule_counts(reports))
        return
    several = len(reports) + len(failures) > 1
    for report in reports:
        as_text.print_report(console, report, quiet=quiet, verbose=verbose, several=several)
    if several and not quiet:
        as_text.print_overview(console, reports, failures)


def rule_counts(reports: Sequence[Report]) -> list[tuple[int, str, str]]:
    """(count, code, name) of every rule that was true somewhere, most often first."""
    found = Counter((finding.code, finding.name) for report in reports for finding in report.findings)
    return [(count, code, name) for (code, name), count in sorted(found.items(), key=lambda item: (-item[1], item[0]))]


def failure_line(model: str, sentence: str) -> str:
    """How a model that cannot be read is reported on stderr."""
    return clean(f"bnfold: {sentence}" if names(sentence, model) else f"bnfold: {model}: {sentence}")


def names(sentence: str, model: str) -> bool:
    """Does a sentence say of which model it speaks, be it in another spelling of the path (``./a`` and ``a``)?"""
    return model in sentence or os.path.normpath(model) in sentence
