"""Who reads each tensor."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from bnfold.graph.elements import Op, Use


class Uses:
    """Every read of every tensor, in the order in which they came.

    Most tensors are read once: their read stands by itself, a dictionary for each would be a third of a graph.
    """

    __slots__ = ("_of",)

    def __init__(self) -> None:
        self._of: dict[str, Use | dict[Use, None]] = {}

    def __iter__(self) -> Iterator[str]:
        """The tensors that somebody reads."""
        return iter(self._of)

    def __contains__(self, tensor: str) -> bool:
        """Does anybody read it?"""
        return tensor in self._of

    def of(self, tensor: str) -> Collection[Use]:
        """The reads of a tensor: not to be kept over a change."""
        found = self._of.get(tensor)
        if found is None:
            return ()
        return found.keys() if type(found) is dict else (found,)  # type: ignore[return-value]

    def count(self, tensor: str) -> int:
        found = self._of.get(tensor)
        if found is None:
            return 0
        return len(found) if type(found) is dict else 1

    def sole(self, tensor: str) -> Use | None:
        """The one read of a tensor; None where there are none or several."""
        found = self._of.get(tensor)
        if type(found) is not dict:
            return found  # type: ignore[return-value]
        return next(iter(found)) if len(found) == 1 else None

    def add(self, tensor: str, use: Use) -> None:
        found = self._of.get(tensor)
        if found is None:
            self._of[tensor] = use
        elif type(found) is dict:
            found[use] = None
        elif found != use:
            self._of[tensor] = {found: None, use: None}  # type: ignore[dict-item]

    def drop(self, tensor: str, use: tuple[str, int | None]) -> None:
        """Take a read out, any tuple like the :class:`Use`. Raises KeyError where nobody reads the tensor."""
        found = self._of[tensor]
        if type(found) is dict:
            found.pop(Use(*use), None)
            if not found:
                del self._of[tensor]
        elif found == use:
            del self._of[tensor]

    def add_all(self, op: Op) -> None:
        """The reads of an operator: of its inputs and, by its subgraphs, of what these capture."""
        of, name = self._of, op.name
        for slot, tensor in enumerate(op.inputs):
            if not tensor:
                continue
            if tensor in of:
                self.add(tensor, Use(name, slot))
            else:
                of[tensor] = Use(name, slot)
        for tensor in op.captures:
            self.add(tensor, Use(name, None))

    def drop_all(self, op: Op) -> None:
        """Take the reads of an operator out."""
        for slot, tensor in enumerate(op.inputs):
            if tensor:
                self.drop(tensor, (op.name, slot))
        for tensor in op.captures:
            self.drop(tensor, (op.name, None))

    def copy(self) -> Uses:
        other = Uses()
        other._of = {tensor: found.copy() if type(found) is dict else found for tensor, found in self._of.items()}
        return other
