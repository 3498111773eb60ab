"""Where can an affine go? Searches that only describe: backward to producers, forward to consumers.

Both walk the graph in the order of its levels, so that an operator is asked once, when everything
that its neighbours want of it is known, and both end after a bounded number of operators.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice

from bnfold.affine import Affine
from bnfold.folding.numbers import overflow_code, rounding_fault, scale_fault
from bnfold.graph import CAPTURE, ModelGraph, Op, Param, Use
from bnfold.operators import Facts, Node, Rewrite, facts_of, value_readers
from bnfold.operators.base import Crossing, NewOp, mapped
from bnfold.refusal import Refusal

#: Operators asked in one search, and alternatives tried: bounds that no real model reaches.
MAX_VISITS = 5000
MAX_CHOICES = 64


@dataclass(slots=True)
class Move:
    """What has to change for an affine to go: a description, carried out by :mod:`bnfold.folding.apply`."""

    rewrites: dict[str, Rewrite] = field(default_factory=dict)
    #: Constant inputs that get another value, for one reader each.
    constants: dict[Use, Param] = field(default_factory=dict)
    #: Tensors whose values change.
    changed: dict[str, None] = field(default_factory=dict)
    holders: list[str] = field(default_factory=list)
    through: list[str] = field(default_factory=list)
    #: Every operator asked, and whoever stood in the way: when one of them changes, ask again.
    touched: set[str] = field(default_factory=set)
    #: How many operators it adds.
    added: int = 0

    def copy(self) -> Move:
        return Move(
            dict(self.rewrites),
            dict(self.constants),
            dict(self.changed),
            list(self.holders),
            list(self.through),
            self.touched,
            self.added,
        )


@dataclass(frozen=True, slots=True)
class Stuck:
    """Why a search found no way, and whom it had asked."""

    refusal: Refusal
    touched: frozenset[str]


#: How many operators a rewrite adds, or why what it adds cannot be built.
Price = Callable[[Op, Rewrite], "int | Refusal"]


@dataclass(frozen=True, slots=True)
class Terrain:
    """What a search walks on: the graph, the level of each operator, who must stay, what rewrites cost.

    ``frozen`` operators let nothing happen to them; ``idioms`` may not become other affines.
    """

    graph: ModelGraph
    levels: Mapping[str, float]
    frozen: frozenset[str]
    idioms: frozenset[str]
    price: Price


class _Search:
    """What the two directions share."""

    def __init__(self, terrain: Terrain) -> None:
        self.graph = terrain.graph
        self.levels = terrain.levels
        self.frozen = terrain.frozen
        self.idioms = terrain.idioms
        self.price = terrain.price
        self.visits = 0
        self.choices = 0

    def visit(self, move: Move, op: Op) -> Refusal | None:
        move.touched.add(op.name)
        self.visits += 1
        if op.name in self.frozen:
            return Refusal("skipped", f"{op.display} ({op.type}) was asked to stay as it is")
        if self.visits > MAX_VISITS:
            return Refusal("search-limit", f"the search gave up after {MAX_VISITS} operators")
        return None

    def sound(self, node: Node, rewrite: Rewrite) -> Refusal | None:
        """Refuse weights that do not survive rounding to their dtype."""
        for slot, new in rewrite.inputs.items():
            params = [new] if isinstance(new, Param) else [] if isinstance(new, str) else new.inputs
            for param in params:
                if isinstance(param, Param):
                    fault = rounding_fault(param, rewrite.channel_axis.get(slot, 0))
                    if not fault and isinstance(new, NewOp) and param.is_float:
                        fault = scale_fault(param.exact().reshape(-1), param.dtype)
                    if fault:
                        return node.refuse(overflow_code(param.dtype), f"cannot take it: {fault}")
        return None

    def enter(self, move: Move, op: Op, rewrite: Rewrite) -> Refusal | None:
        """Make a rewrite part of a move, unless what it adds cannot be built."""
        if rewrite.becomes is not None and op.name in self.idioms:
            return Refusal("idiom", f"{op.display} ({op.type}) is part of a function that runtimes recognise")
        added = self.price(op, rewrite)
        if isinstance(added, Refusal):
            return added
        move.added += added
        move.rewrites[op.name] = rewrite
        move.holders.append(op.name)
        return None


#: What can be done with an affine on an operator's output: take it in, or ask for another on the inputs.
Way = Crossing | Rewrite


def _telling(taken: Refusal, passed: Refusal) -> Refusal:
    """Of the reasons why an operator neither takes an affine in nor lets it pass, the one that tells more."""
    if taken.code in ("no-weights", "not-affine", "two-tensors"):
        return passed
    # A product of two tensors has no weights, but more to say about what passes it.
    return passed if taken.code == "dynamic-weights" and passed.code != "unknown-operator" else taken


class _Backward(_Search):
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
                return self._beside(op, affines, wanted)
            node, facts = Node(self.graph, op), facts_of(op)
            ways = self._ways(node, facts, affines)
            if isinstance(ways, Refusal):
                return self._beside(op, ways, wanted)
            if len(ways) > 1:
                return self._choose(op, ways, move, wanted, heap)
            refusal = self._take(op, ways[0], move, wanted, heap)
            if refusal is not None:
                return self._beside(op, refusal, wanted)
        return move

    def _beside(self, op: Op, refusal: Refusal, wanted: dict[str, dict[Use, Affine]]) -> Refusal:
        """The refusal of one branch: without the operator that joins it with others it would explain nothing."""
        readers = [use for tensor in op.outputs for use in wanted.get(tensor, ())]
        while readers:
            reader = self.graph.op(readers[0].op)
            asked = sum(Use(reader.name, slot) in wanted.get(name, ()) for slot, name in enumerate(reader.inputs))
            if asked > 1:
                joined = f"{reader.display} ({reader.type})"
                return Refusal(refusal.code, f"{refusal.sentence}, and every input of {joined} has to take its part")
            readers = [use for tensor in reader.outputs for use in wanted.get(tensor, ())]
        return refusal

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
            return lifts if taken is None else _telling(taken, lifts)
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


def backward(terrain: Terrain, reader: Use, affine: Affine) -> Move | Stuck:
    """How the producers of the tensor that ``reader`` reads could put out ``affine`` of it."""
    search, move = _Backward(terrain), Move()
    wanted: dict[str, dict[Use, Affine]] = {}
    heap: list[tuple[float, str]] = []
    refusal = search.request(reader, affine, move, wanted, heap)
    found = refusal if refusal is not None else search.run(move, wanted, heap)
    if isinstance(found, Refusal):
        return Stuck(found, frozenset(move.touched))
    return found


class _Forward(_Search):
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
            return _telling(taken, crossing)
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


def forward(terrain: Terrain, tensor: str, affine: Affine) -> Move | Stuck:
    """How all readers of ``tensor`` could do with the tensor before ``affine`` was applied to it."""
    search = _Forward(terrain)
    refusal = search.spread(tensor, affine) or search.run()
    if refusal is not None:
        return Stuck(refusal, frozenset(search.move.touched))
    return search.move
