"""``bnfold fold``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from bnfold.cli import options

if TYPE_CHECKING:
    from rich.console import Console

    from bnfold.results import FoldResult


@click.command(cls=options.Command)
@click.argument("model", type=options.MODEL)
@click.option("-o", "--output", type=options.OUTPUT, metavar="OUT", help="The file to write; its suffix decides.")
@click.option("--dry-run", is_flag=True, help="Print the plan and write nothing.")
@click.option("--no-verify", is_flag=True, help="Do not compare the written model with the original.")
@click.option("--no-branches", is_flag=True, help="Do not merge parallel linear branches.")
@click.option("--keep-overridable", is_flag=True, help="Leave weights alone that are inputs of the model too.")
@click.option("--keep-going", is_flag=True, help="If outputs differ, leave out the steps at fault and write the rest.")
@click.option("--latency", is_flag=True, help="Time both models in onnxruntime, its optimisations on.")
@click.option("--external-data", is_flag=True, help="Put weights into a file of their own (automatic above 2 GB).")
@options.int8
@options.verification
@options.report
@options.output_format("text", "json")
@options.quiet("Print nothing unless something is wrong.")
@options.allow_unsafe
def fold(
    model: str,
    output: str | None,
    dry_run: bool,
    no_verify: bool,
    no_branches: bool,
    keep_overridable: bool,
    keep_going: bool,
    latency: bool,
    external_data: bool,
    int8: str | None,
    report: str | None,
    output_format: str,
    quiet: bool,
    allow_unsafe: bool,
    **verification: Any,
) -> int:
    """Fold every BN that algebra can remove, verify, and write the model.

    The written file is compared with the original in onnxruntime before it gets its name: if the
    outputs differ by more than rounding explains, nothing is written and the exit code is 1.
    """
    if output is None and not dry_run:
        raise click.UsageError("Say where to write with -o OUT, or pass --dry-run to see the plan.")
    if no_verify and keep_going:
        raise click.UsageError("--keep-going needs the verification that --no-verify leaves out.")
    from bnfold import api
    from bnfold.pipeline import fold_file

    options.check_report(report, model, output)

    with options.progress(quiet) as progress:
        if dry_run or output is None:
            progress("folding")
            result = api.fold(
                model, branches=not no_branches, keep_overridable=keep_overridable, allow_unsafe=allow_unsafe
            )
        else:
            result = fold_file(
                model,
                output,
                branches=not no_branches,
                keep_overridable=keep_overridable,
                verify=not no_verify,
                options=None if no_verify and not latency else options.verify_options(verification),
                keep_going=keep_going,
                latency=latency,
                external_data=external_data or None,
                allow_unsafe=allow_unsafe,
                progress=progress,
            )
        measured = None
        if int8 is not None:
            from bnfold.int8 import int8_report

            measured = int8_report(model, int8, allow_unsafe=allow_unsafe, progress=progress)
    options.write_report(report, lambda sheets: [sheets.of_fold(model, result)])
    failed = result.verification is not None and not result.verification.equivalent
    if output_format == "json" or failed or not quiet:
        options.print_result(output_format, model, result, measured, lambda console: _show(console, model, result))
    return int(failed)


def _show(console: Console, model: str, result: FoldResult) -> None:
    from bnfold.reporting.outcomes import print_fold

    print_fold(console, model, result)
