"""Orders that take a newcomer at any place and never run out of room."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction

#: Where something stands in an :class:`Order`. A place never changes, so that it may be kept and compared.
Place = int | Fraction


class Order:
    """Names at places that compare as the order does.

    Places are exact. A newcomer gets the mediant of its neighbours' places, (a + c) / (b + d) between
    a/b and c/d: with many newcomers in a row, in front of or behind one neighbour, its digits grow
    with the logarithm of their number, where a float halved each time is used up after 52 of them.
    """

    def __init__(self, places: dict[str, Place] | None = None) -> None:
        self._places: dict[str, Place] = {} if places is None else places
        #: What comes right behind a name has to stay in front of this place: by default the next whole number.
        self._bounds: dict[str, Place] = {}
        self._next = 0

    def __getitem__(self, name: str) -> Place:
        return self._places[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def copy(self) -> Order:
        other = Order(dict(self._places))
        other._bounds = dict(self._bounds)
        other._next = self._next
        return other

    def append(self, name: str) -> None:
        """Put a name at the end."""
        self._places[name] = self._next
        self._next += 1

    def insert(self, name: str, behind: str) -> None:
        """Put a name right behind another: in front of everything that was put behind that earlier."""
        low = self._places[behind]
        high = self._bounds.get(behind, low + 1)
        self._places[name] = self._bounds[behind] = _mediant(low, high)
        self._bounds[name] = high

    def insert_between(self, name: str, before: str, after: Iterable[str]) -> None:
        """Put a name behind another and, if possible, in front of all those ``after``."""
        low = self._places[before]
        high = min((self._places[reader] for reader in after), default=low + 1)
        self._places[name] = _mediant(low, max(high, low))

    def put(self, name: str, at: Place) -> None:
        """Put a name at a place, even if another one stands there."""
        self._places[name] = at

    def spread(self, names: list[str], low: Place, high: Place) -> None:
        """Put names at even distances behind ``low``, the last one at ``high``."""
        for index, name in enumerate(names, start=1):
            self._places[name] = low + Fraction((high - low) * index) / len(names)

    def discard(self, name: str) -> None:
        del self._places[name]
        self._bounds.pop(name, None)

    def sorted(self, names: Iterable[str]) -> list[str]:
        """The names in order; those at one place by name."""
        return sorted(sorted(names), key=self._places.__getitem__)


def _mediant(low: Place, high: Place) -> Place:
    return Fraction(low.numerator + high.numerator, low.denominator + high.denominator)
