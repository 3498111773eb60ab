"""``bnfold equalize``."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import click

from bnfold.cli import options, rewriting

if TYPE_CHECKING:
    from rich.console import Console

    from bnfold.results import EqualizeResult


@click.command(cls=options.Command)
@rewriting.takes(
    rewriting.AskedToFold,
    rewriting.MODEL,
    rewriting.OUTPUT,
    rewriting.DRY_RUN,
    click.option("--exact-scale", is_flag=True, help="Scales that level best, instead of powers of two."),
    *rewriting.FOLDING,
)
def equalize(asked: rewriting.AskedToFold, exact_scale: bool) -> int:
    """Fold, level the weight ranges for int8, verify, and write the model.

    The channels between layers get positive scales that their writers and readers take into their
    weights: the model computes the same, and one int8 scale for a whole tensor loses less of it. With
    powers of two, the default, float outputs stay the same to the bit.
    """
    from bnfold import api
    from bnfold.pipeline import equalize_file

    in_memory, to_file = (partial(function, exact=exact_scale) for function in (api.equalize, equalize_file))
    result, int8 = asked.carry_out("equalising", in_memory, to_file, exact=exact_scale)
    return asked.end(
        result, lambda sheets: sheets.of_equalize(asked.model, result), partial(_show, asked.model, result), int8
    )


def _show(model: str, result: EqualizeResult, console: Console) -> None:
    from bnfold.reporting.int8 import print_equalize

    print_equalize(console, model, result)
