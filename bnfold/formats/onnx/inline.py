"""Model-local functions: those that hold something to fold are inlined, so that it can be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain

import onnx.inliner
from onnx import ModelProto, NodeProto

from bnfold.formats.onnx.attributes import bodies
from bnfold.formats.onnx.context import plain_domain
from bnfold.operators import facts_about

Key = tuple[str, str]


def inline_functions(model: ModelProto) -> ModelProto | None:
    """The model with its functions inlined that hold a foldable operator, at any depth; None where there are none.

    Functions that nothing calls any more are dropped.
    """
    chosen = _functions_to_inline(model)
    if not chosen:
        return None
    inlined = onnx.inliner.inline_selected_functions(_with_defaults(model), sorted(chosen))
    _drop_uncalled(inlined)
    return inlined


def unfolded_size(model: ModelProto) -> int:
    """How many operators there are once every call is replaced by its function's body, at any depth.

    Raises ValueError where functions call themselves.
    """
    calls = {(f.domain, f.name): Counter(_operators(f.node)) for f in model.functions}
    sizes: dict[Key, int] = {}
    waiting = list(calls)
    entered: set[Key] = set()
    while waiting:
        key = waiting[-1]
        inner = [name for name in calls[key] if name in calls and name not in sizes]
        if key not in sizes and inner:
            if key in entered:
                raise ValueError(f"its function {key[1]!r} calls itself")
            entered.add(key)
            waiting += inner
            continue
        waiting.pop()
        sizes[key] = sum(count * sizes.get(name, 1) for name, count in calls[key].items())
    return sum(sizes.get(name, 1) for name in _operators(model.graph.node))


def _functions_to_inline(model: ModelProto) -> set[Key]:
    calls = {(f.domain, f.name): set(_operators(f.node)) for f in model.functions}
    chosen = {
        key for key, inner in calls.items() if any(facts_about(name, domain).is_foldable for domain, name in inner)
    }
    grown = bool(chosen)
    while grown:
        callers = {key for key, inner in calls.items() if key not in chosen and inner & chosen}
        chosen |= callers
        grown = bool(callers)
    return chosen


def _with_defaults(model: ModelProto) -> ModelProto:
    """The model with every call giving the attributes whose default it relied on: onnx's inliner knows no defaults."""
    defaults = {(plain_domain(f.domain), f.name): f.attribute_proto for f in model.functions if f.attribute_proto}
    if not defaults:
        return model
    filled = ModelProto()
    filled.CopyFrom(model)
    for node in _nodes(chain(filled.graph.node, *(f.node for f in filled.functions))):
        given = {attribute.name for attribute in node.attribute}
        expected = defaults.get((plain_domain(node.domain), node.op_type), ())
        node.attribute.extend(default for default in expected if default.name not in given)
    return filled


def _nodes(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """The nodes and those in their subgraphs."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for _, body in bodies(attribute):
                yield from _nodes(body.node)


def _operators(nodes: Iterable[NodeProto]) -> Iterator[Key]:
    """Domain and type of every operator, those in subgraphs included."""
    return ((plain_domain(node.domain), node.op_type) for node in _nodes(nodes))


def _drop_uncalled(model: ModelProto) -> None:
    calls = {(f.domain, f.name): set(_operators(f.node)) for f in model.functions}
    needed: set[Key] = set()
    waiting = [key for key in set(_operators(model.graph.node)) if key in calls]
    while waiting:
        key = waiting.pop()
        if key not in needed:
            needed.add(key)
            waiting += [inner for inner in calls[key] if inner in calls]
    kept = [f for f in model.functions if (f.domain, f.name) in needed]
    if len(kept) != len(model.functions):
        del model.functions[:]
        model.functions.extend(kept)
