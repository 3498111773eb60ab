"""Run a function in a process of its own, within limits: for every call into a library that may hang or crash.

>>> outcome = run(inspect, Limits(seconds=30.0), path)
>>> outcome.value if isinstance(outcome, Returned) else outcome.sentence()

* **Start.** A new Python interpreter, never a fork: no lock, thread or mapped file of this process is inherited.
  It gets the environment, the working directory and ``sys.path`` (without the entries that are relative to the
  working directory of the moment). Its standard input brings the request, its standard output takes the reply,
  and what libraries print goes to a file that is shown only where the function has a mistake.
* **Request and reply** are pickled: the function by its name, so that it must stand at the top of a module that
  can be imported, and its arguments and what it returns by value. A :class:`~bnfold.errors.BnfoldError` is raised
  again here; any other exception is a mistake in the function and becomes a RuntimeError with its traceback, but
  where memory is limited: what an allocation that fails leads to in a library is not to be told from a mistake.
* **Limits.** Time is real time from the making of the :class:`Limits` on, so that several runs can share one
  deadline. Memory is address space (RLIMIT_AS, where the system has it), the interpreter's own included.
* **End.** The process leads a session and a process group of its own. A signal from the terminal reaches this
  process alone; whatever ends :func:`run`, an interruption included, the whole group is killed and waited for.
  If this process is killed itself, Linux ends the other one with it, and a time limit holds on every POSIX system.
  Its temporary files lie in a folder that is removed with it.

These are limits for mistakes and for absurd files. They are no sandbox: the other process may do what this one may.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import IO, Any, Generic, ParamSpec, TypeVar

from bnfold.errors import BnfoldError
from bnfold.temporary import temporary_folder

P = ParamSpec("P")
T = TypeVar("T")

_CHILD = (
    "import json, sys\n"
    "sys.path[:] = json.loads(sys.argv[1])\n"
    "from bnfold.isolation import serve\n"
    "serve()\n"
)  # fmt: skip
#: Signals by which somebody asks a process to end, and SIGKILL, by which the system does when memory runs out.
_ENDING = frozenset({"SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGKILL"})
#: Linux's prctl option: the signal that a process gets when its parent ends.
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """``seconds`` from now on and ``memory`` in bytes of address space; None: as much as it takes."""

    seconds: float | None = None
    memory: int | None = None
    #: On the clock of :func:`time.monotonic`.
    deadline: float | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.seconds is not None:
            object.__setattr__(self, "deadline", time.monotonic() + self.seconds)

    def __bool__(self) -> bool:
        """Is anything limited?"""
        return self.seconds is not None or self.memory is not None

    def left(self) -> float | None:
        """Seconds until the deadline: not positive when it is over, None where there is none."""
        return None if self.deadline is None else self.deadline - time.monotonic()


class Cause(Enum):
    """Why there is no reply."""

    #: The deadline passed.
    TIMEOUT = "timeout"
    #: An allocation failed. Where memory is limited any failure counts: it is not known to happen without the limit.
    MEMORY = "memory"
    #: The process died of a signal of its own making, such as SIGSEGV or SIGABRT.
    CRASH = "crash"
    #: Somebody else ended the process, or the system did to get its memory back.
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class Returned(Generic[T]):
    """The function came to its end."""

    value: T


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The function did not come to its end; ``signal`` is what its process died of, if it did."""

    cause: Cause
    limits: Limits
    signal: signal.Signals | None = None

    def sentence(self, library: str = "the process") -> str:
        """For people; ``library`` is what crashed if something did."""
        name = self.signal.name if self.signal is not None else "no signal"
        if self.cause is Cause.TIMEOUT:
            return f"the time limit of {self.limits.seconds:g} s was reached"
        if self.cause is Cause.CRASH:
            return f"{library} crashed ({name})"
        if self.cause is Cause.INTERRUPTED:
            return f"the process was ended from outside ({name})"
        if self.limits.memory is None:
            return "there is not enough memory"
        return f"the process failed within the memory limit of {self.limits.memory / 1e6:,.0f} MB"


def call(function: Callable[P, T], limits: Limits, /, *args: P.args, **kwargs: P.kwargs) -> Returned[T] | Ended:
    """:func:`run` where something is limited; else the function runs in this process."""
    return run(function, limits, *args, **kwargs) if limits else Returned(function(*args, **kwargs))


