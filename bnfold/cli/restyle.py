"""``bnfold restyle``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from bnfold.cli import options, rewriting

if TYPE_CHECKING:
    from rich.console import Console


#: By the names of :class:`bnfold.restyling.Style`, but for --bias.
_STYLE = (
    click.option(
        "--norm", type=click.Choice(["before", "after", "none"]), default="before", show_default=True,
        help="Where BN stands to the activation of every hidden linear layer.",
    ),
    click.option("--on-input", is_flag=True, help="One BN as the first layer as well."),
    click.option("--only", multiple=True, metavar="PATTERN", help="Only these layers, by name (conv_*)."),
    click.option("--except", "exempt", multiple=True, metavar="PATTERN", help="Not these layers."),
    click.option(
        "--bias", type=click.Choice(["auto", "keep"]), default="auto", show_default=True,
        help="auto: a bias goes where a BN follows directly, and comes back where none does.",
    ),
    click.option("--momentum", type=float, help="Momentum of new and moved BN.  [default: Keras's, or its own]"),
    click.option("--epsilon", type=float, help="Epsilon of new and moved BN.  [default: Keras's, or its own]"),
)  # fmt: skip


@click.command(cls=options.Command)
@rewriting.takes(
    rewriting.Asked,
    rewriting.MODEL,
    click.option("-o", "--output", type=options.OUTPUT, metavar="OUT", help="The file to write: .keras or .h5."),
    *_STYLE,
    click.option(
        "--weights", type=click.Choice(["keep", "fresh"]), default="keep", show_default=True,
        help="Keep the weights, or initialise all of them anew.",
    ),
    click.option(
        "--data", type=options.OUTPUT, metavar="FILE",
        help="Start new BN with the statistics of these examples (.npz or .npy) instead of 0 and 1.",
    ),
    click.option("--exact", is_flag=True, help="Write nothing if a change needs training; exit code 1."),
    click.option("--dry-run", is_flag=True, help="Print the change of the layer list and write nothing."),
    click.option("--no-verify", is_flag=True, help="Do not compare what is exact with the original."),
    options.verification_seeded("Seed of fresh weights, and of the random inputs of the comparison."),
    *rewriting.PRINTING,
)  # fmt: skip
def restyle(asked: rewriting.Asked, norm: str, weights: str, data: str | None, exact: bool, **style: Any) -> int:
    """Put BN before or after the activations of a Keras model, or take it out.

    The model stays trainable. A BN that goes is folded, a new one does nothing until it is trained, so that
    outputs stay the same wherever that is possible, which is verified. Changes after which the model computes
    something else until it is trained are listed. No BN is put behind the last linear layer, into attention,
    or on a residual sum.
    """
    from bnfold.api import fresh_seed
    from bnfold.pipeline import restyle_file
    from bnfold.restyling import style_of

    wanted = style_of(norm, keep_bias=style.pop("bias") == "keep", **style)
    with options.progress(asked.quiet) as progress:
        result = restyle_file(
            asked.model,
            None if asked.dry_run else asked.output,
            wanted,
            fresh=fresh_seed(weights, asked.verification["seed"]),
            data=data,
            exact=exact,
            verify=not asked.no_verify,
            options=asked.verify_options(),
            allow_unsafe=asked.allow_unsafe,
            progress=progress,
        )

    def show(console: Console) -> None:
        from bnfold.reporting.restyled import print_restyle

        print_restyle(console, asked.model, result, layers=asked.dry_run)

    return asked.end(result, lambda sheets: sheets.of_restyle(asked.model, result), show, failed=bool(result.refused))
