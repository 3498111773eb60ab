"""Scales under which what writes a channel and what reads it have the same largest weight.

Of two layers this is equation 11 of Nagel et al. 2019 (arXiv 1906.04721): ``s = sqrt(r1 r2) / r2``. Of a graph it
is the balancing of a matrix in the maximum norm, a node a channel and an edge a weight: every node in turn gets the
scale that makes the largest weight into it and the largest weight out of it alike (Osborne 1960; that it converges:
Schulman and Sinclair 2015, arXiv 1606.08613). Each step lowers the largest weight at a node, so that with powers of
two, of which none is needed where the two differ by a factor of two at most, it ends after finitely many.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from bnfold.affine import Vector
from bnfold.equalization.weight_ranges import Link
from bnfold.folding.gauges.component import Cells

#: A channel's scale rises no further than to where its bias is this many times the largest weight that reads it.
#: The bias of a channel with tiny weights would otherwise grow until it alone fills the range of the activations.
BIAS_REACH = 16.0
#: With exact scales nothing changes where every channel is level to this many bits...
_LEVEL = 0.05
#: ...and a change is carried on until it is level to so many.
_FINE = 0.01
#: With powers of two a step is taken where it is off by more than a bit; the rest is rounding of logarithms.
_ONE = 1.0 + 1e-9
#: Rounds over all channels; a bound on the time, which deep networks with exact scales may reach.
MAX_ROUNDS = 400
#: Powers of two begin at exact scales, rounded, that need not be so good.
_COARSE, _COARSE_ROUNDS = 0.1, 60


@dataclass(slots=True)
class Problem:
    """Links between variables 1 to ``count``, the blocks in which they are looked at, and log2 of their biases."""

    count: int
    links: list[Link] = field(default_factory=list)
    blocks: list[Cells] = field(default_factory=list)
    biases: list[tuple[Cells, Vector]] = field(default_factory=list)

    def add_block(self, variables: Cells) -> None:
        """Variables to be looked at together, but for those that are in a block already."""
        known = np.concatenate([*self.blocks, np.zeros(1, np.intp)])
        fresh = np.setdiff1d(variables, known)
        if fresh.size:
            self.blocks.append(fresh)


def level(problem: Problem, *, exact: bool) -> tuple[Vector, bool]:
    """log2 of the scale of every variable (entry 0, the ground, is 0), and whether all of them are level."""
    return _Levelling(problem, exact).run()


class _Levelling:
    def __init__(self, problem: Problem, exact: bool) -> None:
        self.problem, self.exact = problem, exact
        self.fine: float | None = None
        self.scales = np.zeros(problem.count + 1)
        self.bias = np.full(problem.count + 1, -np.inf)
        for variables, logs in problem.biases:
            np.maximum.at(self.bias, variables, logs - np.log2(BIAS_REACH))

    def run(self) -> tuple[Vector, bool]:
        everything = np.arange(1, self.problem.count + 1)
        off = np.abs(self._wanted(everything, self.problem.links))
        if (off <= (_LEVEL if self.exact else _ONE)).all():
            return self.scales, True  # so that what is level stays as it is, whatever would be better still
        if self.exact:
            return self.scales, self._iterate(_FINE, MAX_ROUNDS)
        self._iterate(_COARSE, _COARSE_ROUNDS)
        self.scales = np.rint(self.scales)
        return self.scales, self._iterate(None, MAX_ROUNDS)

    def _iterate(self, fine: float | None, rounds: int) -> bool:
        """Level everything to ``fine`` bits, or by powers of two; was that done within so many rounds?"""
        self.fine = fine
        parts = [_Part.of(block, self.problem.links) for block in self.problem.blocks]
        dirty = [True] * len(parts)
        for _ in range(rounds):
            if not any(dirty):
                return True
            for number, part in enumerate(parts):
                if dirty[number]:
                    dirty[number] = False
                    if self._settle(part):
                        for other, neighbour in enumerate(parts):
                            affected = part.circular if other == number else not part.ids.isdisjoint(neighbour.ids)
                            dirty[other] |= affected
        return not any(dirty)

    def _settle(self, part: _Part) -> bool:
        """Level the variables of a block; did any of them change?"""
        groups = [part.variables] if not part.circular else part.variables.reshape(-1, 1)
        moved = False
        for variables in groups:
            steps = self._steps(variables, part.links)
            self.scales[variables] += steps
            moved = moved or bool(steps.any())
        return moved

    def _steps(self, variables: Cells, links: Iterable[Link]) -> Vector:
        """What to add to the scales of variables, each as if it alone were to change."""
        wanted = self._wanted(variables, links)
        if self.fine is not None:
            return np.where(np.abs(wanted) > self.fine, wanted / 2, 0.0)
        return np.where(np.abs(wanted) > _ONE, np.rint(wanted / 2), 0.0)

    def _wanted(self, variables: Cells, links: Iterable[Link]) -> Vector:
        """By how many bits what reads each variable exceeds what writes it, 0 where nothing may be done about it."""
        written, read = (np.full(self.scales.size, -np.inf) for _ in range(2))
        for link in links:
            np.maximum.at(written, link.outs, link.written(self.scales))
            np.maximum.at(read, link.ins, link.read(self.scales))
        written, read = written[variables], read[variables]
        there = np.isfinite(written) & np.isfinite(read)
        written, read = np.where(there, written, 0.0), np.where(there, read, 0.0)
        # Upward no further than the bias allows, downward for the weights alone.
        up = np.where(there, read - np.maximum(written, (self.bias + self.scales)[variables]), 0.0)
        down = np.where(there, read - written, 0.0)
        return np.where(up > 0, up, np.minimum(down, 0.0))


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """A block with the links that touch it; ``ids`` tell them from others. Circular: one variable at a time."""

    variables: Cells
    links: Sequence[Link]
    ids: frozenset[int]
    circular: bool

    @classmethod
    def of(cls, variables: Cells, links: Sequence[Link]) -> _Part:
        mine = [link for link in links if np.isin(link.outs, variables).any() or np.isin(link.ins, variables).any()]
        circular = any(np.isin(link.outs, variables).any() and np.isin(link.ins, variables).any() for link in mine)
        return cls(variables, mine, frozenset(map(id, mine)), circular)
