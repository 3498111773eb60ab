"""``bnfold analyze``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bnfold.cli import options
from bnfold.errors import BnfoldError
from bnfold.reporting.renderers import FORMATS

if TYPE_CHECKING:
    from bnfold.analysis import Report
    from bnfold.analysis.config import Config
    from bnfold.quantization import Int8Report
    from bnfold.reporting.page.sheet import Sheet


@click.command(cls=options.Command)
@click.argument("models", nargs=-1, required=True, type=options.MODEL, metavar="MODEL...")
@options.output_format("text", *FORMATS)
@options.rules
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
    verbose: bool,
    int8: str | None,
    quiet: bool,
    **how: Any,
) -> int:
    """Say how BN is placed in models, what folds, and what is wrong or wasteful.

    For every BN: its channels, the pattern it stands in, its placement, and where folding would put
    it or why it stays. Then the findings (`bnfold rules` lists what is looked for) and a summary.

    Settings are read from bnfold.toml, or [tool.bnfold] in pyproject.toml, found upward from here.
    """
    if int8 is not None and (output_format not in ("text", "json") or len(models) > 1):
        raise click.UsageError("--int8 takes one model, and --format text or json.")
    from bnfold.analysis import select_rules
    from bnfold.analysis.config import find_config

    options.check_report(how["report"])
    config = find_config(Path.cwd())
    wanted, dropped = options.chosen_rules(config, select, ignore)
    select_rules(wanted, dropped)  # a mistake in the arguments ends the call before any model is read
    with options.progress(quiet) as progress:
        found = _analyzed(models, config, progress, select=wanted, ignore=dropped, **how)
        measured = None
        if int8 is not None and found.reports:
            from bnfold.pipeline.int8 import int8_report

            measured = int8_report(models[0], int8, allow_unsafe=how["allow_unsafe"], progress=progress)
    options.write_report(how["report"], lambda page: found.sheets)
    _print(output_format, found, measured, counts=count or count_as_before, quiet=quiet, verbose=verbose)
    return found.exit_code or int(_fails(found.reports, fail_on or config.fail_on))


@dataclass(slots=True)
class _Found:
    """What came of some models: reports, the sentences why others could not be read, and the sheets of the page."""

    reports: list[Report] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    sheets: list[Sheet] = field(default_factory=list)
    exit_code: int = 0


def _analyzed(
    models: Sequence[str],
    config: Config,
    progress: Callable[[str], None],
    *,
    stats: bool,
    report: str | None,
    **how: Any,
) -> _Found:
    """One model after the other. Of each only what is shown is kept."""
    from bnfold import api

    found = _Found()
    for model in models:
        progress(f"analyzing {model}")
        try:
            made = config.without_ignored(api.analyze(model, stats=stats or report is not None, **how))
        except BnfoldError as error:
            found.failures[model] = str(error)
            found.exit_code = max(found.exit_code, error.exit_code)
        else:
            found.reports.append(_printed(made, stats))
        if report is not None:
            from bnfold.reporting.page import sheets

            failure = found.failures.get(model)
            found.sheets.append(sheets.of_report(made) if failure is None else sheets.of_failure(model, failure))
    return found


def _printed(report: Report, stats: bool) -> Report:
    """The report without what is not printed: graphs of many models are large."""
    kept = report.batchnorms if stats else tuple(replace(item, statistics=None) for item in report.batchnorms)
    return replace(report, batchnorms=kept, pair=None)


def _fails(reports: Sequence[Report], level: str) -> bool:
    from bnfold.analysis import Severity

    if level == "never":
        return False
    limit = Severity(level).rank
    return any(worst.rank >= limit for report in reports if (worst := report.worst()) is not None)


def _print(
    output_format: str,
    found: _Found,
    int8: Int8Report | None,
    *,
    counts: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    from bnfold.reporting import renderers

    reports, failures = found.reports, found.failures
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
