"""Could the producers of a tensor put out an affine of it?"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field, replace

from bnfold.affine import Affine
from bnfold.folding.moves import Blocked, Context, Move, Search, more_telling, unsound
from bnfold.folding.observers import input_phrase, other_reader, output_phrase, reader_phrase
from bnfold.folding.rounding import overflow_code, rounding_fault
from bnfold.graph import Op, Param, Place, Use
from bnfold.operators import Facts, Node, Rewrite, facts_of
from bnfold.operators.answers import Crossing
from bnfold.operators.weights import mapped
from bnfold.refusal import Refusal

#: Alternatives tried in one search: a bound that no real model reaches.
MAX_CHOICES = 64

#: What can be done with an affine on an operator's output: take it in, or ask for another on the inputs.
Way = Crossing | Rewrite


@dataclass(slots=True)
class _State:
    """How far a search has got: the move so far, and the requests to producers that wait for an answer."""

    move: Move = field(default_factory=Move)
    #: For each tensor the affine that each of its readers asks for.
    wanted: dict[str, dict[Use, Affine]] = field(default_factory=dict)
    #: The producers of those tensors, the last of the dataflow order first.
    queue: list[tuple[Place, str]] = field(default_factory=list)

    def copy(self) -> _State:
        wanted = {tensor: dict(requests) for tensor, requests in self.wanted.items()}
        return _State(self.move.copy(), wanted, list(self.queue))

    def request(self, use: Use, tensor: str, affine: Affine, producer: Op, place: Place) -> None:
        """Note that the reader asks a tensor's producer for an affine of it."""
        if tensor not in self.wanted:
            if not any(t in self.wanted for t in producer.outputs):
                heapq.heappush(self.queue, (-place, producer.name))
            self.wanted[tensor] = {}
        self.wanted[tensor][use] = affine


