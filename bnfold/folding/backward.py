"""Could the producers of a tensor put out an affine of it?"""

from __future__ import annotations

import heapq
from collections.abc import Mapping

from bnfold.affine import Affine
from bnfold.folding.moves import Blocked, Move, Search, Terrain, more_telling
from bnfold.folding.rounding import overflow_code, rounding_fault
from bnfold.graph import Op, Param, Use
from bnfold.operators import Facts, Node, Rewrite, facts_of, value_readers
from bnfold.operators.base import Crossing, mapped
from bnfold.refusal import Refusal

#: Alternatives tried in one search: a bound that no real model reaches.
MAX_CHOICES = 64

#: What can be done with an affine on an operator's output: take it in, or ask for another on the inputs.
Way = Crossing | Rewrite


class _Backward(Search):
    """Push requests from readers to producers, last level first."""

    def run(self, move: Move, wanted: dict[str, dict[Use, Affine]], heap: list[tuple[float, str]]) -> Move | Refusal:
        while heap:
            _, name = heapq.heappop(heap)
            op = self.graph.op(name)
            refusal = self.visit(move, op)
            if refusal is not None:
                return refusal
            affines = self._complete(move, op, wanted)
            if isinstance(affines, Refusal):
                return affines
            node, facts = Node(self.graph, op), facts_of(op)
            ways = self._ways(node, facts, affines)
            if isinstance(ways, Refusal):
                return ways
            if len(ways) > 1:
                return self._choose(op, ways, move, wanted, heap)
            refusal = self._take(op, ways[0], move, wanted, heap)
            if refusal is not None:
                return refusal
        return move

    def _ways(self, node: Node, facts: Facts, affines: dict[int, Affine]) -> list[Way] | Refusal:
        """What can be done here: pass it on, or take it in; where that costs nothing, nothing else is tried."""
        if any(affine.grid for affine in affines.values()) and not facts.grids:
            return node.refuse("several-axes", "would get an affine that runs over several axes")
        taken: Rewrite | Refusal | None = None
        if set(affines) == {0}:
            taken = facts.absorb_output(node, affines[0])
            if isinstance(taken, Rewrite):
                price = self.sound(node, taken) or self.price(node.op, taken)
                if price == 0:
                    return [taken]
                taken = price if isinstance(price, Refusal) else taken
        lifts = facts.lift(node, affines)
        if isinstance(lifts, Refusal):
            if isinstance(taken, Rewrite):
                return [taken]
            return lifts if taken is None else more_telling(taken, lifts)
        return [*lifts, taken] if isinstance(taken, Rewrite) else list(lifts)

    def _choose(
        self,
        op: Op,
        ways: list[Way],
        move: Move,
        wanted: dict[str, dict[Use, Affine]],
        heap: list[tuple[float, str]],
    ) -> Move | Refusal:
        last: Refusal = Refusal("no-way", f"{op.display} ({op.type}) has no input that could take it")
        best: Move | None = None
        for way in ways:
            self.choices += 1
            if self.choices > MAX_CHOICES:
                return best or Refusal("search-limit", f"the search gave up after {MAX_CHOICES} alternatives")
            trial, asked, queue = move.copy(), {t: dict(uses) for t, uses in wanted.items()}, list(heap)
            refusal = self._take(op, way, trial, asked, queue)
            found = refusal if refusal is not None else self.run(trial, asked, queue)
            if isinstance(found, Refusal):
                last = found
            elif best is None or found.added < best.added:
                best = found
            if best is not None and best.added == move.added:
                break  # it cannot cost less
        return best or last

    def _take(
        self,
        op: Op,
        way: Way,
        move: Move,
        wanted: dict[str, dict[Use, Affine]],
        heap: list[tuple[float, str]],
    ) -> Refusal | None:
        if isinstance(way, Rewrite):
            return self.enter(move, op, way)
        move.through.append(op.name)
        if way.rewrite is not None:
            refusal = self.sound(Node(self.graph, op), way.rewrite)
            if refusal is not None:
                return refusal
            move.rewrites[op.name] = way.rewrite
        for slot, affine in way.affines.items():
            refusal = self.request(Use(op.name, slot), affine, move, wanted, heap)
            if refusal is not None:
                return refusal
        return None

    def request(
        self,
        use: Use,
        affine: Affine,
        move: Move,
        wanted: dict[str, dict[Use, Affine]],
        heap: list[tuple[float, str]],
    ) -> Refusal | None:
        """Ask that the tensor read by ``use`` become the affine of itself."""
        if affine.is_identity:
            return None
        tensor = self.graph.op(use.op).input(use.slot)
        param = self.graph.constant(tensor)
        if param is not None:
            return self._constant(use, tensor, param, affine, move)
        producer = self.graph.producer(tensor)
        if producer is None:
            return Refusal("model-input", f"{tensor} is an input of the model")
        if tensor not in wanted:
            if not any(t in wanted for t in producer.outputs):
                heapq.heappush(heap, (-self.levels[producer.name], producer.name))
            wanted[tensor] = {}
        wanted[tensor][use] = affine
        return None

    def _constant(self, use: Use, tensor: str, param: Param, affine: Affine, move: Move) -> Refusal | None:
        if not param.is_float:
            return Refusal("integer", f"{tensor} is a constant of type {param.dtype}")
        new = mapped(param, affine)
        if new is None:
            return Refusal("broadcast", f"{tensor} is a constant that is broadcast along the affine's axis")
        fault = rounding_fault(new, affine.axis or 0)
        if fault:
            return Refusal(overflow_code(new.dtype), f"the constant {tensor} cannot take it: {fault}")
        move.constants[use] = new
        return None

    def _complete(self, move: Move, op: Op, wanted: dict[str, dict[Use, Affine]]) -> dict[int, Affine] | Refusal:
        """What is asked of each output, if all of its readers ask for the same."""
        affines: dict[int, Affine] = {}
        for index, tensor in enumerate(op.outputs):
            requests = wanted.get(tensor)
            if not tensor or not requests:
                continue
            observer = self._observer(move, tensor, requests)
            if observer is not None:
                return Refusal("observed", f"the output of {op.display} ({op.type}) is also seen by {observer}")
            first, *others = requests.values()
            if any(not first.same_as(other) for other in others):
                return Refusal("unequal-readers", f"the readers of {tensor} would need different maps")
            affines[index] = first
            move.changed[tensor] = None
        return affines

    def _observer(self, move: Move, tensor: str, requests: Mapping[Use, Affine]) -> str | None:
        """Somebody else who sees the values of a tensor. As long as this one does, asking again is useless."""
        if self.graph.is_output(tensor):
            return self.graph.output_phrase
        for use in value_readers(self.graph, tensor):
            if use not in requests:
                move.touched.add(use.op)
                return self.graph.reader_phrase(use)
        return None


def backward(terrain: Terrain, reader: Use, affine: Affine) -> Move | Blocked:
    """How the producers of the tensor that ``reader`` reads could put out ``affine`` of it."""
    search, move = _Backward(terrain), Move()
    wanted: dict[str, dict[Use, Affine]] = {}
    heap: list[tuple[float, str]] = []
    refusal = search.request(reader, affine, move, wanted, heap)
    found = refusal if refusal is not None else search.run(move, wanted, heap)
    if isinstance(found, Refusal):
        return Blocked(found, frozenset(move.touched))
    return found
