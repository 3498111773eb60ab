"""``bnfold experiment``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from bnfold.cli import options

if TYPE_CHECKING:
    from bnfold.experiment.results import ExperimentResult
    from bnfold.experiment.schedule import Plan

_COUNT = click.IntRange(min=1)
_POSITIVE = click.FloatRange(min=0, min_open=True)


def _numbers(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[float, ...] | None:
    """``0.001,0.003``; ``own`` for the rate that the model was compiled with."""
    if text is None:
        return None
    if text == "own":
        return ()
    try:
        rates = tuple(float(part) for part in text.split(","))
    except ValueError:
        rates = ()
    if not rates or not all(0 < rate < float("inf") for rate in rates):
        raise click.BadParameter(f"{text!r} is not a list of positive numbers such as 0.001,0.003, nor the word own")
    return rates


#: By the names of :class:`bnfold.experiment.schedule.Settings`.
_TRAINING = (
    click.option("--epochs", type=_COUNT, required=True, metavar="N", help="Epochs of each run."),
    click.option("--batch-size", type=_COUNT, default=32, show_default=True, metavar="N", help="Examples a batch."),
    click.option(
        "--metric", metavar="NAME",
        help="What to compare by, with :max or :min where the name does not say which is better.",
    ),
    click.option("--optimizer", metavar="NAME", help="An optimizer by its name in Keras, in place of the model's own."),
    click.option("--loss", metavar="NAME", help="A loss by its name in Keras, in place of the model's own."),
    click.option(
        "--early-stopping", "patience", type=_COUNT, metavar="N", help="End a run after N epochs without a better one."
    ),
    click.option(
        "--validation", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.2, show_default=True,
        metavar="PART",
        help="The part of the training data that is split off where there are no validation data.",
    ),
    click.option(
        "--weights", "keep_weights", type=click.Choice(["fresh", "keep"]), default="fresh", show_default=True,
        callback=lambda context, parameter, word: word == "keep",
        help="Begin anew, or go on from the model's weights.",
    ),
    click.option("--threads", type=_COUNT, default=1, show_default=True, metavar="N", help="Threads of each run."),
)  # fmt: skip
#: By the names of :func:`bnfold.experiment.conduct.conduct`, and the limits of each run.
_PLACE = (
    click.option(
        "--store", type=options.OUTPUT, default="bnfold-experiment.sqlite", show_default=True, metavar="FILE",
        help="Where results go; what is there is not done again.",
    ),
    click.option("--workers", type=_COUNT, metavar="N", help="Runs at a time.  [default: the machine's cores]"),
    click.option("--scheduler", metavar="ADDRESS", help="Run on the workers of this Dask cluster."),
    click.option("--timeout", "run_timeout", type=_POSITIVE, metavar="SECONDS", help="Give up a run after this time."),
    click.option("--memory", "run_memory", type=_POSITIVE, metavar="MB", help="Give up a run that takes more memory."),
)  # fmt: skip


@click.command(cls=options.Command)
@click.argument("models", nargs=-1, required=True, type=options.MODEL, metavar="MODEL...")
@click.option(
    "--data", required=True, metavar="DATA", help="A .npz file, file.py:function or module:function; see above."
)
@click.option(
    "--arms",
    default="",
    metavar="ARMS",
    help="What to compare, separated by commas: none, before, after, original, a file.  [default: none,before,after]",
)
@click.option("--seeds", type=_COUNT, default=5, show_default=True, metavar="N", help="Runs of each arm and rate.")
@click.option(
    "--lr",
    "rates",
    callback=_numbers,
    metavar="RATES",
    help="Learning rates, separated by commas, or own for the model's.  [default: 0.001,0.003,0.01]",
)
@options.together(*_TRAINING, *_PLACE)
@click.option("--plot", type=options.OUTPUT, metavar="FILE", help="Draw the learning curves (.svg or .png).")
@options.report
@options.output_format("text", "json")
@options.quiet("Print the result and no progress.")
@options.allow_unsafe
@click.pass_context
def experiment(
    context: click.Context,
    /,
    models: Sequence[str],
    data: str,
    arms: str,
    seeds: int,
    rates: tuple[float, ...] | None,
    plot: str | None,
    report: str | None,
    output_format: str,
    quiet: bool,
    allow_unsafe: bool,
    **given: Any,
) -> int:
    """Train placements of BN against each other on your data: is the difference more than chance?

    Every arm (no BN, BN before the activations, BN after them) is trained with the same seeds, batches and
    learning rates; the rate is chosen on validation data, test data are used once. What comes out is how much
    the arms differ, whether that is more than chance, and what each costs when it is folded and shipped.

    DATA holds x_train and y_train, and x_val, y_val, x_test and y_test where there are any. A function
    returns them as a dict, as keras.datasets does, or as tf.data.Datasets or PyDatasets. An arm may say more than
    the placement: before:on_input:momentum=0.9:only=conv*. Several MODELs are compared as they are.

    With --scheduler the workers find DATA under the same name as this machine does.
    """
    from bnfold.experiment.schedule import RATES, Settings, make_plan
    from bnfold.formats.keras.backend import require_keras
    from bnfold.reporting.curves import check_plot, draw

    if given["scheduler"] is None:  # the workers of a cluster have their own
        require_keras()
    place = {name: given.pop(name) for name in ("store", "workers", "scheduler", "run_timeout", "run_memory")}
    named = [arm.strip() for arm in arms.split(",") if arm.strip()]
    options.check_report(report, *named, data, data.rpartition(":")[0])
    if plot is not None:
        check_plot(plot)
    settings = Settings(data=data, custom=options.custom_modules(context), allow_unsafe=allow_unsafe, **given)
    plan = make_plan(models, named, seeds=seeds, rates=RATES if rates is None else rates, settings=settings)
    result = _conducted(plan, quiet, **place)
    if plot is not None:
        draw(result, plot)
    options.write_report(report, lambda sheets: [sheets.of_experiment(models, result)])
    _print(output_format, models, result)
    return 0


def _conducted(
    plan: Plan, quiet: bool, *, store: str, run_timeout: float | None, run_memory: float | None, **where: Any
) -> ExperimentResult:
    """What comes of a plan, with a line an arm on a terminal while it is done."""
    from bnfold.experiment.conduct import conduct
    from bnfold.jobs import JobLimits
    from bnfold.reporting.watching import Watching

    limits = JobLimits(seconds=run_timeout, memory=None if run_memory is None else int(run_memory * 1e6))
    with Watching() as watching:
        return conduct(plan, store, limits=limits, watcher=None if quiet else watching, **where)


def _print(output_format: str, models: Sequence[str], result: ExperimentResult) -> None:
    if output_format == "json":
        from bnfold.reporting import as_json

        click.echo(as_json.dump({**as_json.header(), "models": list(models), **result.to_dict()}))
        return
    from bnfold.reporting.console import make_console
    from bnfold.reporting.experiment import print_experiment

    print_experiment(make_console(), ", ".join(models), result)
