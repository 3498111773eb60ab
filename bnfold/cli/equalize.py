"""``bnfold equalize``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from bnfold.cli import options

if TYPE_CHECKING:
    from rich.console import Console

    from bnfold.results import EqualizeResult


@click.command(cls=options.Command)
@click.argument("model", type=options.MODEL)
@click.option("-o", "--output", type=options.OUTPUT, metavar="OUT", help="The file to write; its suffix decides.")
@click.option("--dry-run", is_flag=True, help="Print the plan and write nothing.")
@click.option("--exact-scale", is_flag=True, help="Scales that level best, instead of powers of two.")
@click.option("--no-verify", is_flag=True, help="Do not compare the written model with the original.")
@click.option("--no-branches", is_flag=True, help="Do not merge parallel linear branches.")
@click.option("--keep-overridable", is_flag=True, help="Leave weights alone that are inputs of the model too.")
@click.option("--external-data", is_flag=True, help="Put weights into a file of their own (automatic above 2 GB).")
@options.int8
@options.report
@options.verification
@options.output_format("text", "json")
@options.quiet("Print nothing unless something is wrong.")
@options.allow_unsafe
def equalize(
    model: str,
    output: str | None,
    dry_run: bool,
    exact_scale: bool,
    no_verify: bool,
    no_branches: bool,
    keep_overridable: bool,
    external_data: bool,
    int8: str | None,
    report: str | None,
    output_format: str,
    quiet: bool,
    allow_unsafe: bool,
    **verification: Any,
) -> int:
    """Fold, level the weight ranges for int8, verify, and write the model.

    The channels between layers get positive scales that their writers and readers take into their
    weights: the model computes the same, and one int8 scale for a whole tensor loses less of it. With
    powers of two, the default, float outputs stay the same to the bit.
    """
    if output is None and not dry_run:
        raise click.UsageError("Say where to write with -o OUT, or pass --dry-run to see the plan.")
    from bnfold import api
    from bnfold.pipeline import equalize_file

    options.check_report(report, model, output, int8, verification["inputs"])
    choices: dict[str, Any] = {
        "exact": exact_scale,
        "branches": not no_branches,
        "keep_overridable": keep_overridable,
        "allow_unsafe": allow_unsafe,
    }
    with options.progress(quiet) as progress:
        if dry_run or output is None:
            progress("equalising")
            result = api.equalize(model, **choices)
        else:
            result = equalize_file(
                model,
                output,
                verify=not no_verify,
                options=None if no_verify else options.verify_options(verification),
                external_data=external_data or None,
                progress=progress,
                **choices,
            )
        measured = None
        if int8 is not None:
            from bnfold.int8 import int8_report

            measured = int8_report(model, int8, exact=exact_scale, allow_unsafe=allow_unsafe, progress=progress)
    options.write_report(report, lambda sheets: [sheets.of_equalize(model, result)])
    failed = result.verification is not None and not result.verification.equivalent
    if output_format == "json" or failed or not quiet:
        options.print_result(output_format, model, result, measured, lambda console: _show(console, model, result))
    return int(failed)


def _show(console: Console, model: str, result: EqualizeResult) -> None:
    from bnfold.reporting.int8 import print_equalize

    print_equalize(console, model, result)
