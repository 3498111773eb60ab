"""Where a random graph's decisions come from: a seed, hypothesis, or a record of decisions made before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from hypothesis import strategies

T = TypeVar("T")


class Choices(Protocol):
    """Makes decisions, and keeps a record of them from which the same graph can be built again."""

    record: list[int]

    def integer(self, low: int, high: int) -> int:
        """A number between ``low`` and ``high``, both included."""


class Seeded:
    """Decisions from numpy's generator."""

    def __init__(self, *seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self.record: list[int] = []

    def integer(self, low: int, high: int) -> int:
        self.record.append(int(self._rng.integers(low, high + 1)))
        return self.record[-1]


class Drawn:
    """Decisions from hypothesis, which shrinks them when a test fails. ``data`` is its ``st.data()``."""

    def __init__(self, data: Any) -> None:
        self._data = data
        self.record: list[int] = []

    def integer(self, low: int, high: int) -> int:
        self.record.append(self._data.draw(strategies.integers(low, high)))
        return self.record[-1]


class Replayed:
    """The decisions of a record."""

    def __init__(self, record: Sequence[int]) -> None:
        self._decisions = list(record)
        self.record: list[int] = []

    def integer(self, low: int, high: int) -> int:
        self.record.append(self._decisions[len(self.record)])
        return self.record[-1]


def pick(choices: Choices, options: Sequence[T]) -> T:
    """One of the options."""
    return options[choices.integer(0, len(options) - 1)]


def chance(choices: Choices, percent: int) -> bool:
    """True about that often."""
    return choices.integer(1, 100) <= percent
