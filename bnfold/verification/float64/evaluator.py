"""The graph walked in topological order: subgraphs, functions, and freeing what was read for the last time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from bnfold.graph import Array
from bnfold.verification.float64 import control, tables
from bnfold.verification.float64.order import sorted_nodes
from bnfold.verification.float64.rare import evaluate as evaluate_rare
from bnfold.verification.float64.registry import Call, NotEvaluatedError, Value
from bnfold.verification.float64.tensors import attribute_values, sparse_values, tensor_values, widened

if TYPE_CHECKING:
    from onnx import FunctionProto, GraphProto, ModelProto, NodeProto

#: Constants of at most so many elements are kept once they were read: a loop reads them many times.
_KEPT_ELEMENTS = 1 << 16
#: What numpy raises on values that an operator does not stand.
_FAILURES = (ArithmeticError, AttributeError, IndexError, KeyError, TypeError, ValueError, MemoryError)


class Hook(Protocol):
    """Changes values: for finding out what a change does to a result."""

    def constant(self, name: str, values: Array) -> Array:
        """A constant, or what to use in its place."""

    def produced(self, call: Call, values: Sequence[Value]) -> Sequence[Value]:
        """What an operator computed, by output, or what to use in its place."""


#: Yields each operator of the main graph with what it computed, and is sent what to use in its place, or None.
Trace = Generator[tuple[Call, Sequence[Value]], "Sequence[Value] | None", dict[str, Value]]


@dataclass(frozen=True, slots=True)
class Step:
    """A node, ready to be evaluated; ``free`` are the names that nobody reads after it."""

    template: Call
    inputs: tuple[str, ...]
    bodies: Mapping[str, Body] = field(default_factory=dict)
    function: Body | None = None
    free: tuple[str, ...] = ()

    def reads(self) -> Iterator[str]:
        """Its inputs, and what its subgraphs take from around them."""
        yield from filter(None, self.inputs)
        for body in self.bodies.values():
            yield from body.captures


@dataclass(frozen=True, slots=True)
class Body:
    """A graph, subgraph or function. ``constants`` give their values when called."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    steps: tuple[Step, ...]
    constants: Mapping[str, Callable[[], Array]]
    captures: frozenset[str] = frozenset()


class Scope:
    """The tensors that are alive in one body; what it does not define is looked for around it."""

    __slots__ = ("_around", "_body", "hook", "values")

    def __init__(self, body: Body, values: dict[str, Value], around: Scope | None, hook: Hook | None) -> None:
        self._body, self.values, self._around, self.hook = body, values, around, hook

    def __getitem__(self, name: str) -> Value:
        if name in self.values:
            return self.values[name]
        if name in self._body.constants:
            values = self._body.constants[name]()
            return values if self.hook is None else self.hook.constant(name, values)
        if self._around is None:
            raise NotEvaluatedError(f"nothing computes the tensor {name!r}")
        return self._around[name]


