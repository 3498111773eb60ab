"""Options that several commands share, and where output goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from bnfold.verification import VerifyOptions

F = TypeVar("F", bound=Callable[..., Any])

#: Nothing is shown for work that is done by then, in seconds.
_PATIENCE = 1.0

# Whether a file can be read is found out by reading it: click would print the usage of the command.
MODEL = click.Path(readable=False, path_type=str)
OUTPUT = click.Path(readable=False, path_type=str)


def quiet(help: str) -> Callable[[F], F]:
    return click.option("-q", "--quiet", is_flag=True, help=help)


def allow_unsafe(function: F) -> F:
    return click.option(
        "--allow-unsafe", is_flag=True, help="Let a Keras file run the Python code it brings along (Lambda layers)."
    )(function)


def output_format(*choices: str) -> Callable[[F], F]:
    return click.option(
        "--format", "output_format", type=click.Choice(choices), default=choices[0], show_default=True,
        help="How to print the result.",
    )  # fmt: skip


def _bytes(context: click.Context, parameter: click.Parameter, megabytes: float | None) -> int | None:
    return None if megabytes is None else int(megabytes * 1e6)


_VERIFICATION = (
    click.option("--rtol", type=click.FloatRange(min=0), help="Allow this part of an output's range."),
    click.option("--atol", type=click.FloatRange(min=0), help="Allow this much in an output's own unit."),
    click.option("--inputs", type=OUTPUT, metavar="FILE", help="Compare on these inputs (.npz, or .npy for one)."),
    click.option("--seed", type=int, default=0, show_default=True, help="Seed of the random inputs."),
    click.option("--strict", is_flag=True, help="Demand the noise floor and the fixed tolerance both."),
    click.option("--provider", default="CPUExecutionProvider", show_default=True, help="onnxruntime's provider."),
    click.option("--threads", type=click.IntRange(min=1), metavar="N", help="How many threads onnxruntime may use."),
    click.option(
        "--timeout", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS",
        help="Give up verifying after this time: not verified, exit code 1.",
    ),
    click.option(
        "--memory", type=click.FloatRange(min=0, min_open=True), metavar="MB", callback=_bytes,
        help="Give up verifying beyond this much address space: not verified, exit code 1.",
    ),
)  # fmt: skip


def verification(function: F) -> F:
    """--rtol, --atol, --inputs, --seed, --strict, --provider, --threads, --timeout, --memory."""
    for option in reversed(_VERIFICATION):
        function = option(function)
    return function


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
