"""``bnfold restyle``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from bnfold.cli import options

if TYPE_CHECKING:
    from bnfold.results import RestyleResult


@click.command(cls=options.Command)
@click.argument("model", type=options.MODEL)
@click.option("-o", "--output", type=options.OUTPUT, metavar="OUT", help="The file to write: .keras or .h5.")
@click.option(
    "--norm", type=click.Choice(["before", "after", "none"]), default="before", show_default=True,
    help="Where BN stands to the activation of every hidden linear layer.",
)  # fmt: skip
@click.option("--on-input", is_flag=True, help="One BN as the first layer as well.")
@click.option("--only", multiple=True, metavar="PATTERN", help="Only these layers, by name (conv_*).")
@click.option("--except", "exempt", multiple=True, metavar="PATTERN", help="Not these layers.")
@click.option(
    "--bias", type=click.Choice(["auto", "keep"]), default="auto", show_default=True,
    help="auto: a bias goes where a BN follows directly, and comes back where none does.",
)  # fmt: skip
@click.option(
    "--weights", type=click.Choice(["keep", "fresh"]), default="keep", show_default=True,
    help="Keep the weights, or initialise all of them anew.",
)  # fmt: skip
@click.option("--momentum", type=float, help="Of new and moved BN.  [default: Keras's, or its own]")
@click.option("--epsilon", type=float, help="Of new and moved BN.  [default: Keras's, or its own]")
@click.option(
    "--data", type=options.OUTPUT, metavar="FILE",
    help="Start new BN with the statistics of these examples (.npz or .npy) instead of 0 and 1.",
)  # fmt: skip
@options.report
@click.option("--exact", is_flag=True, help="Write nothing if a change needs training; exit code 1.")
@click.option("--dry-run", is_flag=True, help="Print the change of the layer list and write nothing.")
@click.option("--no-verify", is_flag=True, help="Do not compare what is exact with the original.")
@options.verification_seeded("Seed of fresh weights, and of the random inputs of the comparison.")
@options.output_format("text", "json")
@options.quiet("Print nothing unless something is wrong.")
@options.allow_unsafe
def restyle(
    model: str,
    output: str | None,
    norm: str,
    on_input: bool,
    only: Sequence[str],
    exempt: Sequence[str],
    bias: str,
    weights: str,
    momentum: float | None,
    epsilon: float | None,
    data: str | None,
    report: str | None,
    exact: bool,
    dry_run: bool,
    no_verify: bool,
    output_format: str,
    quiet: bool,
    allow_unsafe: bool,
    **verification: Any,
) -> int:
    """Put BN before or after the activations of a Keras model, or take it out: the model stays trainable.

    A BN that goes is folded, a new one does nothing until it is trained, so that outputs stay the same wherever
    that is possible, which is verified. Changes after which the model computes something else until it is
    trained are listed. No BN is put behind the last linear layer, into attention, or on a residual sum.
    """
    if output is None and not dry_run:
        raise click.UsageError("Missing option '-o': where is the model to be written? (--dry-run writes nothing)")
    from bnfold.api import fresh_seed
    from bnfold.pipeline import restyle_file
    from bnfold.restyling import style_of

    options.check_report(report, model, output, data, verification["inputs"])
    style = style_of(
        norm, on_input=on_input, only=tuple(only), exempt=tuple(exempt), keep_bias=bias == "keep",
        momentum=momentum, epsilon=epsilon,
    )  # fmt: skip
    with options.progress(quiet) as progress:
        result = restyle_file(
            model,
            None if dry_run else output,
            style,
            fresh=fresh_seed(weights, verification["seed"]),
            data=data,
            exact=exact,
            verify=not no_verify,
            options=None if no_verify else options.verify_options(verification),
            allow_unsafe=allow_unsafe,
            progress=progress,
        )
    options.write_report(report, lambda sheets: [sheets.of_restyle(model, result)])
    failed = bool(result.refused) or not result.equivalent
    _print(model, result, output_format, quiet and not failed, dry_run)
    return int(failed)


def _print(model: str, result: RestyleResult, output_format: str, quiet: bool, dry_run: bool) -> None:
    if output_format == "json":
        from bnfold.reporting import as_json

        click.echo(as_json.dump({**as_json.header(), "model": model, **result.to_dict()}))
    elif not quiet:
        from bnfold.reporting.console import make_console
        from bnfold.reporting.restyled import print_restyle

        print_restyle(make_console(), model, result, layers=dry_run)
