"""How few affines of a graph can be left by moving them, found without moving any.

Folding replaces every tensor ``v`` that nobody outside sees by some ``a v + b``, one pair (a, b) for each
channel: its *gauge*. In whatever order affines are moved and wherever they end up, the result is a
choice of gauges, and each operator says which choices it can live with:

* what the caller feeds or sees, and what stands beside a nonlinear function: a = 1, b = 0;
* a convolution: any gauge on either side, for its weights make up for it; b = 0 on its input if it pads with zeros;
* ReLU: the same a > 0 on both sides, b = 0; a maximum: the same gauge, a > 0; an average: the same gauge;
* a sum: a alike everywhere, the shifts add up; a product: the factors' a multiply, b = 0;
* an affine ``s v + t`` that stays: any gauges; one that goes: its output in its gauge is its input in its own.

But affines only move: they are not made up in one place to be taken back in another. So every region of
tensors (those that operators without weights tie together) has a direction. Backward, its gauges are what
all readers ask for: weights may write them but do not read them; a sum hands a shift to one operand, a
product a scale to one factor.
Forward, they are what removed affines left behind: weights may read them but do not write them. A removed
affine between a backward and a forward region goes one way, or its scale one way and its shift the other.

For a given set of removed affines and given directions this is a system of equations: linear in log|a|,
linear over {0, 1} in the signs, and linear in b for given a. All sets are tried, the largest first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product

import numpy as np

#: Which way a gauge came.
BACKWARD, FORWARD = "backward", "forward"
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
    """The equations for one channel."""

    tensors: int
    #: The product of a[tensor] ** exponent is a number.
    scales: list[tuple[list[tuple[int, int]], float]] = field(default_factory=list)
    #: The sum of factor * b[tensor] is a number times a[tensor].
    shifts: list[tuple[list[tuple[int, float]], float, int]] = field(default_factory=list)
    positive: set[int] = field(default_factory=set)

    def same_scale(self, first: int, second: int, ratio: float = 1.0) -> None:
        """``a[first] = ratio * a[second]``."""
        self.scales.append(([(first, 1), (second, -1)], ratio))

    def no_shift(self, *tensors: int) -> None:
        self.shifts += [([(tensor, 1.0)], 0.0, tensor) for tensor in tensors]

    def gauge(self, tensor: int, a: float, b: float) -> None:
        """The tensor has this gauge."""
        self.scales.append(([(tensor, 1)], a))
        self.shifts.append(([(tensor, 1.0)], b / a, tensor))

    def solvable(self) -> bool:
        """Is there a gauge for every tensor?"""
        rows = self._reduced_signs()
        if any(odd and not mask for mask, odd in rows):
            return False
        logs = _solve(self.tensors, [terms for terms, _ in self.scales], [np.log(abs(v)) for _, v in self.scales])
        if logs is None:
            return False
        a = np.exp(logs)
        for mask, odd in rows:
            if mask and odd:
                a[mask.bit_length() - 1] *= -1
        values = [a[tensor] * value for _, value, tensor in self.shifts]
        return _solve(self.tensors, [terms for terms, _, _ in self.shifts], values) is not None

    def _reduced_signs(self) -> list[tuple[int, bool]]:
        """(mask of tensors, is an odd number of them negative?), by Gauss over {0, 1}: pivots are highest bits."""
        rows = [(_mask(tensor for tensor, _ in terms), value < 0) for terms, value in self.scales]
        done: list[tuple[int, bool]] = []
        for mask, odd in rows + [(1 << tensor, False) for tensor in self.positive]:
            for other, parity in done:
                if mask & _pivot(other):
                    mask, odd = mask ^ other, odd ^ parity
            if mask:
                done = [(m ^ mask, o ^ odd) if m & _pivot(mask) else (m, o) for m, o in done]
            done.append((mask, odd))
        return done


def _mask(tensors: Iterable[int]) -> int:
    mask = 0
    for tensor in tensors:
        mask ^= 1 << tensor
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
class Way:
    """The directions of tensors, how each removed affine goes, and the operands that joins spare."""

    directions: dict[int, str]
    modes: tuple[str, ...]
    #: (kind of join, operand that gets no shift of a sum or no scale of a product).
    spared: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Puzzle:
    """A graph, and which of its tensors the caller feeds or sees."""

    nodes: tuple[Node, ...]
    outside: frozenset[int]
    channels: int

    def fewest_left(self) -> int:
        """The number of affines that stay in the best case."""
        affines = [node for node in self.nodes if node.kind == "affine"]
        for left in range(len(affines) + 1):
            for kept in combinations(affines, left):
                gone = [node for node in affines if node not in kept]
                if any(self._fits(gone, way) for way in self._ways(gone)):
                    return left
        raise AssertionError("keeping all of them is always possible")

    def _ways(self, gone: Sequence[Node]) -> Iterator[Way]:
        """Every combination of directions, of ways for the removed affines, and of operands for the joins."""
        region = self._regions()
        concerned = sorted({region[tensor] for node in gone for tensor in (*node.inputs, node.output)})
        for directions in product((BACKWARD, FORWARD), repeat=len(concerned)):
            of_region = dict(zip(concerned, directions, strict=True))
            of = {tensor: of_region[root] for tensor, root in region.items() if root in of_region}
            modes = [self._modes(of[node.inputs[0]], of[node.output]) for node in gone]
            joins = [node for node in self.nodes if len(node.inputs) > 1 and of.get(node.output) == BACKWARD]
            for chosen in product(*modes):
                for operands in product((0, 1), repeat=len(joins)):
                    spared = [
                        (node.kind, node.inputs[1 - operand]) for node, operand in zip(joins, operands, strict=True)
                    ]
                    yield Way(of, chosen, tuple(spared))

    @staticmethod
    def _modes(before: str, behind: str) -> tuple[str, ...]:
        if (before, behind) == (BACKWARD, FORWARD):
            return (BACKWARD, FORWARD, "scale backward", "shift backward")
        return (before,) if before == behind else ()

    def _regions(self) -> dict[int, int]:
        """For each tensor a representative of those that operators without weights tie it to."""
        region = {tensor: tensor for tensor in {*self.outside, *(node.output for node in self.nodes)}}
        for _ in self.nodes:
            for node in self.nodes:
                if node.kind not in (*WEIGHTED, "affine", "nonlinear"):
                    tied = {region[tensor] for tensor in (*node.inputs, node.output)}
                    region = {t: min(tied) if root in tied else root for t, root in region.items()}
        return region

    def _fits(self, gone: Sequence[Node], way: Way) -> bool:
        return all(self._system(gone, way, channel).solvable() for channel in range(self.channels))

    def _system(self, gone: Sequence[Node], way: Way, channel: int) -> System:
        system = System(1 + max(max(self.outside), *(node.output for node in self.nodes)))
        for tensor in self.outside:
            system.gauge(tensor, 1.0, 0.0)
        for kind, tensor in way.spared:
            if kind == "product":
                system.gauge(tensor, 1.0, 0.0)
            else:
                system.no_shift(tensor)
        for node in self.nodes:
            if node in gone:
                _remove(system, node, channel, way.modes[gone.index(node)], way.directions)
            elif node.kind in (*WEIGHTED, "affine"):
                _hold(system, node, way.directions)
            else:
                _pass(system, node)
        return system


def _hold(system: System, node: Node, of: dict[int, str]) -> None:
    """Weights read what comes forward, and write what is wanted backward."""
    first = node.inputs[0]
    if of.get(first, BACKWARD) == BACKWARD:
        system.gauge(first, 1.0, 0.0)
    if of.get(node.output, FORWARD) == FORWARD:
        system.gauge(node.output, 1.0, 0.0)
    if node.kind == "padded":
        system.no_shift(first)


def _remove(system: System, node: Node, channel: int, mode: str, of: dict[int, str]) -> None:
    """``a_out (s v + t) + b_out = a_in v + b_in``, by one way or by both."""
    first, out = node.inputs[0], node.output
    scale, shift = node.scale[channel], node.shift[channel]
    system.same_scale(first, out, scale)
    system.shifts.append(([(first, 1.0), (out, -1.0)], shift, out))
    if mode == "scale backward":
        system.gauge(first, scale, 0.0)
    elif mode == "shift backward":
        system.gauge(first, 1.0, shift / scale)
    elif mode == BACKWARD and of[out] == FORWARD:
        system.gauge(out, 1.0, 0.0)
    elif mode == FORWARD and of[first] == BACKWARD:
        system.gauge(first, 1.0, 0.0)


def _pass(system: System, node: Node) -> None:
    """What operators without weights allow."""
    kind, out, first = node.kind, node.output, node.inputs[0]
    if kind == "nonlinear":
        system.gauge(first, 1.0, 0.0)
        system.gauge(out, 1.0, 0.0)
    elif kind == "product":
        system.scales.append(([(out, 1), *((tensor, -1) for tensor in node.inputs)], 1.0))
        system.no_shift(out, *node.inputs)
    else:
        for tensor in node.inputs:
            system.same_scale(out, tensor)
        signs = (1.0, -1.0) if kind == "difference" else (1.0,) * len(node.inputs)
        terms = [(tensor, -sign) for tensor, sign in zip(node.inputs, signs, strict=True)]
        system.shifts.append(([(out, 1.0), *terms], 0.0, out))
        if kind in ("relu", "counted"):
            system.no_shift(first)
        if kind in ("relu", "max"):
            system.positive.add(first)
