"""Cells that equations tie together fall into strands; strands of one structure are solved as one, with vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bnfold.folding.gauges.component import Cells, Component, Removal, Rows
from bnfold.folding.gauges.equations import Number, as_number
from bnfold.records import record


@record
class Equation:
    """The same equation in every strand of a group: positions in the strand with their factors, and the source."""

    positions: tuple[int, ...]
    factors: tuple[Number, ...]
    rows: Rows


@record
class Demand:
    """What a removal asks of a group: ``y = scale v + shift`` between two positions."""

    inside: int
    behind: int
    scale: NDArray[np.float64]
    shift: NDArray[np.float64]


@dataclass(slots=True, eq=False)
class Group:
    """Strands of one structure: ``variables`` is ``[strands, positions]``."""

    variables: Cells
    equations: list[Equation] = field(default_factory=list)
    demands: dict[str, list[Demand]] = field(default_factory=dict)


@record
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
    root, merged = alike(component)
    first, of = _numbered(root)
    frames = sorted(component.frames.values(), key=lambda frame: frame.first)
    kinds = np.repeat(np.arange(len(frames)), [frame.size for frame in frames])[first]
    left = []
    for rows in component.rows:
        if id(rows) in merged:
            continue
        cells, factors = of[rows.cells], rows.factors
        if cells.shape[1] == 1:
            cells = marked(len(first), cells).reshape(-1, 1)
            factors = np.ones(cells.shape)
        left.append((rows, cells, factors))
    demands = []
    for removal in component.removals:
        live = np.flatnonzero(alive[removal.head])
        demands.append((removal, live, np.stack([of[removal.inside[live]], of[removal.behind[live]]], axis=1)))
    return Variables(of, len(first), kinds, left, demands)


def _equates(rows: Rows) -> bool:
    factors = rows.factors
    return factors.shape[1] == 2 and bool((factors[:, 0] == 1.0).all() and (factors[:, 1] == -1.0).all())


def marked(count: int, cells: Cells) -> Cells:
    """Which of ``count`` cells there are among these, in ascending order."""
    mask = np.zeros(count, bool)
    mask[cells] = True
    return np.flatnonzero(mask)


def _numbered(root: Cells) -> tuple[Cells, Cells]:
    """The different ones of roots, ascending, and for each cell which of them is its own."""
    found = marked(len(root), root)
    number = np.empty(len(root), np.intp)
    number[found] = np.arange(len(found))
    return found, number[root]


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
    strand = _numbered(root)[1]
    order = np.argsort(strand, kind="stable")
    starts = np.searchsorted(strand[order], np.arange(strand.max(initial=-1) + 1))
    position = np.empty(variables.count, np.intp)
    position[order] = np.arange(variables.count) - starts[strand[order]]
    group = np.arange(len(starts)) if apart else _alike(variables, strand, position, len(starts))
    members = np.argsort(group, kind="stable")
    bounds = np.searchsorted(group[members], np.arange(group.max(initial=-1) + 2))
    lengths = np.diff(np.append(starts, variables.count))
    rank = np.empty(len(starts), np.intp)
    rank[members] = np.arange(len(members))
    groups = []
    for number in range(len(bounds) - 1):
        strands = members[bounds[number] : bounds[number + 1]]
        groups.append(Group(order[starts[strands][:, None] + np.arange(lengths[strands[0]])]))
    for rows, cells, factors in variables.rows:
        columns = [as_number(column) for column in factors.T] if len(factors) else []
        for number, spots, chosen in _shared_out(cells, strand, position, group, rank):
            each = len(chosen) // len(groups[number].variables)
            for k in range(each):
                which = chosen[k::each]
                own = tuple([c if isinstance(c, float) else as_number(c[which]) for c in columns])
                groups[number].equations.append(Equation(tuple(spots[k]), own, rows))
    for removal, live, cells in variables.demands:
        for number, spots, chosen in _shared_out(cells, strand, position, group, rank):
            each = len(chosen) // len(groups[number].variables)
            for k in range(each):
                which = live[chosen[k::each]]
                demand = Demand(spots[k][0], spots[k][1], removal.scale[which], removal.shift[which])
                groups[number].demands.setdefault(removal.head, []).append(demand)
    return groups


def _shared_out(
    cells: Cells, strand: Cells, position: Cells, group: Cells, rank: Cells
) -> Iterator[tuple[int, list[list[int]], Cells]]:
    """For each group the positions that an equation holds in each of its strands, and the rows, strand by strand.

    ``rank`` numbers the strands group by group.
    """
    if not len(cells):
        return
    strands, spots = strand[cells[:, 0]], position[cells]
    order = np.argsort(rank[strands], kind="stable")
    strands = strands[order]
    once = bool((strands[1:] != strands[:-1]).all())  # the rule: a channel is a strand
    if not once:
        keys = (*(spots[order, k] for k in reversed(range(cells.shape[1]))), rank[strands])
        order = order[np.lexsort(keys)]
    numbers, spots = group[strands], spots[order]
    starts = [0, *(np.flatnonzero(numbers[1:] != numbers[:-1]) + 1).tolist()]
    stops = [*starts[1:], len(order)]
    heads, found = spots[starts].tolist(), numbers[starts].tolist()
    for at, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        chosen = order[start:stop]
        if once:
            yield found[at], [heads[at]], chosen
        else:
            first = int((strands[start:stop] == strands[start]).sum())
            yield found[at], spots[start : start + first].tolist(), chosen


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
    root, merged = alike(component)
    pairs = [
        (root[rows.cells[:, 0]], root[rows.cells[:, 1]])
        for rows in component.rows
        if system in rows.systems and id(rows) not in merged and _equates(rows)
    ]
    return connected(component.size, pairs)[root] if pairs else root


def alike(component: Component) -> tuple[Cells, set[int]]:
    """For each cell the first of those that are like it in everything, and the equations that say so, by identity."""
    if component.alike is None:
        rows = [rows for rows in component.rows if len(rows.systems) == 3 and _equates(rows)]
        root = connected(component.size, [(each.cells[:, 0], each.cells[:, 1]) for each in rows])
        component.alike = root, set(map(id, rows))
    return component.alike
