"""Cells that equations tie together fall into strands; strands of one structure are solved as one, with vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bnfold.folding.gauges.component import Cells, Component, Rows


@dataclass(frozen=True, slots=True, eq=False)
class Equation:
    """The same equation in every strand of a group: positions in the strand, and factors, one row a strand."""

    positions: tuple[int, ...]
    factors: NDArray[np.float64]
    rows: Rows


@dataclass(frozen=True, slots=True, eq=False)
class Demand:
    """What a removal asks of a group: ``y = scale v + shift`` between two positions."""

    inside: int
    behind: int
    scale: NDArray[np.float64]
    shift: NDArray[np.float64]


@dataclass(slots=True)
class Group:
    """Strands of one structure: ``cells`` is ``[strands, positions]``."""

    cells: Cells
    equations: list[Equation] = field(default_factory=list)
    demands: dict[str, list[Demand]] = field(default_factory=dict)


def connected(count: int, pairs: Sequence[tuple[Cells, Cells]]) -> Cells:
    """For each of ``count`` cells the smallest cell that it is tied to, over any number of pairs."""
    root = np.arange(count)
    if not pairs:
        return root
    first, second = (np.concatenate([np.ravel(pair[side]) for pair in pairs]) for side in (0, 1))
    while True:
        a, b = root[first], root[second]
        if (a == b).all():
            return root
        low = np.minimum(a, b)
        np.minimum.at(root, a, low)
        np.minimum.at(root, b, low)
        while not np.array_equal(root, shorter := root[root]):
            root = shorter


def groups_of(component: Component, alive: dict[str, NDArray[np.bool_]], *, apart: bool = False) -> list[Group]:
    """The strands of a component in groups; ``apart`` makes every strand a group of its own.

    ``alive`` says which channels of a removal demand anything.
    """
    pairs = [(rows.cells[:, 0], rows.cells[:, k]) for rows in component.rows for k in range(1, rows.cells.shape[1])]
    pairs += [(c.inside[alive[c.head]], c.behind[alive[c.head]]) for c in component.removals]
    root = connected(component.size, pairs)
    strand = np.unique(root, return_inverse=True)[1].reshape(-1)
    order = np.argsort(strand, kind="stable")
    starts = np.searchsorted(strand[order], np.arange(strand.max(initial=-1) + 1))
    position = np.empty(component.size, np.intp)
    position[order] = np.arange(component.size) - starts[strand[order]]
    group = np.arange(len(starts)) if apart else _alike(component, alive, strand, position, len(starts))
    members = np.argsort(group, kind="stable")
    bounds = np.searchsorted(group[members], np.arange(group.max(initial=-1) + 2))
    lengths = np.diff(np.append(starts, component.size))
    place = np.empty(len(starts), np.intp)  # of a strand in its group
    groups = []
    for number in range(len(bounds) - 1):
        strands = members[bounds[number] : bounds[number + 1]]
        place[strands] = np.arange(len(strands))
        length = lengths[strands[0]]
        groups.append(Group(order[starts[strands][:, None] + np.arange(length)]))
    for rows in component.rows:
        for number, spots, chosen in _shared_out(rows.cells, strand, position, group, place):
            count = len(groups[number].cells)
            each = len(chosen) // count
            for k in range(each):
                factors = rows.factors[chosen[k::each]]
                groups[number].equations.append(Equation(tuple(spots[k]), factors, rows))
    for removal in component.removals:
        live = np.flatnonzero(alive[removal.head])
        cells = np.stack([removal.inside[live], removal.behind[live]], axis=1)
        for number, spots, chosen in _shared_out(cells, strand, position, group, place):
            each = len(chosen) // len(groups[number].cells)
            for k in range(each):
                which = live[chosen[k::each]]
                demand = Demand(spots[k][0], spots[k][1], removal.scale[which], removal.shift[which])
                groups[number].demands.setdefault(removal.head, []).append(demand)
    return groups


def _shared_out(
    cells: Cells, strand: Cells, position: Cells, group: Cells, place: Cells
) -> Iterator[tuple[int, list[list[int]], Cells]]:
    """For each group the positions that an equation holds in each of its strands, and the rows, strand by strand."""
    if not len(cells):
        return
    strands = strand[cells[:, 0]]
    spots = position[cells]
    keys = (*(spots[:, k] for k in reversed(range(cells.shape[1]))), place[strands], group[strands])
    order = np.lexsort(keys)
    numbers = group[strands[order]]
    cuts = np.flatnonzero(np.diff(numbers)) + 1
    for chosen in np.split(order, cuts):
        first = int((strands[chosen] == strands[chosen[0]]).sum())
        yield int(group[strands[chosen[0]]]), spots[chosen[:first]].tolist(), chosen


_PRIME = np.uint64(0x9E3779B97F4A7C15)


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A hash of 64 bits (the finaliser of splitmix64)."""
    values = values * _PRIME
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _alike(
    component: Component, alive: dict[str, NDArray[np.bool_]], strand: Cells, position: Cells, count: int
) -> Cells:
    """The number of its group for each strand: those with the same places and the same equations share one."""
    total = np.zeros(count, np.uint64)
    frames = sorted(component.frames.values(), key=lambda frame: frame.first)
    kind = np.repeat(np.arange(len(frames)), [frame.size for frame in frames])
    salt = position.astype(np.uint64) << np.uint64(32)
    np.add.at(total, strand, _mixed(kind.astype(np.uint64) + salt + np.uint64(1)))

    def enter(number: int, cells: Cells, factors: NDArray[np.float64] | None) -> None:
        key = _mixed(np.full(len(cells), number + (1 << 40), np.uint64))
        for k in range(cells.shape[1]):
            zero = 0 if factors is None else (factors[:, k] == 0).astype(np.uint64)
            key = _mixed(key + (position[cells[:, k]].astype(np.uint64) << np.uint64(1)) + zero)
        np.add.at(total, strand[cells[:, 0]], key)

    for number, rows in enumerate(component.rows):
        enter(number, rows.cells, rows.factors)
    for number, removal in enumerate(component.removals, len(component.rows)):
        live = alive[removal.head]
        enter(number, np.stack([removal.inside[live], removal.behind[live]], axis=1), None)
    return np.unique(total, return_inverse=True)[1].reshape(-1)


def snapped(component: Component, system: str) -> Cells:
    """For each cell the first of those that must have exactly its value."""
    pairs = [
        (rows.cells[:, 0], rows.cells[:, 1])
        for rows in component.rows
        if system in rows.systems and rows.cells.shape[1] == 2 and (rows.factors == [1.0, -1.0]).all()
    ]
    return connected(component.size, pairs)
