"""Could the readers of a tensor do with what it was before an affine?"""

from __future__ import annotations

import heapq
from itertools import islice

from bnfold.affine import Affine
from bnfold.folding.moves import Blocked, Move, Search, Terrain, more_telling
from bnfold.graph import CAPTURE, Op
from bnfold.operators import Node, Rewrite, facts_of, value_readers
from bnfold.refusal import Refusal


class _Forward(Search):
    """Push affines from a tensor to its readers, first level first."""

    def __init__(self, terrain: Terrain) -> None:
        super().__init__(terrain)
        self.carried: dict[str, dict[int, Affine]] = {}
        self.heap: list[tuple[float, str]] = []
        self.move = Move()

    def spread(self, tensor: str, affine: Affine) -> Refusal | None:
        """All readers of the tensor get to carry the affine."""
        if affine.is_identity:
            return None
        if self.graph.is_output(tensor):
            return Refusal("observed", f"{tensor} is {self.graph.output_phrase}")
        for use in value_readers(self.graph, tensor):
            if use.slot == CAPTURE:
                self.move.touched.add(use.op)
                return Refusal("observed", f"{tensor} is also seen by {self.graph.reader_phrase(use)}")
            if use.op not in self.carried:
                self.carried[use.op] = {}
                heapq.heappush(self.heap, (self.levels[use.op], use.op))
            self.carried[use.op][use.slot] = affine
        return None

    def run(self) -> Refusal | None:
        while self.heap:
            _, name = heapq.heappop(self.heap)
            op = self.graph.op(name)
            refusal = self.visit(self.move, op) or self._pass(op, self.carried[name])
            if refusal is not None:
                return refusal
        return None

    def _pass(self, op: Op, affines: dict[int, Affine]) -> Refusal | None:
        node, facts = Node(self.graph, op), facts_of(op)
        if any(affine.grid for affine in affines.values()) and not facts.grids:
            return node.refuse("several-axes", "would get an affine that runs over several axes")
        taken = facts.absorb_input(node, affines)
        if isinstance(taken, Rewrite):
            refusal = self.sound(node, taken) or self.enter(self.move, op, self._hand_on(op, taken))
            if refusal is None:
                return None
            taken = refusal
        crossing = facts.sink(node, affines)
        if isinstance(crossing, Refusal):
            return more_telling(taken, crossing)
        if crossing.rewrite is not None:
            refusal = self.sound(node, crossing.rewrite)
            if refusal is not None:
                return refusal
            self.move.rewrites[op.name] = crossing.rewrite
        self.move.through.append(op.name)
        for index, affine in crossing.affines.items():
            tensor = op.outputs[index]
            if tensor and not affine.is_identity:
                self.move.changed[tensor] = None
                refusal = self.spread(tensor, affine)
                if refusal is not None:
                    return refusal
        return None

    def _hand_on(self, op: Op, rewrite: Rewrite) -> Rewrite:
        """Give a residual to the affine that follows (a MatMul's bias Add), where there is one."""
        residual, tensor = rewrite.residual, op.outputs[0]
        uses = list(islice(value_readers(self.graph, tensor), 2))
        if residual is None or self.graph.is_output(tensor) or len(uses) != 1 or uses[0].slot == CAPTURE:
            return rewrite
        reader = self.graph.op(uses[0].op)
        node, facts = Node(self.graph, reader), facts_of(reader)
        affine = facts.as_affine(node)
        if reader.name in self.frozen or isinstance(affine, Refusal) or not residual.composes(affine):
            return rewrite
        if facts.data_slot(node) != uses[0].slot or self.spread(tensor, residual) is not None:
            return rewrite
        self.move.changed[tensor] = None
        return Rewrite(rewrite.inputs, rewrite.attributes, rewrite.type, None, None, rewrite.channel_axis)


def forward(terrain: Terrain, tensor: str, affine: Affine) -> Move | Blocked:
    """How all readers of ``tensor`` could do with the tensor before ``affine`` was applied to it."""
    search = _Forward(terrain)
    refusal = search.spread(tensor, affine) or search.run()
    if refusal is not None:
        return Blocked(refusal, frozenset(search.move.touched))
    return search.move
