"""The command line. A command's module is imported when that command runs, so that ``--help`` starts at once."""

from __future__ import annotations

import contextlib
import errno
import gc
import io
import os
import signal
import sys
import warnings
from types import FrameType
from typing import Any, NoReturn

import click

from bnfold.errors import BnfoldError
from bnfold.version import __version__

#: Each command with the line that ``--help`` shows: the module itself need not be imported for that.
GROUPS = {
    "Look": {
        "analyze": "Say how BN is placed in models, what folds, and what is wrong or wasteful.",
        "graph": "Write a model's graph, with placements, findings and plan, as a picture or for programs.",
        "scan": "Analyze, and fold, any number of models: files, folders, globs and URLs.",
        "rules": "List the rules, or explain one by its code or name.",
    },
    "Rewrite": {
        "fold": "Fold every BN that algebra can remove, verify, and write the model.",
        "equalize": "Fold, level the weight ranges for int8, verify, and write the model.",
        "fix": "Repair what is wasteful without folding: the model stays trainable.",
        "restyle": "Put BN before or after the activations of a Keras model, or take it out.",
    },
    "Prove": {
        "verify": "Say whether two models are equivalent, or whether onnxruntime's optimisations keep one.",
        "experiment": "Train placements of BN against each other on your data: is the difference more than chance?",
    },
}
COMMANDS = {name: line for group in GROUPS.values() for name, line in group.items()}
#: What a process that was interrupted exits with, as shells have it.
INTERRUPTED = 130
INTERNAL_ERROR = 3
#: What the process that supervises this one turns into its own sentence and exit code.
OUT_OF_MEMORY = 4
UNREADABLE = 2


class ReaderLeftError(Exception):
    """Whoever read the output has enough: no OSError, for which click ends the process with an error."""


class LazyGroup(click.Group):
    """A group that imports a command when it is called for."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        try:
            return super().make_context(*args, **extra)  # --help and --version print here
        except BrokenPipeError as error:
            raise ReaderLeftError from error

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise ReaderLeftError from error

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        import importlib

        command = getattr(importlib.import_module(f"bnfold.cli.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            ctx.fail(f"There is no command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, group in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl(list(group.items()))


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="bnfold", message="%(prog)s %(version)s")
def cli() -> None:
    """Analyze, fold and verify BatchNormalization (BN) in ONNX and Keras models.

    Exit codes: 0 done; 1 findings at --fail-on or above, or models that are not equivalent; 2 wrong
    usage, or a file that cannot be read or written; 3 an error in bnfold itself.
    """


def main() -> None:
    """The entry point: run a command and exit with its code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # An arrow that the encoding of the output does not have is no reason to fail.
            stream.reconfigure(errors="backslashreplace")
    for number in (getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP")):
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores one of them
            signal.signal(number, _end)
    # A process this short has little to collect, and looking for it takes a tenth of the time of a large graph.
    gc.set_threshold(100_000)
    # No product here is large enough for more threads than one, and starting them takes longer than numpy itself.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # numpy's remarks about NaN and infinity among the weights: the findings say it better.
    warnings.simplefilter("ignore", RuntimeWarning)
    sys.exit(run(sys.argv[1:]))


def _end(number: int, frame: FrameType | None) -> NoReturn:
    """End as a signal asks for, but by way of everything that removes temporary files."""
    sys.exit(128 + number)


def run(arguments: list[str]) -> int:
    """Run a command line and return the exit code."""
    try:
        code = cli.main(args=arguments, prog_name="bnfold", standalone_mode=False, obj=tuple(arguments))
        sys.stdout.flush()
    except click.exceptions.Abort:
        return INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except BnfoldError as error:
        if _starved(error):
            return OUT_OF_MEMORY
        click.echo(f"bnfold: {error}", err=True)
        return error.exit_code
    except (BrokenPipeError, ReaderLeftError):
        # Python would complain once more when it closes the output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        return OUT_OF_MEMORY if _starved(error) else _unwritable(error)
    except MemoryError as error:
        if _starved(error):
            return OUT_OF_MEMORY
        click.echo("bnfold: there is not enough memory for this model", err=True)
        return UNREADABLE
    except Exception as error:  # noqa: BLE001  the last resort: whatever it is, one sentence and code 3
        if _limits_memory():  # what an allocation that fails leads to in a library is not to be told from a mistake
            return OUT_OF_MEMORY
        return _report(error)
    return code if isinstance(code, int) else 0


def _limits_memory() -> bool:
    supervision = sys.modules.get("bnfold.cli.supervision")  # imported only where something is limited
    return supervision is not None and supervision.limits_memory()


def _starved(error: BaseException | None) -> bool:
    """Did an allocation fail that the limit of memory forbade?"""
    while error is not None and _limits_memory():
        if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
            return True
        error = error.__cause__ or error.__context__
    return False


def _unwritable(error: OSError) -> int:
    """A full disk and the like. Output that is left would fail once more when Python closes it."""
    if error.filename is None:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    what = "the output" if error.filename is None else error.filename
    click.echo(f"bnfold: {what} cannot be read or written: {error.strerror or error}", err=True)
    return UNREADABLE


def _report(error: Exception) -> int:
    """An error in bnfold itself: one sentence, and the traceback for who asks for it."""
    if os.environ.get("BNFOLD_DEBUG") == "1":
        import traceback

        traceback.print_exception(error)
    name = type(error).__name__
    click.echo(
        f"bnfold: internal error ({name}: {error}); please report it with the command and, if you can, the model; "
        "BNFOLD_DEBUG=1 shows where it happened",
        err=True,
    )
    return INTERNAL_ERROR
