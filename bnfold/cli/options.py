"""Options that several commands share, and where output goes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bnfold.errors import BnfoldError, UsageError

if TYPE_CHECKING:
    from bnfold.analysis.config import Config
    from bnfold.reporting.page.sheet import Sheet
    from bnfold.verification import VerifyOptions

F = TypeVar("F", bound=Callable[..., Any])

#: Nothing is shown for work that is done by then, in seconds.
_PATIENCE = 1.0
#: Under this name a command's context holds the modules of ``--custom``.
_CUSTOM = "bnfold.custom"

# Whether a file can be read is found out by reading it: click would print the usage of the command.
MODEL = click.Path(readable=False, path_type=str)
OUTPUT = click.Path(readable=False, path_type=str)


class Command(click.Command):
    """A command within ``--timeout`` and ``--memory``; with ``--format json`` its error is JSON too."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return self._within_limits(ctx)
        except (BnfoldError, click.ClickException) as error:
            if ctx.params.get("output_format") == "json":
                from bnfold.reporting import as_json

                message = error.format_message() if isinstance(error, click.ClickException) else str(error)
                model = ctx.params.get("model")
                click.echo(as_json.dump({**as_json.header(), "errors": [{"model": model, "message": message}]}))
            raise

    def _within_limits(self, ctx: click.Context) -> Any:
        seconds, memory = ctx.params.get("timeout"), ctx.params.get("memory")
        if seconds is None and memory is None:
            return super().invoke(ctx)
        from bnfold.cli import supervision
        from bnfold.isolation import Limits

        if not supervision.supervised():
            return supervision.supervise(ctx.find_root().obj, Limits(seconds=seconds, memory=memory))
        supervision.begin()
        return super().invoke(ctx)


def together(*given: Callable[[Any], Any]) -> Callable[[F], F]:
    """Options as one decorator, in this order in ``--help``."""

    def decorate(function: F) -> F:
        for option in reversed(given):
            function = option(function)
        return function

    return decorate


def quiet(help: str) -> Callable[[F], F]:
    return click.option("-q", "--quiet", is_flag=True, help=help)


def allow_unsafe(function: F) -> F:
    """--allow-unsafe and --custom, which decide what code a Keras file may run."""
    custom = click.option(
        "--custom", multiple=True, metavar="MODULE", callback=_import_custom, expose_value=False,
        help="Import this Python module, which defines custom Keras layers.",
    )  # fmt: skip
    unsafe = click.option(
        "--allow-unsafe", is_flag=True, help="Let a Keras file run the Python code it brings along (Lambda layers)."
    )
    return unsafe(custom(function))


def custom_modules(context: click.Context) -> tuple[str, ...]:
    """The modules of ``--custom``, for processes that have to import them too."""
    return tuple(context.meta.get(_CUSTOM, ()))


def _import_custom(context: click.Context, parameter: click.Parameter, modules: Sequence[str]) -> None:
    context.meta[_CUSTOM] = modules
    if modules:
        from bnfold.formats.keras.files import import_custom

        for module in modules:
            import_custom(module)


def output_format(*choices: str) -> Callable[[F], F]:
    return click.option(
        "--format", "output_format", type=click.Choice(choices), default=choices[0], show_default=True,
        help="How to print the result.",
    )  # fmt: skip


int8 = click.option(
    "--int8", type=OUTPUT, metavar="DATA",
    help="Quantise the model as it is, folded, and equalised, and measure each on these samples (.npz or .npy).",
)  # fmt: skip


def rules(function: F) -> F:
    """--select, --ignore and --fail-on."""
    return together(
        click.option(
            "--select", multiple=True, metavar="CODES", help="Only these rules: codes or prefixes, separated by commas."
        ),
        click.option("--ignore", multiple=True, metavar="CODES", help="Not these rules; the longer prefix wins."),
        click.option(
            "--fail-on", type=click.Choice(("error", "warning", "info", "never")),
            help="Exit with 1 for a finding at or above this severity.  [default: error, or the settings file's]",
        ),
    )(function)  # fmt: skip


def chosen_rules(
    config: Config, select: Sequence[str], ignore: Sequence[str]
) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """The codes to select and to ignore: those of the command line, or of the settings where it selects none."""
    chosen, ignored = (
        tuple(c for value in values for c in value.split(",") if c.strip()) for values in (select, ignore)
    )
    return (chosen, ignored) if chosen else (config.select, (*config.ignore, *ignored))


