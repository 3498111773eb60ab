"""A model as a list of layers, one line each, and the difference of two such lists."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence

from bnfold.graph import ModelGraph, Op
from bnfold.operators import Role, role
from bnfold.operators.dialect import dialect_of
from bnfold.operators.patterns import bias_slot, sole_reader


def listing(graph: ModelGraph) -> list[str]:
    """``dense_1  Dense, tanh, no bias`` for every call of a layer, in the order of the graph."""
    lines: list[str] = []
    fused: set[str] = set()
    for op in graph.ops():
        if op.name in fused:
            continue
        activation = _fused(graph, op)
        if activation is not None:
            fused.add(activation.name)
        lines.append(f"{_name(op)}  {', '.join(_words(graph, op, activation))}")
    return lines


def difference(before: Sequence[str], after: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Every line of both lists with what became of it: ``" "``, ``"-"`` or ``"+"``, the old ones first."""
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    for tag, start, stop, first, last in matcher.get_opcodes():
        if tag == "equal":
            yield from ((" ", line) for line in before[start:stop])
        else:
            yield from (("-", line) for line in before[start:stop])
            yield from (("+", line) for line in after[first:last])


def _fused(graph: ModelGraph, op: Op) -> Op | None:
    """The activation that is one layer with this operator."""
    reader = sole_reader(graph, op.outputs[0])
    same = reader is not None and op.origin and reader.origin == op.origin
    return reader if same and role(op, graph) is not Role.ACTIVATION else None


def _name(op: Op) -> str:
    """The layer's name; an activation that was taken out of a layer has one of its own by then."""
    return f"{op.origin}_activation" if op.name.endswith("/activation") else op.display


def _words(graph: ModelGraph, op: Op, activation: Op | None) -> Iterator[str]:
    kind = role(op, graph)
    yield op.type
    if kind is Role.ACTIVATION and dialect_of(graph).word(op) != op.type:
        yield dialect_of(graph).word(op)
    if activation is not None:
        yield dialect_of(graph).word(activation)
    slot = bias_slot(op)
    if slot is not None and not op.input(slot):
        yield "no bias"
    if kind is Role.BATCHNORM:
        yield f"axis {op.attributes['axis']}"
