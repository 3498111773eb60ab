"""Could the readers of a tensor do with what it was before an affine?"""

from __future__ import annotations

import heapq

from bnfold.affine import Affine
from bnfold.folding.moves import Blocked, Context, Move, Search, more_telling, unsound
from bnfold.folding.observers import output_phrase, reader_phrase, sole_value_reader
from bnfold.graph import Op, Place
from bnfold.operators import Node, Rewrite, facts_of, value_readers
from bnfold.operators.answers import WithResidual
from bnfold.refusal import Refusal


class _Forward(Search):
    """Push affines from a tensor to its readers, the first of the dataflow order first."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        #: For each reader the affines that its inputs carry.
        self.carried: dict[str, dict[int, Affine]] = {}
        self.queue: list[tuple[Place, str]] = []
        self.move = Move()

    def spread(self, tensor: str, affine: Affine) -> Refusal | None:
        """All readers of the tensor get to carry the affine."""
        if affine.is_identity:
            return None
        if self.graph.is_output(tensor):
            return Refusal("observed", f"{tensor} is {output_phrase(self.graph)}")
        for use in value_readers(self.graph, tensor):
            if use.slot is None:
                self.move.asked.add(use.op)
                return Refusal("observed", f"{tensor} is also seen by {reader_phrase(self.graph, use)}", use.op)
            if use.op not in self.carried:
                self.carried[use.op] = {}
                heapq.heappush(self.queue, (self.order[use.op], use.op))
            self.carried[use.op][use.slot] = affine
        return None

    def run(self) -> Refusal | None:
        while self.queue:
            _, name = heapq.heappop(self.queue)
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
        if not isinstance(taken, Refusal):
            refusal = unsound(node, taken) or self.enter(self.move, op, self._hand_on(op, taken))
            if refusal is None:
                return None
            taken = refusal
        crossing = facts.sink(node, affines)
        if isinstance(crossing, Refusal):
            return more_telling(taken, crossing)
        if crossing.rewrite is not None:
            refusal = unsound(node, crossing.rewrite)
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
        tensor = op.outputs[0]
        use = sole_value_reader(self.graph, tensor) if isinstance(rewrite, WithResidual) else None
        if use is None or not isinstance(rewrite, WithResidual):
            return rewrite
        reader = self.graph.op(use.op)
        node, facts = Node(self.graph, reader), facts_of(reader)
        affine = facts.as_affine(node)
        if reader.name in self.context.frozen or isinstance(affine, Refusal) or not rewrite.residual.composes(affine):
            return rewrite
        if facts.data_slot(node) != use.slot or self.spread(tensor, rewrite.residual) is not None:
            return rewrite
        self.move.changed[tensor] = None
        return rewrite.weights


def forward(context: Context, tensor: str, affine: Affine) -> Move | Blocked:
    """How all readers of ``tensor`` could do with the tensor before ``affine`` was applied to it."""
    search = _Forward(context)
    refusal = search.spread(tensor, affine) or search.run()
    if refusal is not None:
        return Blocked(refusal, frozenset(search.move.asked))
    return search.move
