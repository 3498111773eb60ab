"""Cells that equations tie together fall into strands; strands of one structure are solved as one, with vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bnfold.folding.gauges.component import Cells, Component, Removal, Rows


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
    """Strands of one structure: ``variables`` is ``[strands, positions]``."""

    variables: Cells
    equations: list[Equation] = field(default_factory=list)
    demands: dict[str, list[Demand]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Variables:
    """A component with one variable for all cells that are alike in everything: ``of`` says which for each cell."""

    of: Cells
    count: int
    #: The place that the first cell of each variable belongs to, by number.
    kinds: Cells
    #: What is left of the equations, each with its cells as variables.
    rows: list[tuple[Rows, Cells, NDArray[np.float64]]]
    #: For each removal the channels that demand anything, and their variables.
    demands: list[tuple[Removal, Cells, Cells]]


def contracted(component: Component, alive: dict[str, NDArray[np.bool_]]) -> Variables:
    """Cells in variables. ``alive`` says which channels of a removal demand anything."""
    alike = [rows for rows in component.rows if len(rows.systems) == 3 and _equates(rows)]
    root = connected(component.size, [(rows.cells[:, 0], rows.cells[:, 1]) for rows in alike])
    first, of = np.unique(root, return_inverse=True)
    of = of.reshape(-1)
    frames = sorted(component.frames.values(), key=lambda frame: frame.first)
    kinds = np.repeat(np.arange(len(frames)), [frame.size for frame in frames])[first]
    left, merged = [], set(map(id, alike))
    for rows in component.rows:
        if id(rows) in merged:
            continue
        cells, factors = of[rows.cells], rows.factors
        if cells.shape[1] == 1:
            cells = np.unique(cells).reshape(-1, 1)
            factors = np.ones(cells.shape)
        left.append((rows, cells, factors))
    demands = []
    for removal in component.removals:
        live = np.flatnonzero(alive[removal.head])
        demands.append((removal, live, np.stack([of[removal.inside[live]], of[removal.behind[live]]], axis=1)))
    return Variables(of, len(first), kinds, left, demands)


def _equates(rows: Rows) -> bool:
    return rows.cells.shape[1] == 2 and bool((rows.factors == [1.0, -1.0]).all())


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


def groups_of(variables: Variables, *, apart: bool = False) -> list[Group]:
    """The strands of a component in groups; ``apart`` makes every strand a group of its own."""
    tables = [cells for _, cells, _ in variables.rows] + [cells for _, _, cells in variables.demands]
    root = connected(
        variables.count, [(cells[:, 0], cells[:, k]) for cells in tables for k in range(1, cells.shape[1])]
    )
    strand = np.unique(root, return_inverse=True)[1].reshape(-1)
    order = np.argsort(strand, kind="stable")
    starts = np.searchsorted(strand[order], np.arange(strand.max(initial=-1) + 1))
    position = np.empty(variables.count, np.intp)
    position[order] = np.arange(variables.count) - starts[strand[order]]
    group = np.arange(len(starts)) if apart else _alike(variables, strand, position, len(starts))
    members = np.argsort(group, kind="stable")
    bounds = np.searchsorted(group[members], np.arange(group.max(initial=-1) + 2))
    lengths = np.diff(np.append(starts, variables.count))
    place = np.empty(len(starts), np.intp)  # of a strand in its group
    groups = []
    for number in range(len(bounds) - 1):
        strands = members[bounds[number] : bounds[number + 1]]
        place[strands] = np.arange(len(strands))
        groups.append(Group(order[starts[strands][:, None] + np.arange(lengths[strands[0]])]))
    for rows, cells, factors in variables.rows:
        for number, spots, chosen in _shared_out(cells, strand, position, group, place):
            each = len(chosen) // len(groups[number].variables)
            for k in range(each):
                groups[number].equations.append(Equation(tuple(spots[k]), factors[chosen[k::each]], rows))
    for removal, live, cells in variables.demands:
        for number, spots, chosen in _shared_out(cells, strand, position, group, place):
            each = len(chosen) // len(groups[number].variables)
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


def _alike(variables: Variables, strand: Cells, position: Cells, count: int) -> Cells:
    """The number of its group for each strand: those with the same places and the same equations share one."""
    total = np.zeros(count, np.uint64)
    salt = position.astype(np.uint64) << np.uint64(32)
    np.add.at(total, strand, _mixed(variables.kinds.astype(np.uint64) + salt + np.uint64(1)))

    def enter(number: int, cells: Cells, factors: NDArray[np.float64] | None) -> None:
        key = _mixed(np.full(len(cells), number + (1 << 40), np.uint64))
        for k in range(cells.shape[1]):
            zero = 0 if factors is None else (factors[:, k] == 0).astype(np.uint64)
            key = _mixed(key + (position[cells[:, k]].astype(np.uint64) << np.uint64(1)) + zero)
        np.add.at(total, strand[cells[:, 0]], key)

    for number, (_, cells, factors) in enumerate(variables.rows):
        enter(number, cells, factors)
    for number, (_, _, cells) in enumerate(variables.demands, len(variables.rows)):
        enter(number, cells, None)
    return np.unique(total, return_inverse=True)[1].reshape(-1)


def snapped(component: Component, system: str) -> Cells:
    """For each cell the first of those that must have exactly its value."""
    pairs = [
        (rows.cells[:, 0], rows.cells[:, 1]) for rows in component.rows if system in rows.systems and _equates(rows)
    ]
    return connected(component.size, pairs)
