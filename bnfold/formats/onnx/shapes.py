"""Shapes of all tensors, by onnx's own shape inference."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import cache
from math import prod

import onnx.checker
import onnx.defs
import onnx.shape_inference
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto

from bnfold.formats.onnx.build import Builder
from bnfold.formats.onnx.context import Context
from bnfold.formats.onnx.tensors import to_proto
from bnfold.formats.onnx.types import tensors_by_name, to_tensor, to_value_info
from bnfold.graph import ModelGraph, Param, Tensor, walk
from bnfold.operators import Role, facts_of

#: How many numbers inference may compute to find out shapes.
MAX_VALUES = 1 << 20
_MAX_RANK = 32
#: How often the sizes that inference found may tell constants from which it finds more.
_PASSES = 3
#: Operators that give inference values to compute with, as integers among the constants do: without any of them it
#: need not look for values, which takes a quarter of its time.
_SOURCES = frozenset({"Constant", "GroupNormalization", "Shape", "Size"})
#: What shape inference raises for a model that it cannot make sense of.
_FAILURES = (
    onnx.shape_inference.InferenceError,
    onnx.checker.ValidationError,
    RuntimeError,
    ValueError,
)


def inference(context: Context) -> Callable[[ModelGraph], Mapping[str, Tensor]]:
    """The ``infer`` of a model's graphs: what inference finds out, by tensor; never raises."""

    def infer(graph: ModelGraph) -> Mapping[str, Tensor]:
        model = _main(context, graph) if graph.parent is None else _body(context, graph)
        try:
            types = {op.type for inner in walk(graph) for op in inner.ops()}
            # A subgraph may read constants of the graph around it.
            values = bool(graph.parent is not None or context.skeleton.functions or types & _SOURCES)
            values = values or _has_integers(graph)
            # Without a Concat no value grows, which the graph says faster than the model.
            safe = "Concat" not in types
            found = _inferred(model, values and (safe or _may_propagate(model.graph)))
            plain, operands = model, dict[str, Param]()
            again = "Shape" in types and not _needs_resolving(context)
            for _ in range(_PASSES if again else 1):
                if again:
                    graph.learn(found)  # the sizes that a Shape may ask for
                more = _computed_operands(graph, found)
                if more.keys() <= operands.keys():
                    break
                operands |= more
                model = _with_constants(plain, operands)
                found = _inferred(model, values and (safe or _may_propagate(model.graph)))
            if _needs_resolving(context):
                while _resolve_axes(model.graph, found):
                    found = _inferred(model, values and (safe or _may_propagate(model.graph)))
                for name in _behind_signed_axes(model.graph):
                    found.pop(name, None)
        except _FAILURES:
            return {}
        return found

    return infer


def _has_integers(graph: ModelGraph) -> bool:
    return any(param.dtype.kind == "i" for inner in walk(graph) for param in inner.params.values())


def _inferred(model: ModelProto, data_prop: bool) -> dict[str, Tensor]:
    graph = onnx.shape_inference.infer_shapes(model, data_prop=data_prop).graph
    return tensors_by_name([*graph.value_info[:], *graph.output[:]])


def _computed_operands(graph: ModelGraph, found: Mapping[str, Tensor]) -> dict[str, Param]:
    """The bounds, axes and shapes that operators compute from constants, where inference could not follow."""
    operands: dict[str, Param] = {}
    for op in graph.ops():
        parts = op.type == "Concat"  # of a shape, of which others may be fed
        names = [name for name in (op.inputs if parts else op.inputs[1:]) if _is_computed(graph, name)]
        if not names or (not parts and all(_is_static(found.get(name)) for name in op.outputs)):
            continue
        for name in names:
            param = graph.constant(name)
            if param is not None and param.dtype.kind == "i" and param.size <= _MAX_RANK:
                operands[name] = param
    return operands


def _is_computed(graph: ModelGraph, tensor: str) -> bool:
    """Does an operator make it? Initializers and Constants inference sees itself."""
    producer = graph.producer(tensor)
    return producer is not None and producer.type != "Constant"


