"""Which operators to look at next: all of them once, and again whoever depends on what has changed."""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from bnfold.graph import ModelGraph, Order, Place


class Worklist:
    """Names of operators in dataflow order, each at most once at a time."""

    def __init__(self, graph: ModelGraph, order: Order) -> None:
        self._graph = graph
        self._order = order
        self._heap: list[tuple[Place, str]] = []
        self._queued: set[str] = set()
        #: For each operator the heads of the candidates whose search asked it in vain.
        self._dependents: dict[str, set[str]] = {}

    def add(self, names: Iterable[str]) -> None:
        """Queue those of the operators that there still are, and none that is gone."""
        for name in names:
            if name not in self._graph:
                self._queued.discard(name)
            elif name not in self._queued:
                self._queued.add(name)
                heapq.heappush(self._heap, (self._order[name], name))

    def add_changed(self, names: set[str]) -> None:
        """Queue operators that have changed, and their dependents."""
        again = set(names)
        for name in names:
            again.update(self._dependents.pop(name, ()))
        self.add(again)

    def add_dependents_of_removed(self) -> None:
        """Queue the dependents of operators that are gone."""
        for name in [name for name in self._dependents if name not in self._graph]:
            self.add(self._dependents.pop(name))

    def depend(self, head: str, asked: Iterable[str]) -> None:
        """When one of the operators ``asked`` changes, ``head`` is to be looked at again."""
        for name in asked:
            self._dependents.setdefault(name, set()).add(head)

    def skip(self, names: Iterable[str]) -> None:
        """Leave operators out that are queued; they may come back."""
        self._queued.difference_update(names)

    def pop(self) -> str | None:
        """The next operator that still exists; None when all is done."""
        while self._queued:
            _, name = heapq.heappop(self._heap)
            if name in self._queued:
                self._queued.discard(name)
                if name in self._graph:
                    return name
        self._heap.clear()  # of those that were left out: to take the first of many off takes long
        return None
