"""``bnfold scan``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bnfold.cli import options

if TYPE_CHECKING:
    from bnfold.jobs import Progress
    from bnfold.scanning.row import Row

_FORMATS = ("text", "json", "sarif", "github")
_RANKS = {"error": 3, "warning": 2, "info": 1}
_POSITIVE = click.FloatRange(min=0, min_open=True)


@click.command()
@click.argument("targets", nargs=-1, required=True, metavar="TARGET...")
@click.option(
    "--store", default="bnfold-scan.sqlite", show_default=True, metavar="FILE", help="Where results are kept."
)
@options.rules
@click.option("--fold-to", metavar="FOLDER|URL", help="Fold and verify what folds, and put it there.")
@click.option("--refresh", is_flag=True, help="Read again what has not changed.")
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Models at a time.  [default: the cores]")
@click.option("--scheduler", metavar="ADDRESS", help="Run on this Dask cluster instead.")
@click.option(
    "--timeout", type=_POSITIVE, default=300.0, show_default=True, metavar="SECONDS", help="Time for one model."
)
@click.option("--memory", type=_POSITIVE, default=4000.0, show_default=True, metavar="MB", help="Memory for one model.")
@click.option("--spare-bytes", is_flag=True, help="Read the fewest bytes of a remote model, in more requests.")
@click.option("--weights", is_flag=True, help="Read remote models whole, for what depends on the values of weights.")
@click.option(
    "--skip-from", type=_POSITIVE, metavar="KB", help="What a round trip is worth in remote reads.  [default: measured]"
)
@click.option("--export", "export_to", metavar="FILE", help="Write a table of all models (.parquet or .csv).")
@options.report
@options.output_format(*_FORMATS)
@options.quiet("Print nothing but what failed.")
@options.allow_unsafe
@click.pass_context
def scan(
    context: click.Context,
    /,
    targets: Sequence[str],
    store: str,
    fail_on: str | None,
    output_format: str,
    quiet: bool,
    **given: Any,
) -> int:
    """Analyze, and fold, any number of models: files, folders, globs and URLs.

    Each model is a job in a process of its own, with limits of time and memory. Results are kept in
    a store, and what has not changed is not read again; an interrupted scan goes on where it was.

    Exit codes: 0 done; 1 a finding at --fail-on or above, or a model that failed; 2 wrong usage.
    """
    from bnfold.analysis.config import find_config
    from bnfold.errors import UsageError
    from bnfold.scanning.discovery import SUFFIXES
    from bnfold.scanning.export import check_export, export
    from bnfold.scanning.records import ScanStore
    from bnfold.scanning.scanner import Scan, scan_into

    config = find_config(Path.cwd())
    export_to, report = given["export_to"], given["report"]
    options.check_report(report, *targets, store, export_to)
    if report is not None and report.lower().endswith(SUFFIXES):
        raise UsageError(f"{report}: a page does not get the name of a model; call it .html")
    if export_to is not None:
        check_export(export_to)
        if options.resolved(export_to) == options.resolved(store):
            raise UsageError(f"{export_to} is the store; give the table another name")
    wanted, dropped = options.chosen_rules(config, given["select"], given["ignore"])
    what = Scan(
        select=wanted, ignore=dropped, config=config, custom=options.custom_modules(context),
        allow_unsafe=given["allow_unsafe"], fold_to=given["fold_to"], timeout=given["timeout"],
        memory=int(given["memory"] * 1e6), refresh=given["refresh"], spare_bytes=given["spare_bytes"],
        weights=given["weights"], skip_from=None if given["skip_from"] is None else int(given["skip_from"] * 1e3),
    )  # fmt: skip
    with ScanStore(store) as opened:
        with _watching(quiet) as watch, _engine(given["scheduler"]) as engine:
            for _ in scan_into(opened, targets, what, workers=given["workers"], on_progress=watch, **engine):
                pass
        if export_to is not None:
            export(opened, export_to)
        options.write_report(report, lambda sheets: [sheets.of_scan(opened)])
        _print(output_format, opened, quiet)
        return int(_fails(opened, fail_on or config.fail_on))


@contextmanager
def _engine(scheduler: str | None) -> Iterator[dict[str, Any]]:
    """Where jobs run, as arguments of a scan: this machine, or a cluster."""
    if scheduler is None:
        yield {}
        return
    from bnfold.jobs.cluster import connected

    with connected(scheduler) as run_jobs:
        yield {"run_jobs": run_jobs}


def _print(output_format: str, store: Any, quiet: bool) -> None:
    from bnfold.reporting import renderers, scan

    if output_format != "text":
        click.echo(scan.render(output_format, store))
    elif not quiet:
        from bnfold.reporting.console import make_console

        scan.print_summary(make_console(), store)
    if quiet or output_format != "text":
        for path, sentence in store.failures().items():
            click.echo(renderers.failure_line(path, sentence), err=True)


def _fails(store: Any, level: str) -> bool:
    failed = bool(store.failures())
    if level == "never":
        return failed
    (worst,) = store.query(
        "select max(case severity when 'error' then 3 when 'warning' then 2 else 1 end) from findings"
    ).fetchone()
    return failed or (worst or 0) >= _RANKS[level]


@contextmanager
def _watching(quiet: bool) -> Iterator[Callable[[Progress, Row], None]]:
    """How far it has got, on a terminal's stderr."""
    import sys

    if quiet or not sys.stderr.isatty():
        yield lambda progress, row: None
        return
    from bnfold.cli.scan_progress import ScanProgress

    with ScanProgress() as shown:
        yield shown.update
