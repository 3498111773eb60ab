"""The tensors that operators without weights tie to each other, and what every operator demands of their gauges.

The gauge of a tensor v replaces it by ``a (v + b)``, one pair (a, b) a channel. Written so, b counts in
the units of v, and the demands on a and on b are two systems of linear equations that know nothing of each
other: one in log|a| (and the signs), one in b. An operator's demands are read off its facts: labels are
lifted or sunk through it, one label a channel, and where they come out says which channels it ties.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bnfold.affine import Affine, Vector
from bnfold.folding.candidates import Candidate
from bnfold.graph import ModelGraph, Use
from bnfold.records import record

Cells = NDArray[np.intp]
#: As :attr:`bnfold.affine.Affine.grid`.
Grid = tuple[tuple[int, int], ...]
#: A tensor by its name, or the constant that one operator reads in one slot.
Place = str | Use


@record
class Frame:
    """Where the channels of a place lie, as in an :class:`Affine`, and the number of its first cell (one a channel)."""

    axis: int | None
    grid: Grid
    size: int
    first: int

    @property
    def cells(self) -> Cells:
        return np.arange(self.first, self.first + self.size)

    def fits(self, affine: Affine) -> bool:
        """Is that one number, or one for each of these channels?"""
        return affine.axis is None or (affine.axis, affine.size, affine.grid) == (self.axis, self.size, self.grid)

    def affine(self, scale: Vector | float, shift: Vector | float) -> Affine:
        """A map along these channels."""
        a, b = np.empty(self.size), np.empty(self.size)
        a[:], b[:] = scale, shift
        return Affine(a, b, self.axis, self.grid)

    def labels(self, first: int) -> Affine:
        """A scale by ``first``, ``first + 1``, …, one number a channel."""
        return self.affine(np.arange(first, first + self.size, dtype=np.float64), 0.0)


_EQUAL = np.array([1.0, -1.0])


@record
class Rows:
    """Equations ``sum(factors * x[cells]) = 0``, one a row; ``cells`` is ``[n, k]``, so are ``factors``.

    ``systems`` says of what: "size" (log|a|), "sign" (is a negative?), "shift" (b). ``why`` is for people.
    """

    systems: tuple[str, ...]
    cells: Cells
    factors: NDArray[np.float64]
    why: str
    #: Do all say that one cell has the value of another?
    equates: bool = False

    @classmethod
    def equal(cls, systems: tuple[str, ...], first: Cells, second: Cells, why: str) -> Rows:
        """Each cell of ``first`` has the value of one of ``second``."""
        return cls(systems, np.array([first, second]).T, np.broadcast_to(_EQUAL, (len(first), 2)), why, equates=True)


@record
class Removal:
    """An affine that may go: ``y = scale v + shift`` between the cells of v and of y."""

    candidate: Candidate
    inside: Cells
    behind: Cells
    scale: Vector
    shift: Vector

    @property
    def head(self) -> str:
        return self.candidate.head


@dataclass(slots=True, eq=False)
class Component:
    """Places with their frames, the operators among them, and the demands."""

    frames: dict[Place, Frame] = field(default_factory=dict)
    rows: list[Rows] = field(default_factory=list)
    removals: list[Removal] = field(default_factory=list)
    #: Operators without weights, by name; each is asked again with the gauges that were found.
    ties: dict[str, None] = field(default_factory=dict)
    #: Operators with weights at the rim.
    rim: dict[str, None] = field(default_factory=dict)
    #: Affines that were not blocked.
    staying: dict[str, None] = field(default_factory=dict)
    #: All blocked candidates of it, and those that have to stay.
    heads: dict[str, None] = field(default_factory=dict)
    held: dict[str, None] = field(default_factory=dict)
    #: Is there an affine that does not fit the axes that its tensors were reached along?
    is_askew: bool = False
    #: Candidates that alone would be looked at along other axes.
    askew: dict[str, None] = field(default_factory=dict)
    size: int = 0
    #: Asks what affines demand while they stay: left until it is known that any of them may go.
    pending: list[Callable[[], None]] = field(default_factory=list)
    #: What :func:`bnfold.folding.gauges.strands.alike` found out once the walk was done: pins change nothing about it.
    alike: tuple[Cells, set[int]] | None = None
    #: What :func:`bnfold.folding.gauges.strands.snapped` found, by the identities of the equations.
    snapped: dict[tuple[int, ...], Cells] = field(default_factory=dict)

    def ask_pending(self) -> None:
        """Enter what has not been asked yet."""
        while self.pending:
            self.pending.pop(0)()

    def pin(self, graph: ModelGraph, name: str, why: str) -> None:
        """Nothing that an operator sees has a gauge of its own."""
        op = graph.op(name)
        places: list[Place] = [*op.inputs, *op.outputs, *(Use(name, slot) for slot in range(len(op.inputs)))]
        for place in dict.fromkeys(places):
            frame = self.frames.get(place)
            if frame is not None:
                column = frame.cells.reshape(-1, 1)
                self.rows.append(Rows(("size", "sign", "shift"), column, np.ones(column.shape), why))
