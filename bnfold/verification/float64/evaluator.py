"""The graph walked in topological order: subgraphs, functions, and freeing what was read for the last time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
    """Sees, and may replace, what every operator computes."""

    def produced(self, call: Call, values: Sequence[Value], main: bool) -> Sequence[Value]:
        """``values`` by output, or others in their place; ``main`` is false inside subgraphs and functions."""


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

    __slots__ = ("_around", "_body", "values")

    def __init__(self, body: Body, values: dict[str, Value], around: Scope | None) -> None:
        self._body, self.values, self._around = body, values, around

    def __getitem__(self, name: str) -> Value:
        if name in self.values:
            return self.values[name]
        if name in self._body.constants:
            return self._body.constants[name]()
        if self._around is None:
            raise NotEvaluatedError(f"nothing computes the tensor {name!r}")
        return self._around[name]


class Evaluator:
    """One model. Every run gives the same results: random operators draw from the name of their output."""

    def __init__(
        self,
        model: ModelProto,
        folder: str = "",
        *,
        weights: Mapping[str, Callable[[], Array]] | None = None,
        keep: Collection[str] = (),
    ) -> None:
        """``folder`` is where external data lie. ``weights`` are values to use in place of initializers'.

        ``keep`` names tensors of the main graph that :meth:`run` returns besides the outputs.
        Raises NotEvaluatedError for a model that cannot be evaluated whatever its inputs.
        """
        self._folder = folder
        self._weights = dict(weights or {})
        self._keep = tuple(keep)
        self._functions = {(item.domain, item.name, item.overload): item for item in model.functions}
        versions = {_plain(entry.domain): entry.version for entry in model.opset_import}
        self._main = self._body(model.graph, versions, keep=self._keep)
        self.input_names = self._main.inputs

    def run(self, feed: Mapping[str, Any], hook: Hook | None = None) -> dict[str, Value]:
        """The outputs, and the tensors that are kept, by name. Raises NotEvaluatedError."""
        values = {name: widened(value) for name, value in feed.items()}
        scope = Scope(self._main, values, None)
        with np.errstate(all="ignore"):
            self._walk(self._main, scope, hook, main=True)
            return {name: scope[name] for name in dict.fromkeys((*self._main.outputs, *self._keep))}

    # -- evaluating ------------------------------------------------------------------------------

    def _walk(self, body: Body, scope: Scope, hook: Hook | None, main: bool) -> None:
        for step in body.steps:
            inputs = [scope[name] if name else None for name in step.inputs]
            call = replace(step.template, inputs=inputs)
            results = self._evaluate(step, call, scope, hook)
            if hook is not None:
                results = hook.produced(call, results, main)
            for name, value in zip(call.outputs, results, strict=False):
                if name:
                    scope.values[name] = value
            del inputs, results
            for name in step.free:
                scope.values.pop(name, None)

    def _evaluate(self, step: Step, call: Call, scope: Scope, hook: Hook | None) -> Sequence[Value]:
        try:
            if step.bodies:
                bodies = {name: self._runner(body, scope, hook) for name, body in step.bodies.items()}
                result = control.evaluate(call, bodies)
            elif step.function is not None:
                result = tuple(self._runner(step.function, None, hook)(call.inputs))
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
            values.update({name: None for name in body.inputs[len(arguments) :]})
            scope = Scope(body, values, around)
            self._walk(body, scope, hook, main=False)
            return [scope[name] for name in body.outputs]

        return run

    # -- preparing -------------------------------------------------------------------------------

    def _body(self, graph: GraphProto, versions: Mapping[str, int], keep: Sequence[str] = ()) -> Body:
        constants: dict[str, Callable[[], Array]] = {}
        for tensor in graph.initializer:
            constants[tensor.name] = _Constant(lambda tensor=tensor: tensor_values(tensor, self._folder))
        for sparse in graph.sparse_initializer:
            constants[sparse.values.name] = _Constant(lambda sparse=sparse: sparse_values(sparse, self._folder))
        for name in constants.keys() & self._weights.keys():
            constants[name] = _Constant(self._weights[name])
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
        template = Call(node.op_type, domain, versions.get(domain, 1), (), tuple(node.output), attributes)
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
