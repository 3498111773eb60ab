"""Cells that equations tie together fall into strands; strands of one structure are solved as one, with vectors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

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


@record
class Variables:
    """A component with one variable for all cells that are alike in everything.

    ``of`` says which for each cell, -1 where nothing is demanded of it.
    """

    of: Cells
    count: int
    #: The place that the first cell of each variable belongs to, by number.
    kinds: Cells
    #: The strand of each variable.
    strand: Cells
    #: What is left of the equations, each with its cells as variables.
    rows: list[tuple[Rows, Cells, NDArray[np.float64]]]
    #: For each removal the channels that demand anything, and their variables.
    demands: list[tuple[Removal, Cells, Cells]]
    #: Above 1 each variable, strand, row and demand stands for so many, one a channel: factors have all of them.
    width: int = 1

    @property
    def tables(self) -> list[Cells]:
        """The variables of all equations, and behind them those of all demands."""
        return [cells for _, cells, _ in self.rows] + [cells for _, _, cells in self.demands]


class Strands:
    """For each variable its strand and its position in that; for each strand its group and its rank by groups."""

    def __init__(self, variables: Variables, of: Cells, position: Cells, group: Cells, rank: Cells) -> None:
        self.variables, self.tables = variables, variables.tables
        self.of, self.position, self.group, self.rank = of, position, group, rank
        self._shares: dict[int, dict[int, Share]] = {}

    def share(self, table: int, group: int) -> Share:
        """What one table says about a group."""
        if table not in self._shares:
            self._shares[table] = self._shared_out(self.tables[table])
        return self._shares[table][group]

    def _shared_out(self, cells: Cells) -> dict[int, Share]:
        """For each group the positions that a table names in each of its strands, and the rows, strand by strand."""
        strands, spots = self.of[cells[:, 0]], self.position[cells]
        ranks = self.rank[strands]
        once = bool((ranks[1:] > ranks[:-1]).all())
        if once and self.group[strands[0]] == self.group[strands[-1]]:  # the rule: a channel is a strand, all alike
            return {int(self.group[strands[0]]): Share([spots[0].tolist()], np.arange(len(ranks)))}
        order = np.arange(len(ranks)) if once else np.argsort(ranks, kind="stable")
        strands = strands[order]
        once = once or bool((strands[1:] != strands[:-1]).all())
        if not once:
            order = order[np.lexsort((*(spots[order, k] for k in reversed(range(cells.shape[1]))), ranks[order]))]
        numbers, spots = self.group[strands], spots[order]
        starts = [0, *(np.flatnonzero(numbers[1:] != numbers[:-1]) + 1).tolist()]
        stops = [*starts[1:], len(order)]
        heads, found = spots[starts].tolist(), numbers[starts].tolist()
        shares = {}
        for at, (start, stop) in enumerate(zip(starts, stops, strict=True)):
            first = 1 if once else int((strands[start:stop] == strands[start]).sum())
            named = [heads[at]] if once else spots[start : start + first].tolist()
            shares[found[at]] = Share(named, order[start:stop])
        return shares

    def tables_of_groups(self, groups: int) -> list[list[int]]:
        """For each group the tables that say something about it, in order."""
        tables = self.tables
        found: list[list[int]] = [[] for _ in range(groups)]
        if not tables:
            return found
        numbers = self.group[self.of[np.concatenate([cells[:, 0] for cells in tables])]]
        keys = np.repeat(np.arange(len(tables)), [len(cells) for cells in tables]) * groups + numbers
        changes = np.flatnonzero(keys[1:] != keys[:-1]) + 1  # channels of a group mostly stand together
        for key in sorted(set(keys[[0, *changes]].tolist() if len(keys) else ())):
            found[key % groups].append(key // groups)
        return found


@record
class Share:
    """The positions that a table names in each strand of a group, once or several times, and the rows that do."""

    spots: list[list[int]]
    rows: Cells


@record
class Group:
    """Strands of one structure: ``variables`` is ``[strands, positions]``. Its equations are written out on demand."""

    variables: Cells
    number: int
    strands: Strands
    tables: list[int]

    def equations(self) -> Iterator[Equation]:
        """The equations, each once for all strands."""
        rows = self.strands.variables.rows
        for table in self.tables:
            if table < len(rows):
                source, _, factors = rows[table]
                for spots, chosen in self._each(table):
                    own = factors[chosen] if self.strands.variables.width == 1 else factors
                    yield Equation(spots, tuple([as_number(column) for column in own.T]), source)

    def demands(self) -> Iterator[tuple[str, Demand]]:
        """The demands, each with the head of its removal."""
        variables = self.strands.variables
        for table in self.tables:
            if table >= len(variables.rows):
                removal, live, _ = variables.demands[table - len(variables.rows)]
                for (inside, behind), chosen in self._each(table):
                    which = live[chosen] if variables.width == 1 else live
                    yield removal.head, Demand(inside, behind, removal.scale[which], removal.shift[which])

    @property
    def heads(self) -> list[str]:
        """The removals that demand something of it."""
        variables = self.strands.variables
        first = len(variables.rows)
        return [variables.demands[table - first][0].head for table in self.tables if table >= first]

    def _each(self, table: int) -> Iterator[tuple[tuple[int, ...], Cells]]:
        share = self.strands.share(table, self.number)
        each = len(share.rows) * self.strands.variables.width // len(self.variables)
        for k in range(each):
            yield tuple(share.spots[k]), share.rows[k::each]


def contracted(
    component: Component,
    alive: Mapping[str, NDArray[np.bool_]],
    removals: Sequence[Removal] | None = None,
    *,
    apart: bool = False,
) -> Variables:
    """Cells in variables, with the demands of ``removals`` (None: of all) and the equations that concern them.

    ``alive`` says which channels of a removal demand anything. Where all channels are alike at first sight, one
    stands for all, unless they are to be kept ``apart``.
    """
    removals = component.removals if removals is None else removals
    root, merged = alike(component)
    width = 1 if apart else _width(component, alive, removals)
    first, of = _numbered(root[::width] // width)
    demands = []
    for removal in removals:
        live = np.flatnonzero(alive[removal.head])
        ends = [of[_shown(cells if width > 1 else cells[live], width)] for cells in (removal.inside, removal.behind)]
        demands.append((removal, live, np.stack(ends, axis=1)))
    rows = [(rows, of[_shown(rows.cells, width)]) for rows in component.rows if id(rows) not in merged]
    pairs = [cells for _, cells in rows if cells.shape[1] > 1] + [cells for _, _, cells in demands]
    strand = connected(len(first), [(cells[:, 0], cells[:, k]) for cells in pairs for k in range(1, cells.shape[1])])
    asked = np.zeros(len(first), bool)
    for _, _, cells in demands:
        asked[strand[cells[:, 0]]] = True
    # Of strands of which nothing is demanded nothing needs to be known.
    kept = np.flatnonzero(asked[strand])
    number = np.full(len(first), -1)
    number[kept] = np.arange(len(kept))
    frames = sorted(component.frames.values(), key=lambda frame: frame.first)
    kinds = np.repeat(np.arange(len(frames)), [frame.size // width for frame in frames])[first[kept]]
    left = [(each, *_left(each, number[cells], len(kept), width)) for each, cells in rows]
    of = number[of]
    if width > 1:
        of = np.where(of < 0, -1, of * width)[:, None] + np.where(of < 0, 0, 1)[:, None] * np.arange(width)
    return Variables(
        of.reshape(-1),
        len(kept),
        kinds,
        _numbered(number[strand[kept]])[1],
        [row for row in left if len(row[1])],
        [(removal, live, number[cells]) for removal, live, cells in demands],
        width,
    )


def _left(rows: Rows, cells: Cells, count: int, width: int) -> tuple[Cells, NDArray[np.float64]]:
    """What is left of some equations among ``count`` variables, -1 for none: those, and the factors."""
    if cells.shape[1] == 1:
        cells = marked(count, cells[cells >= 0]).reshape(-1, 1)
        return cells, np.ones(cells.shape)
    concerned = cells[:, 0] >= 0
    return cells[concerned], rows.factors if width > 1 else rows.factors[concerned]


def _shown(cells: Cells, width: int) -> Cells:
    """Of the channels of a table those that stand for all."""
    return cells if width == 1 else cells[:1] // width


def _width(component: Component, alive: Mapping[str, NDArray[np.bool_]], removals: Sequence[Removal]) -> int:
    """How many channels there are, where every place has as many and all say the same of each; else 1."""
    width = next(iter(component.frames.values())).size
    if any(frame.size != width for frame in component.frames.values()):
        return 1
    channels = np.arange(width)
    for removal in removals:
        if not alive[removal.head].all():
            return 1
    for rows in component.rows:
        if len(rows.cells) != width or (rows.cells[0] % width).any() or not rows.factors.all():
            return 1
        if (rows.cells - rows.cells[0] != channels[:, None]).any():
            return 1
    return width


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
    for pair in pairs:  # a guess, which is right where nothing was said yet of the later cell: the rule
        root[np.maximum(*pair)] = root[np.minimum(*pair)]
    first, second = (np.concatenate([np.ravel(pair[side]) for pair in pairs]) for side in (0, 1))
    while True:
        while not np.array_equal(root, shorter := root[root]):
            root = shorter
        a, b = root[first], root[second]
        apart = a != b
        if not np.count_nonzero(apart):
            return root
        a, b, first, second = a[apart], b[apart], first[apart], second[apart]
        np.minimum.at(root, np.maximum(a, b), np.minimum(a, b))


def groups_of(variables: Variables, *, apart: bool = False) -> list[Group]:
    """The strands of a component in groups; ``apart`` makes every strand a group of its own."""
    strand, width = variables.strand, variables.width
    order = np.argsort(strand, kind="stable")
    starts = np.searchsorted(strand[order], np.arange(strand.max(initial=-1) + 1))
    position = np.empty(variables.count, np.intp)
    position[order] = np.arange(variables.count) - starts[strand[order]]
    group = np.arange(len(starts)) if apart or width > 1 else _alike(variables, strand, position, len(starts))
    members = np.argsort(group, kind="stable")
    bounds = np.searchsorted(group[members], np.arange(group.max(initial=-1) + 2))
    lengths = np.diff(np.append(starts, variables.count))
    rank = np.empty(len(starts), np.intp)
    rank[members] = np.arange(len(members))
    strands = Strands(variables, strand, position, group, rank)
    groups = []
    for number, tables in enumerate(strands.tables_of_groups(len(bounds) - 1)):
        chosen = members[bounds[number] : bounds[number + 1]]
        cells = order[starts[chosen][:, None] + np.arange(lengths[chosen[0]])]
        if width > 1:
            cells = cells * width + np.arange(width)[:, None]
        groups.append(Group(cells, number, strands, tables))
    return groups


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
    # All equations of one length are entered at once: for each its number, its cells, and which factors are zero.
    tables: dict[int, list[tuple[int, Cells, NDArray[np.float64] | None]]] = {}
    factors = [each for _, _, each in variables.rows]
    for number, cells in enumerate(variables.tables):
        own = factors[number] if number < len(factors) else None
        tables.setdefault(cells.shape[1], []).append((number, cells, own))
    for length, entries in tables.items():
        numbers = np.repeat([number + (1 << 40) for number, _, _ in entries], [len(cells) for _, cells, _ in entries])
        cells = np.concatenate([cells for _, cells, _ in entries])
        key = _mixed(numbers.astype(np.uint64))
        zero = np.concatenate([np.zeros(each.shape, bool) if own is None else own == 0 for _, each, own in entries])
        for k in range(length):
            key = _mixed(key + (position[cells[:, k]].astype(np.uint64) << np.uint64(1)) + zero[:, k])
        np.add.at(total, strand[cells[:, 0]], key)
    # What np.unique gives with return_inverse: that imports numpy.ma, which takes longer than all of this.
    order = np.argsort(total, kind="stable")
    ranked = total[order]
    found = np.empty(len(total), np.intp)
    found[order] = np.cumsum(np.concatenate([np.zeros(1, bool), ranked[1:] != ranked[:-1]])[: len(total)])
    return found


def snapped(component: Component, system: str) -> Cells:
    """For each cell the first of those that must have exactly its value."""
    root, merged = alike(component)
    equal = [rows for rows in component.rows if system in rows.systems and rows.equates and id(rows) not in merged]
    if not equal:
        return root
    key = tuple(map(id, equal))  # sizes and signs are mostly tied by the same equations
    if key not in component.snapped:
        pairs = [(root[rows.cells[:, 0]], root[rows.cells[:, 1]]) for rows in equal]
        component.snapped[key] = connected(component.size, pairs)[root]
    return component.snapped[key]


def alike(component: Component) -> tuple[Cells, set[int]]:
    """For each cell the first of those that are like it in everything, and the equations that say so, by identity."""
    if component.alike is None:
        rows = [rows for rows in component.rows if rows.equates and len(rows.systems) == 3]
        root = connected(component.size, [(each.cells[:, 0], each.cells[:, 1]) for each in rows])
        component.alike = root, set(map(id, rows))
    return component.alike
