"""How few affines of a graph have to be left, found without moving any.

Folding replaces every tensor ``v`` that nobody outside sees by some ``a v + b``, one pair (a, b) for each
channel: its *gauge*. In whatever order affines go and whoever makes up for them, the result is a
choice of gauges, and each operator says which choices it can live with:

* what the caller feeds or sees, and what stands beside a nonlinear function: a = 1, b = 0;
* a convolution: any gauge on either side, for its weights make up for it; b = 0 on its input if it pads with zeros;
* ReLU: the same a > 0 on both sides, b = 0; a maximum: the same gauge, a > 0; an average: the same gauge;
* a sum: a alike everywhere, the shifts add up; a product: the factors' a multiply, b = 0;
* an affine ``s v + t`` that stays: any gauges; one that goes: its output in its gauge is its input in its own.

For a given set of affines that go this is a system of equations: linear in log|a|, linear over {0, 1} in
the signs, and linear in b for given a. All sets are tried, the largest first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain, combinations

import numpy as np

WEIGHTED = ("conv", "padded")


@dataclass(frozen=True)
class Node:
    """An operator of a graph of tensors 0, 1, 2, …; ``scale`` and ``shift`` (one a channel) are an affine's."""

    kind: str
    inputs: tuple[int, ...]
    output: int
    scale: tuple[float, ...] = ()
    shift: tuple[float, ...] = ()


@dataclass
class System:
    """The equations: one pair of unknowns for each channel of each tensor (a cell)."""

    cells: int
    #: The product of a[cell] ** exponent is a number.
    scales: list[tuple[list[tuple[int, int]], float]] = field(default_factory=list)
    #: The sum of factor * b[cell] is a number times a[cell].
    shifts: list[tuple[list[tuple[int, float]], float, int]] = field(default_factory=list)
    positive: set[int] = field(default_factory=set)

    def same_scale(self, first: int, second: int, ratio: float = 1.0) -> None:
        """``a[first] = ratio * a[second]``."""
        self.scales.append(([(first, 1), (second, -1)], ratio))

    def no_shift(self, cells: Iterable[int]) -> None:
        self.shifts += [([(cell, 1.0)], 0.0, cell) for cell in cells]

    def trivial(self, cells: Iterable[int]) -> None:
        """These cells are what they were."""
        self.scales += [([(cell, 1)], 1.0) for cell in cells]
        self.no_shift(cells)

    def solvable(self) -> bool:
        """Is there a gauge for every tensor?"""
        rows = self._reduced_signs()
        if any(odd and not mask for mask, odd in rows):
            return False
        logs = _solve(self.cells, [terms for terms, _ in self.scales], [np.log(abs(v)) for _, v in self.scales])
        if logs is None:
            return False
        a = np.exp(logs)
        for mask, odd in rows:
            if mask and odd:
                a[mask.bit_length() - 1] *= -1
        values = [a[cell] * value for _, value, cell in self.shifts]
        return _solve(self.cells, [terms for terms, _, _ in self.shifts], values) is not None

    def _reduced_signs(self) -> list[tuple[int, bool]]:
        """(mask of cells, is an odd number of them negative?), by Gauss over {0, 1}: pivots are highest bits."""
        rows = [(_mask(cell for cell, _ in terms), value < 0) for terms, value in self.scales]
        done: list[tuple[int, bool]] = []
        for mask, odd in rows + [(1 << cell, False) for cell in self.positive]:
            for other, parity in done:
                if mask & _pivot(other):
                    mask, odd = mask ^ other, odd ^ parity
            if mask:
                done = [(m ^ mask, o ^ odd) if m & _pivot(mask) else (m, o) for m, o in done]
            done.append((mask, odd))
        return done


def _mask(cells: Iterable[int]) -> int:
    mask = 0
    for cell in cells:
        mask ^= 1 << cell
    return mask


def _pivot(mask: int) -> int:
    return 1 << (mask.bit_length() - 1) if mask else 0


def _solve(width: int, rows: Sequence[Sequence[tuple[int, float]]], right: Sequence[float]) -> np.ndarray | None:
    left = np.zeros((len(rows), width))
    for row, terms in enumerate(rows):
        for column, value in terms:
            left[row, column] += value
    if not len(right):
        return np.zeros(width)
    solution, *_ = np.linalg.lstsq(left, np.asarray(right), rcond=None)
    return solution if np.allclose(left @ solution, right, atol=1e-9) else None


@dataclass(frozen=True)
class Puzzle:
    """A graph, which of its tensors the caller feeds or sees, and how many channels each tensor has."""

    nodes: tuple[Node, ...]
    outside: frozenset[int]
    widths: tuple[int, ...]

    def fewest_left(self) -> int:
        """The number of affines that stay in the best case."""
        affines = [node for node in self.nodes if node.kind == "affine"]
        for left in range(len(affines) + 1):
            for kept in combinations(affines, left):
                if self._system([node for node in affines if node not in kept]).solvable():
                    return left
        raise AssertionError("keeping all of them is always possible")

    def cells(self, tensor: int) -> range:
        """The unknowns of a tensor, one a channel."""
        first = sum(self.widths[:tensor])
        return range(first, first + self.widths[tensor])

    def _system(self, gone: Sequence[Node]) -> System:
        system = System(sum(self.widths))
        for tensor in self.outside:
            system.trivial(self.cells(tensor))
        for node in self.nodes:
            inputs, out = [self.cells(tensor) for tensor in node.inputs], self.cells(node.output)
            if node in gone:
                # a_out (s v + t) + b_out = a_in v + b_in
                for before, behind, scale, shift in zip(inputs[0], out, node.scale, node.shift, strict=True):
                    system.same_scale(before, behind, scale)
                    system.shifts.append(([(before, 1.0), (behind, -1.0)], shift, behind))
            elif node.kind == "padded":
                system.no_shift(inputs[0])
            elif node.kind not in (*WEIGHTED, "affine"):
                _pass(system, node.kind, inputs, out)
        return system


def _pass(system: System, kind: str, inputs: Sequence[range], out: range) -> None:
    """What operators without weights allow."""
    first = inputs[0]
    if kind == "nonlinear":
        system.trivial(first)
        system.trivial(out)
    elif kind == "product":
        for behind, *before in zip(out, *inputs, strict=True):
            system.scales.append(([(behind, 1), *((cell, -1) for cell in before)], 1.0))
        for cells in (out, *inputs):
            system.no_shift(cells)
    elif kind == "concat":
        for behind, before in zip(out, chain(*inputs), strict=True):
            system.same_scale(behind, before)
            system.shifts.append(([(behind, 1.0), (before, -1.0)], 0.0, behind))
    else:
        signs = (1.0, -1.0) if kind == "difference" else (1.0,) * len(inputs)
        for behind, *before in zip(out, *inputs, strict=True):
            for cell in before:
                system.same_scale(behind, cell)
            terms = [(cell, -sign) for cell, sign in zip(before, signs, strict=True)]
            system.shifts.append(([(behind, 1.0), *terms], 0.0, behind))
        if kind in ("relu", "counted"):
            system.no_shift(first)
        if kind in ("relu", "max"):
            system.positive.update(first)