def _is_static(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.shape is not None and all(isinstance(size, int) for size in tensor.shape)


def _with_constants(model: ModelProto, operands: Mapping[str, Param]) -> ModelProto:
    """A copy whose operators read those operands from initializers."""
    copy = ModelProto()
    copy.CopyFrom(model)
    taken = {name for node in copy.graph.node for name in (*node.input, *node.output)}
    names = {}
    for name, param in operands.items():
        names[name] = f"{name}_"
        while names[name] in taken:
            names[name] += "_"
        taken.add(names[name])
        copy.graph.initializer.append(to_proto(param.renamed(names[name])))
    for node in copy.graph.node:
        for slot, name in enumerate(node.input):
            if name in names:
                node.input[slot] = names[name]
    return copy


#: From this opset on, the axes of these operators may count from the right. Runtimes take that before it as well,
#: and onnx's inference then gives wrong shapes without a word.
_SIGNED_AXES = 11
_SIGNED_OPERATORS = frozenset({"Squeeze", "Unsqueeze"})


def _needs_resolving(context: Context) -> bool:
    """May axes have to be counted anew, in the model itself?"""
    return context.opsets.get("", 1) < _SIGNED_AXES


def _signed_axes(node: NodeProto) -> AttributeProto | None:
    """The attribute ``axes`` of a node, where inference would misread it."""
    if node.op_type not in _SIGNED_OPERATORS or node.domain:
        return None
    return next((a for a in node.attribute if a.name == "axes" and min(a.ints, default=0) < 0), None)


def _resolve_axes(graph: GraphProto, known: Mapping[str, Tensor]) -> bool:
    """Count from the left what counts from the right, as far as ranks are known; whether there was any."""
    known = {**known, **{value.name: to_tensor(value) for value in graph.input}}
    wrong, resolved = _behind_signed_axes(graph), False
    for node in graph.node:
        axes = _signed_axes(node)
        rank = None if axes is None or node.input[0] in wrong else known.get(node.input[0], Tensor("")).rank
        if axes is not None and rank is not None:
            rank = max(1, rank + len(axes.ints) if node.op_type == "Unsqueeze" else rank)
            axes.ints[:] = [axis % rank for axis in axes.ints]
            resolved = True
    return resolved


def _behind_signed_axes(graph: GraphProto) -> set[str]:
    """The tensors whose inferred shapes may be wrong."""
    wrong: set[str] = set()
    for node in graph.node:
        if _signed_axes(node) is not None or not wrong.isdisjoint(node.input):
            wrong.update(node.output)
    return wrong


def _may_propagate(graph: GraphProto, outer: Mapping[str, int] | None = None) -> bool:
    """Is it safe to let inference compute values too?

    It does so without a bound: sixty Concats, each of a value with itself, would take all memory. What comes out of
    a Conv it does not compute, so that joining such tensors takes nothing.
    """
    sizes = dict(outer or {})
    sizes |= {tensor.name: prod(tensor.dims) for tensor in graph.initializer}
    total = 0
    for node in graph.node:
        given = [sizes.get(name, 0) for name in node.input] if _propagates(node.op_type, node.domain) else []
        size = sum(given) if node.op_type == "Concat" else max(given, default=0)
        for attribute in node.attribute:
            size = max(size, prod(attribute.t.dims)) if attribute.HasField("t") else size
            if not all(_may_propagate(body, sizes) for body in (attribute.g, *attribute.graphs)):
                return False
        size = max(size, _MAX_RANK)  # a Shape's
        sizes |= dict.fromkeys(node.output, size)
        if node.op_type == "Concat":
            total += size
    return total <= MAX_VALUES


@cache
def _propagates(kind: str, domain: str) -> bool:
    """May inference compute the values of such an operator?"""
    try:
        schema = onnx.defs.get_schema(kind, domain)
    except onnx.defs.SchemaError:
        return True  # a function of the model
    body = schema.has_function or schema.has_context_dependent_function  # type: ignore[attr-defined]
    return bool(body or schema.has_data_propagation_function)


def _main(context: Context, graph: ModelGraph) -> ModelProto:
    model = context.skeleton
    # As it is, where nothing was changed, and no input is an initializer that is a constant by now.
    if graph.edited or len(model.graph.input) != len(graph.inputs) or _needs_resolving(context):
        model = Builder(context.payloads).model(model, graph)
    return _without(model, _statistics(graph))


def _statistics(graph: ModelGraph) -> set[str]:
    """The constants that a BatchNormalization alone reads: no shape follows from them, and they may be most of all."""
    return {
        name
        for op in graph.ops()
        if facts_of(op).role is Role.BATCHNORM and len(op.outputs) == 1
        for name in op.inputs[1:]
        if graph.use_count(name) == 1
    }


def _without(model: ModelProto, initializers: Collection[str]) -> ModelProto:
    """As much of the model as inference reads, without those initializers; the model itself where there are none."""
    if not initializers:
        return model
    copy = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    for field in ("node", "input", "output", "value_info", "sparse_initializer"):
        getattr(copy.graph, field).extend(getattr(model.graph, field))
    copy.graph.initializer.extend([tensor for tensor in model.graph.initializer if tensor.name not in initializers])
    return copy


def _body(context: Context, graph: ModelGraph) -> ModelProto:
    """A subgraph as a model of its own: what it captures is declared as its input, or is a constant of it."""
    builder = Builder(context.payloads)
    proto = builder.new_graph(graph)
    names = set(graph.params).union(value.name for value in graph.inputs)
    for op in graph.ops():
        for name in (*op.inputs, *op.captures):
            if name and name not in names and graph.producer(name) is None:
                names.add(name)
                _declare_outer(proto, builder, graph, name)
    skeleton = context.skeleton
    return ModelProto(
        ir_version=skeleton.ir_version,
        opset_import=skeleton.opset_import,
        functions=skeleton.functions,
        graph=proto,
    )


def _declare_outer(proto: GraphProto, builder: Builder, graph: ModelGraph, name: str) -> None:
    param = graph.constant(name)
    if param is None:
        proto.input.append(to_value_info(graph.tensor(name)))
    else:
        proto.initializer.append(builder.initializer(param.renamed(name)))