class Evaluator:
    """One model. Every run gives the same results: random operators draw from the name of their output."""

    def __init__(self, model: ModelProto, folder: str = "", keep: Collection[str] = ()) -> None:
        """``folder`` is where external data lie; ``keep`` names tensors that are returned besides the outputs.

        Raises NotEvaluatedError for a model that cannot be evaluated whatever its inputs.
        """
        self._folder = folder
        self._keep = tuple(keep)
        self._functions = {(item.domain, item.name, item.overload): item for item in model.functions}
        versions = {_plain(entry.domain): entry.version for entry in model.opset_import}
        self._main = self._body(model.graph, versions, self._keep)

    def run(self, feed: Mapping[str, Any], hook: Hook | None = None) -> dict[str, Value]:
        """The outputs, and the tensors that are kept, by name. Raises NotEvaluatedError.

        A tensor that is fed takes the place of an initializer of that name, or of what an operator would compute.
        """
        scope = self._scope(feed, hook)
        for step in self._main.steps:
            self._store(step, scope, self._computed(step, scope)[1])
        return self._results(scope)

    def trace(self, feed: Mapping[str, Any], hook: Hook | None = None) -> Trace:
        """:meth:`run`, one operator of the main graph at a time. Raises NotEvaluatedError."""
        scope = self._scope(feed, hook)
        for step in self._main.steps:
            call, results = self._computed(step, scope)
            self._store(step, scope, (yield call, results) or results)
            del call, results
        return self._results(scope)

    @property
    def computed(self) -> set[str]:
        """The tensors that operators of the main graph compute."""
        return {name for step in self._main.steps for name in step.template.outputs if name}

    def _scope(self, feed: Mapping[str, Any], hook: Hook | None) -> Scope:
        return Scope(self._main, {name: widened(value) for name, value in feed.items()}, None, hook)

    def _results(self, scope: Scope) -> dict[str, Value]:
        return {name: scope[name] for name in dict.fromkeys((*self._main.outputs, *self._keep))}

    # -- evaluating ------------------------------------------------------------------------------

    def _computed(self, step: Step, scope: Scope) -> tuple[Call, Sequence[Value]]:
        outputs = step.template.outputs
        if outputs and all(name in scope.values for name in outputs if name):
            return step.template, [scope.values.get(name) for name in outputs]
        call = replace(step.template, inputs=[scope[name] if name else None for name in step.inputs])
        with np.errstate(all="ignore"):
            results = self._evaluate(step, call, scope)
        return call, results if scope.hook is None else scope.hook.produced(call, results)

    @staticmethod
    def _store(step: Step, scope: Scope, results: Sequence[Value]) -> None:
        for name, value in zip(step.template.outputs, results, strict=False):
            if name:
                scope.values[name] = value
        for name in step.free:
            scope.values.pop(name, None)

    def _evaluate(self, step: Step, call: Call, scope: Scope) -> Sequence[Value]:
        try:
            if step.bodies:
                bodies = {name: self._runner(body, scope, scope.hook) for name, body in step.bodies.items()}
                result = control.evaluate(call, bodies)
            elif step.function is not None:
                result = tuple(self._runner(step.function, None, scope.hook)(call.inputs))
            else:
                known = tables.OPERATORS.get((call.domain, call.op_type))
                result = evaluate_rare(call) if known is None else known(call)
        except NotEvaluatedError:
            raise
        except _FAILURES as error:
            raise NotEvaluatedError(f"{call.op_type} cannot be evaluated: {error}") from error
        return _as_values(result)

    def _runner(self, body: Body, around: Scope | None, hook: Hook | None) -> control.Runner:
        def run(arguments: Sequence[Value]) -> list[Value]:
            values = {name: value for name, value in zip(body.inputs, arguments, strict=False) if name}
            # A function's input that is left out is an empty name to its readers.
            values.update(dict.fromkeys(body.inputs[len(arguments) :]))
            scope = Scope(body, values, around, hook)
            for step in body.steps:
                self._store(step, scope, self._computed(step, scope)[1])
            return [scope[name] for name in body.outputs]

        return run

    # -- preparing -------------------------------------------------------------------------------

    def _body(self, graph: GraphProto, versions: Mapping[str, int], keep: Sequence[str] = ()) -> Body:
        constants: dict[str, Callable[[], Array]] = {}
        for tensor in graph.initializer:
            constants[tensor.name] = _Constant(partial(tensor_values, tensor, self._folder))
        for sparse in graph.sparse_initializer:
            constants[sparse.values.name] = _Constant(partial(sparse_values, sparse, self._folder))
        steps = [self._step(node, versions, {}) for node in sorted_nodes(graph.node)]
        outputs = tuple(value.name for value in graph.output)
        inputs = tuple(value.name for value in graph.input)
        return _body(inputs, outputs, steps, constants, keep)

    def _step(self, node: NodeProto, versions: Mapping[str, int], given: Mapping[str, Any]) -> Step:
        """``given`` are the attributes of the function that the node stands in."""
        domain = _plain(node.domain)
        attributes = attribute_values(node, self._folder)
        bodies = {}
        for attribute in node.attribute:
            if attribute.ref_attr_name and attribute.ref_attr_name in given:
                attributes[attribute.name] = given[attribute.ref_attr_name]
            if attribute.type == attribute.GRAPH:
                bodies[attribute.name] = self._body(attribute.g, versions)
        template = Call(node.op_type, domain, versions.get(domain, 1), (), tuple(node.output), attributes, node.name)
        function = self._functions.get((node.domain, node.op_type, node.overload))
        body = None if function is None else self._function(function, attributes)
        return Step(template, tuple(node.input), bodies, body)

    def _function(self, function: FunctionProto, given: Mapping[str, Any]) -> Body:
        defaults = {item.name: item for item in function.attribute_proto}
        attributes = attribute_values(_Attributes(list(defaults.values())), self._folder)  # type: ignore[arg-type]
        attributes.update(given)
        versions = {_plain(entry.domain): entry.version for entry in function.opset_import}
        steps = [self._step(node, versions, attributes) for node in sorted_nodes(function.node)]
        return _body(tuple(function.input), tuple(function.output), steps, {}, ())


@dataclass(frozen=True, slots=True)
class _Attributes:
    attribute: list[Any]


class _Constant:
    """Reads a constant when it is wanted; small ones once."""

    def __init__(self, read: Callable[[], Array]) -> None:
        self._read = read
        self._kept: Array | None = None

    def __call__(self) -> Array:
        if self._kept is not None:
            return self._kept
        values: Array = widened(self._read())
        if values.size <= _KEPT_ELEMENTS:
            values.setflags(write=False)
            self._kept = values
        return values


def _body(
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    steps: list[Step],
    constants: Mapping[str, Callable[[], Array]],
    keep: Sequence[str],
) -> Body:
    """With the names that are free after each step, and those that come from around."""
    known = {*inputs, *constants}
    reads = {*outputs}
    for step in steps:
        reads.update(step.reads())
        known.update(filter(None, step.template.outputs))
    last: dict[str, int] = {}
    for index, step in enumerate(steps):
        for name in (*step.reads(), *filter(None, step.template.outputs)):
            last[name] = index
    for name in (*outputs, *keep):
        last.pop(name, None)
    due: dict[int, list[str]] = {}
    for name, index in last.items():
        due.setdefault(index, []).append(name)
    freed = tuple(replace(step, free=tuple(due.get(index, ()))) for index, step in enumerate(steps))
    return Body(inputs, outputs, freed, constants, frozenset(reads - known))


def _as_values(result: Value) -> Sequence[Value]:
    """One result as a tuple of one; numbers as arrays, and every real number in float64."""
    values = result if isinstance(result, tuple) else (result,)
    return tuple(value if isinstance(value, list) or value is None else _array(value) for value in values)


def _array(value: Value) -> Array:
    array = np.asarray(value)
    return array.astype(np.float64) if array.dtype.kind == "f" and array.dtype != np.float64 else array


def _plain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain
