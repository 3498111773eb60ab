"""A small graph in rows from top to bottom: for pictures that need no browser and no other program.

The usual steps of layered drawing (Sugiyama, Tagawa and Toda 1981): rows by the longest way, long edges cut into
pieces, rows ordered by the mean place of their neighbours, and places moved toward these.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bnfold.reporting.drawing.view import View

WIDTH, HEIGHT = 168, 40
_GAP, _ROW_GAP, _BEND = 18, 30, 14
_SWEEPS = 8

#: A node by its key, or one piece of a long edge.
_Item = str | tuple[int, int]


@dataclass(frozen=True, slots=True)
class Layout:
    """The centre of every node by its key, the points of every edge in the order of the view, and the whole size."""

    centres: Mapping[str, tuple[float, float]]
    paths: Sequence[tuple[tuple[float, float], ...]]
    width: float
    height: float


def lay_out(view: View) -> Layout:
    """Places for the nodes and edges of a view, in units of about a pixel."""
    pairs = [(edge.source, edge.target) for edge in view.edges]
    rank = _ranks([node.key for node in view.nodes], pairs)
    rows: list[list[_Item]] = [[] for _ in range(max(rank.values(), default=-1) + 1)]
    for node in view.nodes:
        rows[rank[node.key]].append(node.key)
    ways: list[list[_Item]] = []
    for number, (source, target) in enumerate(pairs):
        bends: list[_Item] = [(number, row) for row in range(rank[source] + 1, rank[target])]
        for row, bend in enumerate(bends, rank[source] + 1):
            rows[row].append(bend)
        ways.append([source, *bends, target])
    up, down = _neighbours(ways)
    for sweep in range(_SWEEPS):
        _order(rows if sweep % 2 == 0 else rows[::-1], up if sweep % 2 == 0 else down)
    x = _places(rows, up, down)
    left = min((x[item] - _size(item) / 2 for row in rows for item in row), default=0.0)
    right = max((x[item] + _size(item) / 2 for row in rows for item in row), default=0.0)
    y = {item: HEIGHT / 2 + row * (HEIGHT + _ROW_GAP) for row, items in enumerate(rows) for item in items}
    spots = {item: (round(x[item] - left, 1), round(y[item], 1)) for item in x}
    height = len(rows) * (HEIGHT + _ROW_GAP) - _ROW_GAP
    paths = [_path([spots[item] for item in way]) for way in ways]
    return Layout(
        {key: spot for key, spot in spots.items() if isinstance(key, str)}, paths, right - left, max(0, height)
    )


def _ranks(keys: Sequence[str], pairs: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Rows by the longest way from a source; sources stand right above their first reader."""
    ahead: dict[str, list[str]] = {key: [] for key in keys}
    waiting = dict.fromkeys(keys, 0)
    for source, target in pairs:
        ahead[source].append(target)
        waiting[target] += 1
    sources = [key for key in keys if not waiting[key]]
    rank = dict.fromkeys(keys, 0)
    ready = list(sources)
    for key in ready:
        for target in ahead[key]:
            rank[target] = max(rank[target], rank[key] + 1)
            waiting[target] -= 1
            if not waiting[target]:
                ready.append(target)
    for key in sources:
        if ahead[key]:
            rank[key] = min(rank[target] for target in ahead[key]) - 1
    return rank


def _neighbours(ways: Sequence[Sequence[_Item]]) -> tuple[dict[_Item, list[_Item]], dict[_Item, list[_Item]]]:
    up: dict[_Item, list[_Item]] = {}
    down: dict[_Item, list[_Item]] = {}
    for way in ways:
        for above, below in itertools.pairwise(way):
            up.setdefault(below, []).append(above)
            down.setdefault(above, []).append(below)
    return up, down


def _order(rows: Sequence[list[_Item]], near: Mapping[_Item, Sequence[_Item]]) -> None:
    """Order every row but the first by the mean place of its neighbours in the row before."""
    for before, row in itertools.pairwise(rows):
        place = {item: number for number, item in enumerate(before)}
        mean = {}
        for number, item in enumerate(row):
            known = [place[other] for other in near.get(item, ()) if other in place]
            mean[item] = sum(known) / len(known) if known else number
        row.sort(key=mean.__getitem__)


def _size(item: _Item) -> int:
    return WIDTH if isinstance(item, str) else _BEND


def _places(
    rows: Sequence[Sequence[_Item]], up: Mapping[_Item, Sequence[_Item]], down: Mapping[_Item, Sequence[_Item]]
) -> dict[_Item, float]:
    x: dict[_Item, float] = {}
    for row in rows:
        x.update(zip(row, _apart(row, [0.0] * len(row)), strict=True))
    for sweep in range(4 * _SWEEPS):
        for row in rows if sweep % 2 == 0 else rows[::-1]:
            wanted = []
            for item in row:
                near = [x[other] for other in (*up.get(item, ()), *down.get(item, ()))]
                wanted.append(sum(near) / len(near) if near else x[item])
            x.update(zip(row, _apart(row, wanted), strict=True))
    return x


def _apart(row: Sequence[_Item], wanted: Sequence[float]) -> list[float]:
    """The wanted places, moved until nothing overlaps: the mean of pushing to the right and to the left."""
    gaps = [(_size(a) + _size(b)) / 2 + _GAP for a, b in itertools.pairwise(row)]
    right, left = list(wanted), list(wanted)
    for number, gap in enumerate(gaps):
        right[number + 1] = max(right[number + 1], right[number] + gap)
    for number in range(len(gaps) - 1, -1, -1):
        left[number] = min(left[number], left[number + 1] - gaps[number])
    return [(a + b) / 2 for a, b in zip(right, left, strict=True)]


def _path(points: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """From the bottom of the first box to the top of the last."""
    (x, y), *middle, (end_x, end_y) = points
    return ((x, y + HEIGHT / 2), *middle, (end_x, end_y - HEIGHT / 2))
