"""``bnfold fold``."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import click

from bnfold.cli import options, rewriting

if TYPE_CHECKING:
    from rich.console import Console

    from bnfold.results import FoldResult


@click.command(cls=options.Command)
@rewriting.takes(
    rewriting.AskedToFold,
    rewriting.MODEL,
    rewriting.OUTPUT,
    rewriting.DRY_RUN,
    click.option(
        "--keep-going", is_flag=True, help="If outputs differ, leave out the steps at fault and write the rest."
    ),
    click.option("--latency", is_flag=True, help="Time both models in onnxruntime, its optimisations on."),
    *rewriting.FOLDING,
)
def fold(asked: rewriting.AskedToFold, keep_going: bool, latency: bool) -> int:
    """Fold every BN that algebra can remove, verify, and write the model.

    The written file is compared with the original before it gets its name: evaluated in float64 both must
    agree, channel by channel, and what onnxruntime computes with it must be as accurate. Otherwise
    nothing is written and the exit code is 1.
    """
    from bnfold import api
    from bnfold.pipeline import fold_file

    to_file = partial(fold_file, keep_going=keep_going, latency=latency)
    result, int8 = asked.carry_out("folding", api.fold, to_file, runs_models=latency)
    return asked.end(
        result, lambda sheets: sheets.of_fold(asked.model, result), partial(_show, asked.model, result), int8
    )


def _show(model: str, result: FoldResult, console: Console) -> None:
    from bnfold.reporting.outcomes import print_fold

    print_fold(console, model, result)
