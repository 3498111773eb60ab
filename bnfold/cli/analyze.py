"""``bnfold analyze``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bnfold.cli import options
from bnfold.errors import BnfoldError
from bnfold.reporting.renderers import FORMATS

if TYPE_CHECKING:
    from bnfold.analysis import Report
    from bnfold.quantization import Int8Report
    from bnfold.reporting.page.sheets import Sheet

_SEVERITIES = ("error", "warning", "info", "never")


@click.command(cls=options.Command)
@click.argument("models", nargs=-1, required=True, type=options.MODEL, metavar="MODEL...")
@options.output_format("text", *FORMATS)
@click.option("--select", multiple=True, metavar="CODES", help="Only these rules: codes or prefixes, with commas.")
@click.option("--ignore", multiple=True, metavar="CODES", help="Not these rules; the longer prefix wins.")
@click.option(
    "--fail-on",
    type=click.Choice(_SEVERITIES),
    help="Exit with 1 for a finding at or above this severity.  [default: error, or the settings file's]",
)
@click.option("--count", is_flag=True, help="Count the findings by rule instead of printing them.")
@click.option("--statistics", "count_as_before", is_flag=True, hidden=True)  # what --count was called in 0.1
@click.option("--stats", is_flag=True, help="Add the numbers behind the rules to every BN.")
@click.option("-v", "--verbose", is_flag=True, help="Show every BN and every finding, also where many are alike.")
@options.int8
@options.report
@options.quiet("Print the findings and nothing else.")
@options.allow_unsafe
def analyze(
    models: Sequence[str],
    output_format: str,
    select: Sequence[str],
    ignore: Sequence[str],
    fail_on: str | None,
    count: bool,
    count_as_before: bool,
    stats: bool,
    verbose: bool,
    int8: str | None,
    report: str | None,
    quiet: bool,
    allow_unsafe: bool,
) -> int:
    """Say how BN is placed in models, what folds, and what is wrong or wasteful.

    For every BN: its channels, the pattern it stands in, its placement, and where folding would put
    it or why it stays. Then the findings (`bnfold rules` lists what is looked for) and a summary.

    Settings are read from bnfold.toml, or [tool.bnfold] in pyproject.toml, found upward from here.
    """
    if int8 is not None and (output_format not in ("text", "json") or len(models) > 1):
        raise click.UsageError("--int8 takes one model, and --format text or json.")
    from bnfold import api
    from bnfold.analysis.config import find_config

    options.check_report(report, *models)
    config = find_config(Path.cwd())
    wanted = _codes(select) or config.select
    dropped = (*config.ignore, *_codes(ignore)) if not select else _codes(ignore)
    reports: list[Report] = []
    sheets: list[Sheet] = []
    failures: dict[str, str] = {}
    worst_exit = 0
    with options.progress(quiet) as progress:
        from bnfold.analysis import select_rules

        select_rules(wanted, dropped)  # a mistake in the arguments ends the call before any model is read
        for model in models:
            progress(f"analyzing {model}")
            try:
                found = api.analyze(
                    model, select=wanted, ignore=dropped, stats=stats or report is not None, allow_unsafe=allow_unsafe
                )
            except BnfoldError as error:
                failures[model] = str(error)
                worst_exit = max(worst_exit, error.exit_code)
            else:
                found = config.without_ignored(found)
            if report is not None:
                from bnfold.reporting.page import sheets as page

                sheets.append(page.of_failure(model, failures[model]) if model in failures else page.of_report(found))
            if model not in failures:
                reports.append(_printed(found, stats))
        measured = None
        if int8 is not None and reports:
            from bnfold.int8 import int8_report

            measured = int8_report(models[0], int8, allow_unsafe=allow_unsafe, progress=progress)
    options.write_report(report, lambda page: sheets)
    _print(output_format, reports, failures, measured, counts=count or count_as_before, quiet=quiet, verbose=verbose)
    return worst_exit or int(_fails(reports, fail_on or config.fail_on))


def _printed(report: Report, stats: bool) -> Report:
    """The report without what is not printed: graphs of many models are large."""
    kept = report.batchnorms if stats else tuple(replace(item, statistics=None) for item in report.batchnorms)
    return replace(report, batchnorms=kept, pair=None)


def _codes(values: Sequence[str]) -> tuple[str, ...]:
    """``--select BN1,BN201 --select BN3`` as one list."""
    return tuple(code for value in values for code in value.split(",") if code.strip())


def _fails(reports: Sequence[Report], level: str) -> bool:
    from bnfold.analysis import Severity

    if level == "never":
        return False
    limit = Severity(level).rank
    return any(worst.rank >= limit for report in reports if (worst := report.worst()) is not None)


def _print(
    output_format: str,
    reports: Sequence[Report],
    failures: Mapping[str, str],
    int8: Int8Report | None,
    *,
    counts: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    from bnfold.reporting import renderers

    for model, sentence in failures.items():
        click.echo(renderers.failure_line(model, sentence), err=True)
    if output_format == "text":
        renderers.print_text(reports, failures, counts=counts, quiet=quiet, verbose=verbose)
        if int8 is not None:
            from bnfold.reporting.console import make_console
            from bnfold.reporting.int8 import print_int8

            print_int8(make_console(), int8)
    elif int8 is not None:
        from bnfold.reporting import as_json

        counted = renderers.rule_counts(reports) if counts else None
        click.echo(as_json.render(reports, failures, counts=counted, int8=int8.to_dict()))
    else:
        click.echo(renderers.render(output_format, reports, failures, counts=counts))
