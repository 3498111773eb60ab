"""A folded graph taken apart into what Keras can build: calls of layers, and of nested models around them.

A layer and the activation fused into it become one call again, and the operators of a nested model
one call of that model. What folding moved across a nested model's border only changes which tensors
cross it.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from bnfold.formats.keras.reading import Call, Reading, Scope
from bnfold.graph import ModelGraph, Op


@dataclass(eq=False, slots=True)
class LayerPart:
    """One call of a layer: its operator, the activation that is fused into it, and the call it was read from."""

    op: Op
    activation: Op | None
    call: Call | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    #: Set where the nested model it came from could not be kept.
    prefix: str = ""

    def leaves(self) -> Iterator[LayerPart]:
        yield self

    def units(self) -> Iterator[LayerPart | WrappedPart]:
        """What its model calls, nested models taken apart."""
        yield self


@dataclass(eq=False, slots=True)
class ModelPart:
    """One call of a model; ``inputs`` and ``outputs`` are the tensors that cross its border.

    Where there are as many of them as the original model had, they stand in its order.
    """

    scope: Scope
    parts: list[Part]
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    #: Are the inputs (outputs) those of the original, one by one?
    same_inputs: bool = False
    same_outputs: bool = False

    def leaves(self) -> Iterator[LayerPart]:
        for part in self.parts:
            yield from part.leaves()

    def units(self) -> Iterator[LayerPart | WrappedPart]:
        for part in self.parts:
            yield from part.units()


@dataclass(eq=False, slots=True)
class WrappedPart:
    """One call of a TimeDistributed, and what it applies to each step."""

    scope: Scope
    inner: ModelPart
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def leaves(self) -> Iterator[LayerPart]:
        yield from self.inner.leaves()

    def units(self) -> Iterator[LayerPart | WrappedPart]:
        yield self


Part = LayerPart | ModelPart | WrappedPart


def assemble(graph: ModelGraph, reading: Reading) -> ModelPart:
    """The whole model as nested parts, each list of them in an order in which they can be called."""
    return _Assembler(graph, reading).assemble()


@dataclass(eq=False, slots=True)
class _Assembler:
    graph: ModelGraph
    reading: Reading
    #: Tensors that are another one under a second name.
    alias: dict[str, str] = field(default_factory=dict)
    layers: dict[Scope, list[LayerPart]] = field(default_factory=lambda: defaultdict(list))
    children: dict[Scope, list[Scope]] = field(default_factory=lambda: defaultdict(list))
    #: Which scopes' operators read a tensor; None stands for the caller of the model.
    readers: dict[str, set[Scope | None]] = field(default_factory=lambda: defaultdict(set))

    def assemble(self) -> ModelPart:
        ops = self.graph.ops()
        for op in ops:
            if op.type == "Identity" and op.name not in self.reading.calls:
                self.alias[op.outputs[0]] = op.inputs[0]
            elif op.name in self.reading.borders:
                self._cross(op)
        for op in ops:
            if op.outputs[0] not in self.alias and op.name not in self.reading.borders and not self._is_fused(op):
                part = self._layer_part(op)
                scope = self._scope_of(op)
                self.layers[scope].append(part)
                for tensor in part.inputs:
                    self.readers[tensor].add(scope)
        for tensor in self.graph.outputs:
            self.readers[self.resolve(tensor)].add(None)
        self._find_children()
        root = self._model_part(self.reading.root)
        root.inputs = tuple(tensor.name for tensor in self.graph.inputs)
        root.outputs = tuple(self.resolve(tensor) for tensor in self.graph.outputs)
        root.same_inputs = root.same_outputs = True
        return root

    def _cross(self, op: Op) -> None:
        """The border of a TimeDistributed; one that does nothing any more is another name of what it reads."""
        scope, source = self.reading.borders[op.name], self.resolve(op.inputs[0])
        self.readers[source].add(scope)
        before = self.graph.producer(source)
        if before is not None and before.name in self.reading.borders and before.name == self._begin_of(op):
            self.alias[op.outputs[0]] = before.inputs[0]

    def _begin_of(self, end: Op) -> str:
        """The name of the operator that begins what this one ends; empty for another."""
        return next((one.ends[0] for one in self.reading.borders.values() if one.ends[1] == end.name), "")

    def resolve(self, tensor: str) -> str:
        while tensor in self.alias:
            tensor = self.alias[tensor]
        return tensor

    def _is_fused(self, op: Op) -> bool:
        """Is this an activation that goes back into its layer's call?"""
        call = self.reading.calls.get(op.name)
        if call is None or call.activation != op.name or call.op not in self.graph:
            return False
        return op is self._activation_of(self.graph.op(call.op), call)

    def _activation_of(self, op: Op, call: Call | None) -> Op | None:
        """The activation that alone reads this operator's output and came from the same call."""
        if call is None or call.op != op.name or not call.activation or call.activation not in self.graph:
            return None
        activation = self.graph.op(call.activation)
        alone = self.graph.use_count(op.outputs[0]) == 1 and not self.graph.is_output(op.outputs[0])
        unchanged = activation.type == self.reading.graph.op(call.activation).type
        return activation if alone and unchanged and activation.inputs[0] == op.outputs[0] else None

    def _layer_part(self, op: Op) -> LayerPart:
        call = self.reading.calls.get(op.name)
        activation = self._activation_of(op, call)
        tensors = tuple(self.resolve(name) for name in op.inputs if name and name not in self.graph.params)
        return LayerPart(op, activation, call, tensors, (activation or op).outputs)

    def _scope_of(self, op: Op) -> Scope:
        """Where an operator stands; one that folding added stands with the producer of what it reads."""
        call = self.reading.calls.get(op.name)
        while call is None:
            if op.name in self.reading.borders:
                return self.reading.borders[op.name]
            producers = [self.graph.producer(name) for name in op.inputs if name]
            before = next((producer for producer in producers if producer is not None), None)
            if before is None:
                return self.reading.root
            op, call = before, self.reading.calls.get(before.name)
        return call.scope

    def _find_children(self) -> None:
        for scope in list(self.layers):
            for inner, outer in zip(scope.within(), scope.within()[1:], strict=False):
                if inner not in self.children[outer]:
                    self.children[outer].append(inner)

    def _model_part(self, scope: Scope) -> ModelPart:
        parts: list[Part] = [*self.layers.get(scope, ()), *map(self._inner_part, self.children.get(scope, ()))]
        parts.sort(key=lambda part: min(self.graph.position(leaf.op.name) for leaf in part.leaves()))
        part = ModelPart(scope, _ordered(parts))
        units = list(part.units())
        produced = dict.fromkeys(tensor for unit in units for tensor in unit.outputs)
        read = dict.fromkeys(tensor for unit in units for tensor in unit.inputs if tensor not in produced)
        leaving = [tensor for tensor in produced if any(self._is_outside(scope, at) for at in self.readers[tensor])]
        inputs = [self.resolve(tensor) for tensor in scope.inputs]
        outputs = [self.resolve(tensor) for tensor in scope.outputs]
        kept = [tensor for tensor in outputs if tensor in produced]
        part.inputs, part.same_inputs = _align(inputs, read)
        part.outputs, part.same_outputs = _align(outputs, dict.fromkeys([*kept, *leaving]))
        return part

    def _inner_part(self, scope: Scope) -> ModelPart | WrappedPart:
        inner = self._model_part(scope)
        if scope.wrapper is None:
            return inner
        begin, end = (self.graph.op(name) for name in scope.ends)
        inner.inputs, inner.outputs = begin.outputs, (self.resolve(end.inputs[0]),)
        inner.same_inputs = inner.same_outputs = scope.network is not None
        return WrappedPart(scope, inner, (self.resolve(begin.inputs[0]),), end.outputs)

    @staticmethod
    def _is_outside(scope: Scope, reader: Scope | None) -> bool:
        return reader is None or scope not in reader.within()


