"""Composite functions that exporters write out and runtimes recognise again: GELU and layer normalisation.

A runtime executes such a group as one operator. The constants inside belong to the function: moving
one of them elsewhere would save an operator in the file and cost four in the runtime.
"""

from __future__ import annotations

from collections.abc import Iterator

from bnfold.affine import Affine
from bnfold.graph import ModelGraph, Op
from bnfold.operators.base import Node, Role, facts_of


def idiom_members(graph: ModelGraph) -> frozenset[str]:
    """The affine operators that are parts of a composite function."""
    members: set[str] = set()
    for op in graph.ops():
        if op.domain:
            continue
        if op.type in ("Erf", "Tanh"):
            members.update(_gelu(graph, op))
        elif op.type in ("Sqrt", "Pow"):
            members.update(_layer_norm(graph, op))
    return frozenset(members)


def _readers(graph: ModelGraph, op: Op) -> list[Op]:
    return [graph.op(use.op) for use in graph.uses(op.outputs[0]) if use.slot >= 0]


def _uniform(graph: ModelGraph, op: Op | None) -> Affine | None:
    """The scalar map that an operator is, if it is one."""
    affine = _arithmetic(graph, op)
    return affine if affine is not None and affine.axis is None else None


def _arithmetic(graph: ModelGraph, op: Op | None) -> Affine | None:
    """The map that an arithmetic operator is with its constant, if it is one (a BatchNormalization is none)."""
    if op is None or facts_of(op).role not in (Role.AFFINE, Role.JOIN):
        return None
    affine = facts_of(op).as_affine(Node(graph, op))
    return affine if isinstance(affine, Affine) else None


def _gelu(graph: ModelGraph, nonlinear: Op) -> Iterator[str]:
    """``0.5 x (1 + erf(x / sqrt 2))`` and its tanh form, the half before, between or behind the product."""
    for one in _readers(graph, nonlinear):
        plus = _uniform(graph, one)
        if plus is None or not plus.is_shift or float(plus.shift[0]) != 1.0:
            continue
        yield one.name
        inside = graph.producer(nonlinear.input(0))
        if inside is not None and _uniform(graph, inside) is not None:
            yield inside.name
        for gate in _readers(graph, one):
            half = _uniform(graph, gate)
            if half is not None:
                yield gate.name
            for product in _readers(graph, gate) if half is not None else [gate]:
                yield from _halves(graph, product)


def _halves(graph: ModelGraph, product: Op) -> Iterator[str]:
    """Multiplications by one half next to the product of a GELU."""
    beside = [graph.producer(tensor) for tensor in product.inputs]
    for op in [*beside, *_readers(graph, product)]:
        affine = _uniform(graph, op)
        if op is not None and affine is not None and affine.is_scale and abs(float(affine.scale[0]) - 0.5) < 1e-6:
            yield op.name


def _layer_norm(graph: ModelGraph, root: Op) -> Iterator[str]:
    """``(x - mean) / sqrt(variance + epsilon)`` with variance and mean of x itself, then scale and bias."""
    inside = graph.producer(root.input(0))
    reduced = None if inside is None else [graph.producer(tensor) for tensor in inside.inputs]
    if not any(op is not None and op.type == "ReduceMean" for op in reduced or []):
        return
    for quotient in _readers(graph, root):
        scaled = [quotient, *_readers(graph, quotient)] if quotient.type in ("Div", "Mul") else []
        for op in scaled:
            if _arithmetic(graph, op) is None:
                continue
            yield op.name
            for bias in _readers(graph, op):
                affine = _arithmetic(graph, bias)
                if affine is not None and affine.is_shift:
                    yield bias.name
