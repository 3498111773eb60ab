"""What a model answers: the feeds that it accepted, and its outputs on each."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace

from bnfold.graph import Array
from bnfold.verification.deviation import deviation
from bnfold.verification.feeds.values import Feed
from bnfold.verification.runtime.sessions import RunError, ValueSpec

#: How close to stored outputs the original has to come, as part of their range.
_STORED_TOLERANCE = 1e-2


class NotVerifiableError(Exception):
    """The comparison cannot be made; the message says why, for people."""


class UnrunnableError(NotVerifiableError):
    """The runtime cannot load the original, or fails on it whatever it is fed.

    ``failure`` is the runtime's, ``feed`` what it failed on; None where the original does not load.
    """

    def __init__(self, message: str, failure: RunError, feed: Feed | None = None) -> None:
        super().__init__(message)
        self.failure, self.feed = failure, feed


@dataclass
class Answers:
    """The feeds that the original accepted, its outputs on each by name, and how long each run took.

    ``failed`` are descriptions of feeds that it did not accept, with the runtime's words; ``inputs``,
    ``optional`` (initializers that a feed may override) and ``declared`` outputs are its interface.
    """

    inputs: list[ValueSpec]
    optional: list[ValueSpec]
    declared: list[ValueSpec]
    feeds: list[Feed] = field(default_factory=list)
    outputs: list[dict[str, Array]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, feed: Feed, outputs: dict[str, Array], seconds: float) -> None:
        """Record an accepted feed, under a description of its own."""
        taken = {other.description for other in self.feeds}
        names = itertools.chain([feed.description], (f"{feed.description} ({n})" for n in itertools.count(2)))
        feed = replace(feed, description=next(name for name in names if name not in taken))
        if not all(_resembles(*pair) for pair in zip(feed.expected, outputs.values(), strict=False)):
            self.notes.append(f"the original does not give the outputs that are stored in {feed.description}")
        self.feeds.append(feed)
        self.outputs.append(outputs)
        self.seconds.append(seconds)

    @property
    def kept_bytes(self) -> int:
        return sum(value.nbytes for outputs in self.outputs for value in outputs.values())


def _resembles(expected: Array, found: Array) -> bool:
    """Whether an output is what another runtime or machine stored as the expected one, in rough terms."""
    item = deviation(expected, found)
    agree = item.nonfinite_agree and item.largest <= _STORED_TOLERANCE * item.span
    return not item.fault and (item.mismatches == 0 if item.exact_type else agree)
