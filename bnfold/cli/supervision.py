"""``--timeout`` and ``--memory`` hold for a whole command: it runs in a process that this one ends when it is time.

Verification keeps within the limits by itself and says what it could not do. This here is for everything else: a file
that takes for ever to read, a conversion that eats the memory of the machine.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence

import click

from bnfold.errors import LimitError
from bnfold.isolation import Cause, Ended, Limits, end_with, limit_memory, search_path

#: Verification that ran out of time has this long to say so, in seconds, and a command that is told to end to do it.
_GRACE, _PATIENCE = 2.0, 10.0
_MEMORY, _PARENT = "BNFOLD_SUPERVISED_MEMORY", "BNFOLD_SUPERVISED_BY"
_CHILD = (
    "import json, sys\n"
    "sys.path[:] = json.loads(sys.argv.pop(1))\n"
    "from bnfold.__main__ import start\n"
    "start()\n"
)  # fmt: skip


def supervised() -> bool:
    """Is this the process that does the work?"""
    return _MEMORY in os.environ


def limits_memory() -> bool:
    """Is memory limited in this process, so that whatever fails may have failed for that?"""
    return bool(os.environ.get(_MEMORY))


def begin() -> None:
    """In the process that does the work: end with its supervisor, and take no more memory than is allowed."""
    end_with(int(os.environ[_PARENT]), signal.SIGTERM)
    if limits_memory():
        limit_memory(int(os.environ[_MEMORY]))


def supervise(arguments: Sequence[str], limits: Limits) -> int:
    """Run a command line in a process of its own; its exit code. Raises LimitError where it did not come to its end."""
    shared = _has_descriptors()
    with subprocess.Popen(
        [sys.executable, "-I", "-c", _CHILD, json.dumps(search_path()), *arguments],
        env={
            **os.environ,
            _MEMORY: "" if limits.memory is None else str(limits.memory),
            _PARENT: str(os.getpid()),
        },
        stdout=None if shared else subprocess.PIPE,
        stderr=None if shared else subprocess.PIPE,
        text=True,
    ) as process:
        try:
            left = limits.left()
            out, err = process.communicate(timeout=None if left is None else left + _GRACE)
        except subprocess.TimeoutExpired:
            _end(process)
            raise LimitError(Ended(cause=Cause.TIMEOUT, limits=limits).sentence()) from None
        except BaseException:
            _end(process)
            raise
    if not shared:
        click.echo(out, nl=False)
        click.echo(err, nl=False, err=True)
    if process.returncode in (0, 1, 2, 3):
        return process.returncode
    if limits.memory is not None:
        raise LimitError(Ended(cause=Cause.MEMORY, limits=limits).sentence())
    number = signal.Signals(-process.returncode) if process.returncode < 0 else None
    raise LimitError(Ended(cause=Cause.CRASH, limits=limits, signal=number).sentence("the command"))


def _has_descriptors() -> bool:
    """Can another process print where this one does? Not where the output goes to an object of Python's."""
    try:
        return (sys.stdout.fileno(), sys.stderr.fileno()) == (1, 2)
    except (OSError, ValueError, io.UnsupportedOperation):
        return False


def _end(process: subprocess.Popen[str]) -> None:
    """Let it remove its temporary files, if it still can; the processes that it started end with it."""
    process.terminate()
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