def _align(originals: Sequence[str], found: Iterable[str]) -> tuple[tuple[str, ...], bool]:
    """The tensors found, those of the original at their old places where the number is the same."""
    found = list(found)
    if len(originals) != len(found) or len(set(originals)) != len(originals):
        return tuple(found), False
    new = iter([tensor for tensor in found if tensor not in originals])
    return tuple(tensor if tensor in found else next(new) for tensor in originals), True


def _ordered(parts: list[Part]) -> list[Part]:
    """Producers before consumers, otherwise as given.

    A nested model that would have to run both before and after another part, because folding moved
    an operator across its border, is dissolved into the model around it.
    """
    while True:
        order, stuck = _sort(parts)
        if not stuck:
            return order
        model = next(part for part in stuck if isinstance(part, ModelPart))
        inner = list(model.parts)
        for leaf in model.leaves():
            leaf.prefix = leaf.prefix or model.scope.model.name
        at = parts.index(model)
        parts = [*parts[:at], *inner, *parts[at + 1 :]]


def _sort(parts: Sequence[Part]) -> tuple[list[Part], list[Part]]:
    """Kahn's algorithm, the first part that is ready first: the order, and the parts that wait for each other."""
    producer = {tensor: part for part in parts for tensor in part.outputs}
    waiting = {id(part): {id(producer[t]) for t in part.inputs if t in producer} - {id(part)} for part in parts}
    places = {id(part): place for place, part in enumerate(parts)}
    followers: dict[int, list[Part]] = defaultdict(list)
    for part in parts:
        for before in waiting[id(part)]:
            followers[before].append(part)
    ready = [places[id(part)] for part in parts if not waiting[id(part)]]
    order: list[Part] = []
    while ready:
        part = parts[heapq.heappop(ready)]
        order.append(part)
        for follower in followers[id(part)]:
            waiting[id(follower)].discard(id(part))
            if not waiting[id(follower)]:
                heapq.heappush(ready, places[id(follower)])
    done = {id(part) for part in order}
    return order, [part for part in parts if id(part) not in done]
