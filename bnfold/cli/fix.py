"""``bnfold fix``."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import click

from bnfold.cli import options, rewriting

if TYPE_CHECKING:
    from rich.console import Console

    from bnfold.results import FixResult


@click.command(cls=options.Command)
@rewriting.takes(
    rewriting.Asked,
    rewriting.MODEL,
    click.option("-o", "--output", type=options.OUTPUT, required=True, metavar="OUT", help="The file to write."),
    rewriting.NO_VERIFY,
    rewriting.EXTERNAL_DATA,
    options.verification,
    *rewriting.PRINTING,
)
def fix(asked: rewriting.Asked) -> int:
    """Repair what is wasteful without folding: the model stays trainable.

    Biases that a BN cancels go into its moving mean (BN201), BN that do nothing are removed (BN204),
    and weights are taken off an ONNX model's inputs (BN403). Outputs stay the same, which is verified
    before the file gets its name. The findings that remain are listed.
    """
    from bnfold.pipeline import fix_file

    assert asked.output is not None, "it is required"
    with options.progress(asked.quiet) as progress:
        result = fix_file(
            asked.model,
            asked.output,
            verify=not asked.no_verify,
            options=asked.verify_options(),
            external_data=asked.external_data or None,
            allow_unsafe=asked.allow_unsafe,
            progress=progress,
        )
    return asked.end(result, lambda sheets: sheets.of_fix(asked.model, result), partial(_show, asked.model, result))


def _show(model: str, result: FixResult, console: Console) -> None:
    from bnfold.reporting.outcomes import print_fix

    print_fix(console, model, result)