def run(function: Callable[P, T], limits: Limits, /, *args: P.args, **kwargs: P.kwargs) -> Returned[T] | Ended:
    """What ``function`` returns, in a process of its own, or why it did not return.

    Raises the BnfoldError that it raised, and RuntimeError for anything else that it raised. May be called
    from several threads at once.
    """
    left = limits.left()
    if left is not None and left <= 0:
        return Ended(cause=Cause.TIMEOUT, limits=limits)
    import tempfile

    with temporary_folder() as folder, tempfile.TemporaryFile() as printed:
        request = pickle.dumps((left, limits.memory, os.getpid())) + pickle.dumps((function, args, kwargs))
        process = subprocess.Popen(
            [sys.executable, "-I", "-c", _CHILD, json.dumps(search_path())],
            env={**os.environ, **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=printed,
            start_new_session=True,
        )
        try:
            reply, _ = process.communicate(request, left)
        except subprocess.TimeoutExpired:
            return Ended(cause=Cause.TIMEOUT, limits=limits)
        finally:
            _end(process)
        return _outcome(reply, process.returncode, limits, printed)


def search_path() -> list[str]:
    """Where this process finds modules, and this package; nothing relative to the working directory of the moment."""
    root = str(Path(__file__).resolve().parents[1])
    found = [entry for entry in sys.path if os.path.isabs(entry)]
    return found if root in found else [root, *found]


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of the process and its group, and leave no zombie."""
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):  # macOS denies it for a group of zombies
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()


def _outcome(reply: bytes, code: int, limits: Limits, printed: IO[bytes]) -> Returned[Any] | Ended:
    try:
        kind, content = pickle.loads(reply)
    except (EOFError, pickle.UnpicklingError):  # it did not come to answer, or not to the end of it
        return _died(code, limits, printed)
    if kind == "returned":
        return Returned(content)
    if kind == "raised":
        raise content
    if kind == "memory" or limits.memory is not None:
        return Ended(cause=Cause.MEMORY, limits=limits)
    raise RuntimeError(f"the function that was run in a process of its own failed:\n{content}")


def _died(code: int, limits: Limits, printed: IO[bytes]) -> Ended:
    number = signal.Signals(-code) if code < 0 else None
    name = "" if number is None else number.name
    if name == "SIGALRM" and limits.seconds is not None:
        return Ended(cause=Cause.TIMEOUT, limits=limits)
    if limits.memory is not None and (name == "SIGKILL" or name not in _ENDING):
        return Ended(cause=Cause.MEMORY, limits=limits, signal=number)
    if number is None:
        printed.seek(0)
        words = printed.read().decode(errors="replace")
        raise RuntimeError(f"a process of its own ended with code {code} and no reply:\n{words}")
    return Ended(cause=Cause.INTERRUPTED if name in _ENDING else Cause.CRASH, limits=limits, signal=number)


# -- in the other process ------------------------------------------------------------------------


def serve() -> None:
    """Read a request, do it, write the reply, and end."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not get into the reply
    seconds, memory, parent = pickle.load(sys.stdin.buffer)
    end_in_time(seconds, parent)
    replies.write(answer(sys.stdin.buffer, memory))
    replies.close()
    os._exit(0)  # not by way of the libraries' own cleaning up, which may crash as well


def answer(request: IO[bytes], memory: int | None, kind: str = "RLIMIT_AS") -> bytes:
    """Do what a pickled request asks for, within ``memory`` bytes: how it went and what came of it, pickled.

    ("returned", the value), ("raised", a BnfoldError), ("memory", a text) or ("failed", a traceback).
    """
    try:
        function, args, kwargs = pickle.load(request)
        limit_memory(memory, kind)  # not before the imports: libraries survive a failed start less well than a call
        return pickle.dumps(("returned", function(*args, **kwargs)))
    except BnfoldError as error:
        error.__cause__ = error.__context__ = None  # some libraries have these pickled too, with whatever they hold
        return pickle.dumps(("raised", error.with_traceback(None)))
    except MemoryError as error:
        return pickle.dumps(("memory", str(error)))
    except Exception:  # noqa: BLE001  passed on whole to who called
        return pickle.dumps(("failed", traceback.format_exc()))


def end_in_time(seconds: float | None, parent: int) -> None:
    """End at the deadline and with the parent even in the middle of C++ code: by signals whose default is to end."""
    for name in ("SIGINT", "SIGALRM"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    if seconds is not None and hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)
    end_with(parent, signal.SIGKILL)


def end_with(parent: int, number: signal.Signals) -> None:
    """When the parent process ends, however it does, this one gets that signal; on Linux, which has such a thing."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:  # it ended before it could be told to take this process along
            os._exit(1)


def limit_memory(memory: int | None, kind: str = "RLIMIT_AS") -> None:
    """From now on this process gets no more than so many bytes, where the system has such a limit: address space,
    or with RLIMIT_DATA what is private and writable, which files that are mapped are not."""
    if memory is None:
        return
    try:
        import resource
    except ImportError:
        return  # Windows has no such limit
    what = getattr(resource, kind)
    hard = resource.getrlimit(what)[1]
    limit = memory if hard == resource.RLIM_INFINITY else min(memory, hard)
    resource.setrlimit(what, (limit, limit))
