"""The tensors that operators without weights tie to each other, and what every operator demands of their gauges.

The gauge of a tensor v replaces it by ``a (v + b)``, one pair (a, b) a channel. Written so, b counts in
the units of v, and the demands on a and on b are two systems of linear equations that know nothing of each
other: one in log|a| (and the signs), one in b. An operator's demands are read off its facts: labels are
lifted or sunk through it, one label a channel, and where they come out says which channels it ties.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bnfold.affine import Affine, Vector
from bnfold.folding.candidates import Candidate
from bnfold.graph import ModelGraph, Use
from bnfold.operators import dim_of, rank_of
from bnfold.operators.dialect import dialect_of
from bnfold.records import record

#: Cells of one component: a repetition may claim any number of channels.
MAX_CELLS = 1 << 22

Cells = NDArray[np.intp]
#: As :attr:`bnfold.affine.Affine.grid`.
Grid = tuple[tuple[int, int], ...]
#: Axis, size and grid of a :class:`Frame`.
Axes = tuple[int | None, int, Grid]
#: Those of a tensor whose gauge is one number.
ONE_NUMBER: Axes = (None, 1, ())
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
        factors = np.empty((len(first), 2))
        factors[:] = 1.0, -1.0
        return cls(systems, np.array([first, second]).T, factors, why, equates=True)

    @classmethod
    def still(cls, systems: tuple[str, ...], cells: Cells, why: str) -> Rows:
        """Each of these cells keeps its value: a = 1, b = 0."""
        column = cells.reshape(-1, 1)
        return cls(systems, column, np.ones(column.shape), why)


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


class Component:
    """Places with their frames, the operators among them, and the demands."""

    def __init__(self) -> None:
        self.frames: dict[Place, Frame] = {}
        #: Tensors whose neighbours nobody has looked at yet.
        self.reached: deque[str] = deque()
        self.rows: list[Rows] = []
        self.removals: list[Removal] = []
        #: Operators without weights, by name; each is asked again with the gauges that were found.
        self.ties: dict[str, None] = {}
        #: Kinds of them through which only positive scales pass, once one of a kind was asked: no other needs to be.
        self.rigid: set[tuple[str, str]] = set()
        #: Operators with weights at the rim.
        self.rim: dict[str, None] = {}
        #: Affines that were not blocked.
        self.staying: dict[str, None] = {}
        #: All blocked candidates of it, with the axes along which each may go, and those that have to stay.
        self.heads: dict[str, Axes | None] = {}
        self.held: dict[str, None] = {}
        #: Is there an affine that does not fit the axes that its tensors were reached along?
        self.is_askew = False
        self.size = 0
        #: Asks what affines demand while they stay: left until it is known that any of them may go.
        self.pending: list[Callable[[], None]] = []
        #: What :func:`bnfold.folding.gauges.strands.alike` found out once the walk was done: pins change nothing there.
        self.alike: tuple[Cells, set[int]] | None = None
        #: What :func:`bnfold.folding.gauges.strands.snapped` found, by the identities of the equations.
        self.snapped: dict[tuple[int, ...], Cells] = {}

    def reach(self, place: Place, axis: int | None, size: int, grid: Grid = ()) -> Frame | None:
        """The frame of a place; None where it has another one already, or there is no room."""
        known = self.frames.get(place)
        if known is not None:
            alike = known.size == size and ((known.axis, known.grid) == (axis, grid) or size == 1)
            return known if alike else None
        if self.size + size > MAX_CELLS:
            return None
        frame = self.frames[place] = Frame(axis, grid, size, self.size)
        self.size += size
        if isinstance(place, str):
            self.reached.append(place)
        return frame

    def ask_pending(self) -> None:
        """Enter what has not been asked yet."""
        while self.pending:
            self.pending.pop(0)()

    def pin(self, graph: ModelGraph, name: str, why: str, *, writes: bool = False) -> None:
        """Nothing that an operator sees has a gauge of its own, but its first output where its weights write that."""
        op = graph.op(name)
        outputs = op.outputs[1:] if writes else op.outputs
        places: list[Place] = [*op.inputs, *outputs, *(Use(name, slot) for slot in range(len(op.inputs)))]
        for place in dict.fromkeys(places):
            frame = self.frames.get(place)
            if frame is not None:
                self.rows.append(Rows.still(("size", "sign", "shift"), frame.cells, why))


def by_channels(graph: ModelGraph, tensor: str) -> Axes:
    """Along the axis on which the format has a tensor's channels; as one number where that is not known."""
    rank = rank_of(graph, tensor) or 0
    if rank < 2:
        return ONE_NUMBER
    axis = dialect_of(graph).channel_axis % rank
    size = dim_of(graph, tensor, axis)
    return (axis, size, ()) if size else ONE_NUMBER