class _Backward(Search):
    """Push requests from readers to producers."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.choices = 0

    def run(self, state: _State) -> Move | Refusal:
        while state.queue:
            _, name = heapq.heappop(state.queue)
            op = self.graph.op(name)
            refusal = self.visit(state.move, op)
            if refusal is not None:
                return refusal
            affines = self._requests(state, op)
            if isinstance(affines, Refusal):
                return self._beside(state, op, affines)
            ways = self._ways(Node(self.graph, op), facts_of(op), affines)
            if isinstance(ways, Refusal):
                return self._beside(state, op, ways)
            if len(ways) > 1:
                return self._choose(state, op, ways)
            refusal = self._take(state, op, ways[0])
            if refusal is not None:
                return self._beside(state, op, refusal)
        return state.move

    def _beside(self, state: _State, op: Op, refusal: Refusal) -> Refusal:
        """The refusal of one branch: without the operator that joins it with others it would explain nothing."""
        wanted = state.wanted
        readers = [use for tensor in op.outputs for use in wanted.get(tensor, ())]
        while readers:
            reader = self.graph.op(readers[0].op)
            asked = sum(Use(reader.name, slot) in wanted.get(name, ()) for slot, name in enumerate(reader.inputs))
            if asked > 1:
                joined = f"{reader.display} ({reader.type})"
                return replace(
                    refusal, sentence=f"{refusal.sentence}, and every input of {joined} has to take its part"
                )
            readers = [use for tensor in reader.outputs for use in wanted.get(tensor, ())]
        return refusal

    def _ways(self, node: Node, facts: Facts, affines: dict[int, Affine]) -> list[Way] | Refusal:
        """What can be done here: pass it on, or take it in; where that costs nothing, nothing else is tried."""
        if any(affine.grid for affine in affines.values()) and not facts.grids:
            return node.refuse("several-axes", "would get an affine that runs over several axes")
        taken: Rewrite | Refusal | None = None
        if set(affines) == {0}:
            taken = facts.absorb_output(node, affines[0])
            if not isinstance(taken, Refusal):
                cost = unsound(node, taken) or self.context.cost(node.op, taken)
                if cost == 0:
                    return [taken]
                taken = cost if isinstance(cost, Refusal) else taken
        lifts = facts.lift(node, affines)
        if taken is None:
            return lifts if isinstance(lifts, Refusal) else list(lifts)
        if isinstance(taken, Refusal):
            return more_telling(taken, lifts) if isinstance(lifts, Refusal) else list(lifts)
        return [taken] if isinstance(lifts, Refusal) else [*lifts, taken]

    def _choose(self, state: _State, op: Op, ways: list[Way]) -> Move | Refusal:
        last: Refusal = Refusal("no-way", f"{op.display} ({op.type}) has no input that could take it", op.name)
        best: Move | None = None
        for way in ways:
            self.choices += 1
            if self.choices > MAX_CHOICES:
                return best or Refusal("search-limit", f"the search gave up after {MAX_CHOICES} alternatives")
            trial = state.copy()
            refusal = self._take(trial, op, way)
            found = refusal if refusal is not None else self.run(trial)
            if isinstance(found, Refusal):
                last = found
            elif best is None or found.added < best.added:
                best = found
            if best is not None and best.added == state.move.added:
                break  # it cannot cost less
        return best or last

    def _take(self, state: _State, op: Op, way: Way) -> Refusal | None:
        if not isinstance(way, Crossing):
            return self.enter(state.move, op, way)
        state.move.through.append(op.name)
        if way.rewrite is not None:
            refusal = unsound(Node(self.graph, op), way.rewrite)
            if refusal is not None:
                return refusal
            state.move.rewrites[op.name] = way.rewrite
        for slot, affine in way.affines.items():
            refusal = self.request(state, Use(op.name, slot), op.input(slot), affine)
            if refusal is not None:
                return refusal
        return None

    def request(self, state: _State, use: Use, tensor: str, affine: Affine) -> Refusal | None:
        """Ask that the ``tensor`` that ``use`` reads become the affine of itself."""
        if affine.is_identity:
            return None
        param = self.graph.constant(tensor)
        if param is not None:
            return self._constant(state, use, param, affine, tensor)
        producer = self.graph.producer(tensor)
        if producer is None:
            return Refusal("model-input", f"{tensor} is {input_phrase(self.graph, tensor)}")
        state.request(use, tensor, affine, producer, self.order[producer.name])
        return None

    def _constant(self, state: _State, use: Use, param: Param, affine: Affine, tensor: str) -> Refusal | None:
        if not param.is_float:
            return Refusal("integer", f"{tensor} is a constant of type {param.dtype}")
        new = mapped(param, affine)
        if new is None:
            return Refusal("broadcast", f"{tensor} is a constant that is broadcast along the affine's axis")
        fault = rounding_fault(new, affine.axis or 0)
        if fault:
            return Refusal(overflow_code(new.dtype), f"the constant {tensor} cannot take it: {fault}")
        state.move.constants[use] = new
        return None

    def _requests(self, state: _State, op: Op) -> dict[int, Affine] | Refusal:
        """What is asked of each output, if all of its readers ask for the same."""
        affines: dict[int, Affine] = {}
        for index, tensor in enumerate(op.outputs):
            requests = state.wanted.get(tensor)
            if not tensor or not requests:
                continue
            observer = self._observer(state.move, tensor, requests)
            if observer is not None:
                return Refusal(
                    "observed", f"the output of {op.display} ({op.type}) is also seen by {observer}", op.name
                )
            first, *others = requests.values()
            if any(not first.same_as(other) for other in others):
                return Refusal("unequal-readers", f"the readers of {tensor} would need different maps", op.name)
            affines[index] = first
            state.move.changed[tensor] = None
        return affines

    def _observer(self, move: Move, tensor: str, requests: dict[Use, Affine]) -> str | None:
        """Somebody else who sees the values of a tensor. As long as this one does, asking again is useless."""
        if self.graph.is_output(tensor):
            return output_phrase(self.graph)
        if self.graph.use_count(tensor) == len(requests):  # the rule: all who read it ask
            return None
        use = other_reader(self.graph, tensor, requests)
        if use is None:
            return None
        move.asked.add(use.op)
        return reader_phrase(self.graph, use)


def backward(context: Context, reader: Use, tensor: str, affine: Affine) -> Move | Blocked:
    """How the producers of the ``tensor`` that ``reader`` reads could put out ``affine`` of it."""
    search, state = _Backward(context), _State()
    refusal = search.request(state, reader, tensor, affine)
    found = refusal if refusal is not None else search.run(state)
    if isinstance(found, Refusal):
        return Blocked(found, frozenset(state.move.asked))
    return found
