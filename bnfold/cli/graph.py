"""``bnfold graph``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from bnfold.cli import options

if TYPE_CHECKING:
    from bnfold.reporting.drawing.view import View


@click.command(cls=options.Command)
@click.argument("model", type=options.MODEL)
@click.option("-o", "--output", type=options.OUTPUT, required=True, metavar="OUT", help="The file to write.")
@click.option(
    "--format", "graph_format", type=click.Choice(("dot", "graphml", "json", "svg", "png", "model-explorer")),
    help="How to write it.  [default: as the suffix of OUT says]",
)  # fmt: skip
@click.option("--around", metavar="NAME", help="Only what is near the operator, layer or tensor of this name.")
@click.option(
    "--depth", type=click.IntRange(min=0), default=2, show_default=True, metavar="N",
    help="How many operators to each side of NAME.",
)  # fmt: skip
@click.option("--after", is_flag=True, help="The folded model, not the model as it is.")
@click.option("--compare", is_flag=True, help="Before beside after, as an .svg that needs no Graphviz.")
@options.quiet("Print nothing.")
@options.allow_unsafe
def graph(
    model: str,
    output: str,
    graph_format: str | None,
    around: str | None,
    depth: int,
    after: bool,
    compare: bool,
    quiet: bool,
    allow_unsafe: bool,
) -> int:
    """Write a model's graph, with placements, findings and plan, as a picture or for programs.

    The suffix of OUT decides: .dot, .graphml, .json (node-link, as networkx reads it), or .svg and .png,
    which Graphviz draws. --format model-explorer writes what Google's Model Explorer opens: the graph in
    OUT, and beside it the overlay of its nodes, the folded graph and the navigation between the two.
    """
    from bnfold import api
    from bnfold.errors import UsageError
    from bnfold.reporting.drawing import files, selection
    from bnfold.reporting.drawing.view import around as near
    from bnfold.reporting.drawing.view import picture

    wanted = files.format_of(output, graph_format)
    if options.resolved(output) == options.resolved(model):
        raise UsageError(f"{output} is the input itself; give the output another name")
    if wanted == "model-explorer" and (around or after):
        raise click.UsageError("--format model-explorer writes the whole model, before and after folding.")
    if compare and (after or wanted != "svg"):
        raise click.UsageError(
            "--compare shows the model before and after folding in one .svg; it takes no other format, and no --after."
        )
    with options.progress(quiet) as progress:
        progress("reading the model")
        report = api.analyze(model, stats=True, allow_unsafe=allow_unsafe)
        assert report.pair is not None
        drawn = picture(report.pair, report)
        if wanted == "model-explorer":
            from bnfold.reporting.drawing import model_explorer

            files.write_all(model_explorer.files(output, model, drawn))
        elif compare:
            from bnfold.reporting.drawing.svg import side_by_side

            chosen = None if around is None else selection.named(drawn.before, around, model)
            files.write(output, side_by_side(drawn, chosen, depth).encode("utf-8", "backslashreplace"))
        else:
            view: View = drawn.after if after else drawn.before
            if around is not None:
                view = near(view, selection.named(view, around, model), depth)
            progress("drawing")
            files.write(output, files.render(view, wanted))
    return 0
