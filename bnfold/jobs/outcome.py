"""What is to be done, within which limits, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Status(str, Enum):
    """How a job ended."""

    OK = "ok"
    #: The function raised.
    FAILED = "failed"
    #: Its process died of a signal, or ended without an answer.
    CRASHED = "crashed"
    TIMEOUT = "timeout"
    MEMORY = "out of memory"
    #: The machine it ran on was lost again and again.
    LOST = "lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLimits:
    """For every attempt at every job: ``seconds`` of real time, and ``memory`` in bytes of private data.

    Files that are mapped into memory do not count as data (Linux's RLIMIT_DATA), so that the limit is one of what a
    job allocates; elsewhere it is one of address space.
    """

    seconds: float | None = None
    memory: int | None = None


UNLIMITED = JobLimits()


@dataclass(frozen=True, slots=True)
class Job:
    """``function(*args, **kwargs)``, known by ``key``; the function is one that another process can import."""

    key: str
    function: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a job ended; ``sentence`` says why it did not come to a value.

    ``seconds`` and ``peak`` (the largest resident set of its process, in bytes; None where the system does not tell)
    are those of the last of ``attempts``. ``rows`` is what it emitted on the way. ``detail`` is for who looks for a
    mistake: a traceback, or the last that was printed.
    """

    status: Status
    value: Any = None
    sentence: str = ""
    seconds: float = 0.0
    peak: int | None = None
    attempts: int = 1
    rows: tuple[Any, ...] = ()
    detail: str = ""
