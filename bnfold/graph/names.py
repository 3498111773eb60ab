"""Names that a model does not use yet."""

from __future__ import annotations

from collections.abc import Iterable


class Names:
    """The names that are taken, and new ones."""

    __slots__ = ("_last", "_taken")

    def __init__(self, *taken: Iterable[str]) -> None:
        self._taken: set[str] = set().union(*taken)
        #: The last number that :meth:`fresh` gave to a stem.
        self._last: dict[str, int] = {}

    def fresh(self, stem: str) -> str:
        """``stem`` itself if it is free, else with the next number: ``stem_2``. It is taken then."""
        name, count = stem, self._last.get(stem, 1)
        if count > 1 or stem in self._taken:
            count += 1
            while (name := f"{stem}_{count}") in self._taken:
                count += 1
            self._last[stem] = count
        self._taken.add(name)
        return name
