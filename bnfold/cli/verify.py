"""``bnfold verify``."""

from __future__ import annotations

from typing import Any

import click

from bnfold.cli import options


@click.command(cls=options.Command)
@click.argument("a", type=options.MODEL)
@click.argument("b", type=options.MODEL, required=False)
@options.verification
@options.report
@options.output_format("text", "json")
@options.quiet("Print nothing; the exit code is the answer.")
@options.allow_unsafe
def verify(
    a: str,
    b: str | None,
    report: str | None,
    output_format: str,
    quiet: bool,
    allow_unsafe: bool,
    **verification: Any,
) -> int:
    """Say whether two models are equivalent, or whether onnxruntime's optimisations keep one.

    A and B are any two models, whoever made them. Both are evaluated in float64 on several inputs and must agree
    there, channel by channel. Both run in onnxruntime with its graph optimisations off, and B must not be
    clearly farther from exact than A.

    With one model, compare it with itself under each of onnxruntime's optimisation levels and find
    the optimizer that changes the outputs, if one does.

    Exit codes: 0 equivalent, 1 different or not verified.
    """
    from bnfold import api

    options.check_report(report)
    with options.progress(quiet) as progress:
        progress("verifying")
        how = options.verify_options(verification)
        if b is None:
            check = api.check_runtime(a, allow_unsafe=allow_unsafe, options=how)
        else:
            found = api.verify(a, b, allow_unsafe=allow_unsafe, options=how)
    outcome: Any = check if b is None else found
    options.write_report(
        report,
        lambda sheets: [sheets.of_runtime_check(a, check) if b is None else sheets.of_verification(a, b, found)],
    )
    if output_format == "json":
        from bnfold.reporting import as_json

        models = {"a": a, "b": b} if b is not None else {"model": a}
        click.echo(as_json.dump({**as_json.header(), **models, **outcome.to_dict()}))
    elif not quiet:
        from bnfold.reporting.console import make_console
        from bnfold.reporting.outcomes import print_runtime_check, print_verdict

        if b is None:
            print_runtime_check(make_console(), outcome)
        else:
            print_verdict(make_console(), outcome, details=True)
    return int(not outcome.equivalent)