def report(function: F) -> F:
    """--report, which puts the result into one HTML page as well."""
    return click.option("--report", type=OUTPUT, metavar="FILE", help="Write the result as an HTML page too.")(function)


def check_report(report: str | None, *others: str | None) -> None:
    """Before any work is done: can the page be written?

    Raises UsageError where it would replace a file of this call: one of its options, its models, or ``others``.
    """
    if report is None:
        return
    from bnfold.formats.atomic import resolve_target

    context = click.get_current_context()
    paths = [each.name for each in context.command.params if isinstance(each.type, click.Path)]
    given = (context.params.get(str(name)) for name in paths if name != "report")
    files = [file for value in (*given, others) for file in (value if isinstance(value, tuple) else (value,))]
    target = resolve_target(report)
    if any(file is not None and resolved(file) == target for file in files):
        raise UsageError(f"{report} is a file of this call; give the report another name")


def resolved(path: str) -> Path:
    return Path(os.path.realpath(path))


def write_report(report: str | None, sheets: Callable[[ModuleType], Sequence[Sheet]]) -> None:
    """Write the page, if one is asked for, of what ``sheets`` makes with the module of that name."""
    if report is None:
        return
    from bnfold.reporting.drawing import files
    from bnfold.reporting.page import render
    from bnfold.reporting.page import sheets as made

    context = click.get_current_context()
    settings = {name: value for name, value in context.params.items() if name != "report"}
    files.write(report, render.page(str(context.info_name), sheets(made), settings))


def _bytes(context: click.Context, parameter: click.Parameter, megabytes: float | None) -> int | None:
    return None if megabytes is None else int(megabytes * 1e6)


def _seed(help: str) -> Callable[[Any], Any]:
    return click.option("--seed", type=int, default=0, show_default=True, metavar="N", help=help)


_SEED = _seed("Seed of the random inputs.")
_VERIFICATION = (
    click.option(
        "--rtol", type=click.FloatRange(min=0), metavar="PART",
        help="Compare in onnxruntime alone, and allow this part of an output's range.",
    ),
    click.option(
        "--atol", type=click.FloatRange(min=0), metavar="AMOUNT", help="Likewise, in an output's own unit; both add up."
    ),
    click.option("--inputs", type=OUTPUT, metavar="FILE", help="Compare on these inputs (.npz, or .npy for one)."),
    _SEED,
    click.option(
        "--strict", is_flag=True,
        help="Demand a fixed tolerance as well: --rtol and --atol, or 1e-4 of the range in float32.",
    ),
    click.option(
        "--provider", default="CPUExecutionProvider", metavar="NAME", show_default=True,
        help="onnxruntime's execution provider.",
    ),
    click.option("--threads", type=click.IntRange(min=1), metavar="N", help="How many threads onnxruntime may use."),
    click.option(
        "--timeout", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS",
        help="Give up after this time: exit code 1, and nothing is written.",
    ),
    click.option(
        "--memory", type=click.FloatRange(min=0, min_open=True), metavar="MB", callback=_bytes,
        help="Give up where a process needs more address space: exit code 1, and nothing is written.",
    ),
)  # fmt: skip


#: The names of their values.
VERIFICATION = ("rtol", "atol", "inputs", "seed", "strict", "provider", "threads", "timeout", "memory")


def verification(function: F) -> F:
    """--rtol, --atol, --inputs, --seed, --strict, --provider, --threads, --timeout, --memory."""
    return together(*_VERIFICATION)(function)


def verification_seeded(help: str) -> Callable[[F], F]:
    """:func:`verification` for a command whose --seed is that of something else as well, as ``help`` says."""
    own = _seed(help)
    return together(*(own if option is _SEED else option for option in _VERIFICATION))


def verify_options(values: Mapping[str, Any]) -> VerifyOptions:
    """What :func:`verification` put into the arguments of a command."""
    from bnfold.verification import VerifyOptions

    return VerifyOptions(**values)


@contextmanager
def progress(quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """A function to call with the name of each stage: shown on a terminal's stderr once it takes a second."""
    import sys

    if quiet or not sys.stderr.isatty():
        yield lambda stage: None
        return
    from bnfold.cli.spinner import Spinner

    with Spinner(_PATIENCE) as spinner:
        yield spinner.stage
