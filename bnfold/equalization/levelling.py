"""Scales under which what writes a channel and what reads it have the same largest weight.

Of two layers this is equation 11 of Nagel et al. 2019 (arXiv 1906.04721): ``s = sqrt(r1 r2) / r2``. Of a graph it
is the balancing of a matrix in the maximum norm, a node a channel and an edge a weight: every node in turn gets the
scale that makes the largest weight into it and the largest weight out of it alike (Osborne 1960; that it converges:
Schulman and Sinclair 2015, arXiv 1606.08613). Each step lowers the largest weight at a node, so that with powers of
two, of which none is needed where the two differ by a factor of two at most, it ends after finitely many.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
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
    #: For each variable the number of its block, from 1 on; 0 for one that is in none yet, and for the ground.
    block_of: Cells = field(init=False)

    def __post_init__(self) -> None:
        self.block_of = np.zeros(self.count + 1, np.intp)

    def add_block(self, variables: Cells) -> None:
        """Variables to be looked at together, but for those that are in a block already."""
        fresh = np.unique(variables[(self.block_of[variables] == 0) & (variables > 0)])
        if fresh.size:
            self.blocks.append(fresh)
            self.block_of[fresh] = len(self.blocks)


def level(problem: Problem, *, exact: bool) -> tuple[Vector, bool]:
    """log2 of the scale of every variable (entry 0, the ground, is 0), and whether all of them are level."""
    return _Levelling(problem, exact).run()


class _Levelling:
    def __init__(self, problem: Problem, exact: bool) -> None:
        self.problem, self.exact = problem, exact
        self.fine: float | None = None
        self.scales = np.zeros(problem.count + 1)
        self.bias = np.full(problem.count + 1, -np.inf)
        #: Room for what is written and read of the variables at hand: of all, it would take longer than they do.
        self.written, self.read = (np.full(problem.count + 1, -np.inf) for _ in range(2))
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
        """Level everything to ``fine`` bits, or by powers of two; was that done within so many rounds?

        In a round the blocks are settled in their order, but for those around which nothing has changed since.
        """
        self.fine = fine
        parts = _parts(self.problem)
        due = set(range(len(parts)))
        for _ in range(rounds):
            if not due:
                return True
            queue, later = sorted(due), set[int]()
            while queue:
                number = heapq.heappop(queue)
                due.discard(number)
                if self._settle(parts[number]):
                    for affected in parts[number].neighbours - due:
                        if affected > number:
                            due.add(affected)
                            heapq.heappush(queue, affected)
                        else:
                            later.add(affected)
            due = later
        return not due

    def _settle(self, part: _Part) -> bool:
        """Level the variables of a block; did any of them change?"""
        groups = [part.variables] if not part.circular else part.variables.reshape(-1, 1)
        moved = False
        for variables in groups:
            steps = self._steps(variables, part.links)
            self.scales[variables] += steps
            moved = moved or bool(steps.any())
        return moved

    def _steps(self, variables: Cells, links: Sequence[Link]) -> Vector:
        """What to add to the scales of variables, each as if it alone were to change."""
        wanted = self._wanted(variables, links)
        if self.fine is not None:
            return np.where(np.abs(wanted) > self.fine, wanted / 2, 0.0)
        return np.where(np.abs(wanted) > _ONE, np.rint(wanted / 2), 0.0)

    def _wanted(self, variables: Cells, links: Sequence[Link]) -> Vector:
        """By how many bits what reads each variable exceeds what writes it, 0 where nothing may be done about it."""
        for link in links:
            np.maximum.at(self.written, link.outs, link.written(self.scales))
            np.maximum.at(self.read, link.ins, link.read(self.scales))
        written, read = self.written[variables], self.read[variables]
        for link in links:
            self.written[link.outs] = self.read[link.ins] = -np.inf
        there = np.isfinite(written) & np.isfinite(read)
        written, read = np.where(there, written, 0.0), np.where(there, read, 0.0)
        # Upward no further than the bias allows, downward for the weights alone.
        up = np.where(there, read - np.maximum(written, (self.bias + self.scales)[variables]), 0.0)
        down = np.where(there, read - written, 0.0)
        return np.where(up > 0, up, np.minimum(down, 0.0))


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """A block with the links that touch it, and the numbers of those that share one with it.

    One that is circular is its own neighbour, and settled one variable at a time.
    """

    variables: Cells
    links: list[Link] = field(default_factory=list)
    neighbours: set[int] = field(default_factory=set)
    circular: bool = False


def _parts(problem: Problem) -> list[_Part]:
    """The blocks in their order."""
    ends = [
        tuple({number - 1 for number in problem.block_of[cells].tolist() if number} for cells in (link.outs, link.ins))
        for link in problem.links
    ]
    circular = {number for outs, ins in ends for number in outs & ins}
    parts = [_Part(variables, circular=number in circular) for number, variables in enumerate(problem.blocks)]
    for link, (outs, ins) in zip(problem.links, ends, strict=True):
        for number in outs | ins:
            parts[number].links.append(link)
            parts[number].neighbours.update(outs | ins)
    for number, part in enumerate(parts):
        if not part.circular:
            part.neighbours.discard(number)
    return parts
