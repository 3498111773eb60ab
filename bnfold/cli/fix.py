"""``bnfold fix``."""

from __future__ import annotations

from typing import Any

import click

from bnfold.cli import options


@click.command(cls=options.Command)
@click.argument("model", type=options.MODEL)
@click.option("-o", "--output", type=options.OUTPUT, required=True, metavar="OUT", help="The file to write.")
@click.option("--no-verify", is_flag=True, help="Do not compare the written model with the original.")
@click.option("--external-data", is_flag=True, help="Put weights into a file of their own (automatic above 2 GB).")
@options.verification
@options.report
@options.output_format("text", "json")
@options.quiet("Print nothing unless something is wrong.")
@options.allow_unsafe
def fix(
    model: str,
    output: str,
    no_verify: bool,
    external_data: bool,
    report: str | None,
    output_format: str,
    quiet: bool,
    allow_unsafe: bool,
    **verification: Any,
) -> int:
    """Repair what is wasteful without folding: the model stays trainable.

    Biases that a BN cancels go into its moving mean (BN201), BN that do nothing are removed (BN204),
    and weights are taken off an ONNX model's inputs (BN403). Outputs stay the same, which is verified
    before the file gets its name. The findings that remain are listed.
    """
    from bnfold.pipeline import fix_file

    options.check_report(report, model, output)

    with options.progress(quiet) as progress:
        result = fix_file(
            model,
            output,
            verify=not no_verify,
            options=None if no_verify else options.verify_options(verification),
            external_data=external_data or None,
            allow_unsafe=allow_unsafe,
            progress=progress,
        )
    options.write_report(report, lambda sheets: [sheets.of_fix(model, result)])
    failed = result.verification is not None and not result.verification.equivalent
    if output_format == "json":
        from bnfold.reporting import as_json

        click.echo(as_json.dump({**as_json.header(), "model": model, **result.to_dict()}))
    elif failed or not quiet:
        from bnfold.reporting.console import make_console
        from bnfold.reporting.outcomes import print_fix

        print_fix(make_console(), model, result)
    return int(failed)
