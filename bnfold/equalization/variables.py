"""One unknown scale for all channels that operators tie together, and why some can have none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bnfold.folding.gauges.component import Cells, Component, Rows
from bnfold.folding.gauges.strands import connected


@dataclass(frozen=True, slots=True, eq=False)
class Variables:
    """``of`` gives each cell its variable, ``GROUND`` where its scale is 1; ``reasons`` says why, by cell."""

    of: Cells
    count: int
    reasons: dict[int, str]


#: The number that stands for "no variable" in :attr:`Variables.of`.
GROUND = 0


def variables_of(component: Component) -> Variables:
    """Solve the demands on log(scale): the same here as there, none at all, or the sum of others.

    Where scales add up in the logarithm (a product of tensors) and more than two of them are free, they get none:
    what is left are groups of cells that share a scale, which is what levelling can work with.
    """
    rows = [rows for rows in component.rows if "size" in rows.systems]
    pairs = [(r.cells[:, 0], r.cells[:, 1]) for r in rows if _equates(r)]
    pins = {cell: r.why for r in reversed(rows) if r.cells.shape[1] == 1 for cell in r.cells[:, 0].tolist()}
    sums = [
        (cells, factors, r.why) for r in rows if not _equates(r) and r.cells.shape[1] > 1 for cells, factors in _each(r)
    ]
    while True:
        root = connected(component.size, pairs)
        pinned = {int(root[cell]) for cell in pins}
        waiting, learned = [], False
        for cells, factors, why in sums:
            terms: dict[int, float] = {}
            for cell, factor in zip(root[cells].tolist(), factors, strict=True):
                if cell not in pinned:
                    terms[cell] = terms.get(cell, 0.0) + factor
            left = {cell: factor for cell, factor in terms.items() if factor}
            if len(left) == 1:
                pins[next(iter(left))] = why
                learned = True
            elif len(left) == 2 and sum(left.values()) == 0.0:
                pairs.append(tuple(np.array([cell]) for cell in left))  # type: ignore[arg-type]
                learned = True
            elif left:
                waiting.append((cells, factors, why))
        if waiting and not learned:
            cells, _, why = waiting.pop(0)
            pins |= dict.fromkeys(cells.tolist(), why)
            learned = True
        sums = waiting
        if not learned:
            return _numbered(component.size, root, pins)


def _equates(rows: Rows) -> bool:
    return rows.cells.shape[1] == 2 and bool((rows.factors == [1.0, -1.0]).all())


def _each(rows: Rows) -> Iterator[tuple[Cells, list[float]]]:
    return zip(rows.cells, rows.factors.tolist(), strict=True)


def _numbered(size: int, root: Cells, pins: dict[int, str]) -> Variables:
    why: dict[int, str] = {}
    for cell, reason in pins.items():
        why.setdefault(int(root[cell]), reason)
    free = np.ones(size, bool)
    free[list(why)] = False
    numbers = np.zeros(size, np.intp)
    roots = np.flatnonzero(free & (root == np.arange(size)))
    numbers[roots] = np.arange(1, len(roots) + 1)
    reasons = {cell: why[int(root[cell])] for cell in range(size) if int(root[cell]) in why}
    return Variables(numbers[root], len(roots), reasons)
