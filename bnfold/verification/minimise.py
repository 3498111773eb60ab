"""The smallest part of a list that still shows a fault."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence


def minimal(items: Sequence[str], fails: Callable[[Sequence[str]], bool]) -> tuple[str, ...]:
    """A smallest part of ``items`` on which ``fails`` still holds: dropping any one of them cures it.

    Zeller and Hildebrandt's ddmin (Simplifying and Isolating Failure-Inducing Input, 2002), which
    needs about 2·log2(n) tests for a single cause. ``fails`` must hold on ``items`` and not on
    nothing; the order of items is kept.
    """
    current, pieces = list(items), 2
    while len(current) > 1:
        chunks = list(_split(current, pieces))
        reduced = next((chunk for chunk in chunks if fails(chunk)), None)
        if reduced is not None:
            current, pieces = reduced, 2
            continue
        complements = ([item for item in current if item not in set(chunk)] for chunk in chunks)
        reduced = next((rest for rest in complements if len(chunks) > 2 and fails(rest)), None)
        if reduced is not None:
            current, pieces = reduced, max(pieces - 1, 2)
        elif pieces >= len(current):
            break
        else:
            pieces = min(2 * pieces, len(current))
    return tuple(current)


def _split(items: list[str], pieces: int) -> Iterator[list[str]]:
    """``items`` in that many contiguous parts of nearly equal length."""
    start = 0
    for index in range(pieces):
        stop = start + (len(items) - start) // (pieces - index)
        yield items[start:stop]
        start = stop
