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
    return [graph.op(use.op) for use in graph.uses(op.outputs[0])]


def _producers(graph: ModelGraph, op: Op) -> list[Op]:
    return [producer for tensor in op.inputs if (producer := graph.producer(tensor)) is not None]


def _arithmetic(graph: ModelGraph, op: Op) -> Affine | None:
    """The map that an arithmetic operator is with its constant, if it is one (a BatchNormalization is none)."""
    facts = facts_of(op)
    affine = None if facts.role is Role.BATCHNORM else facts.as_affine(Node(graph, op))
    return affine if isinstance(affine, Affine) else None


def _factor(graph: ModelGraph, op: Op) -> float | None:
    """The number that an operator multiplies by, if that is what it does."""
    affine = _arithmetic(graph, op)
    return float(affine.scale[0]) if affine is not None and affine.axis is None and affine.is_scale else None


def _gelu(graph: ModelGraph, nonlinear: Op) -> Iterator[str]:
    """``0.5 x (1 + erf(x / sqrt 2))`` and its tanh form, the half before, between or behind the product."""
    for one in _readers(graph, nonlinear):
        plus = _arithmetic(graph, one)
        if plus is None or not plus.is_shift or not (plus.shift == 1.0).all():
            continue
        yield one.name
        yield from (op.name for op in _producers(graph, nonlinear) if _factor(graph, op) is not None)
        for gate in _readers(graph, one):
            for product in [gate] if _factor(graph, gate) is None else _readers(graph, gate):
                beside = [*_producers(graph, product), *_readers(graph, product)]
                yield from (op.name for op in beside if _factor(graph, op) == 0.5)


def _layer_norm(graph: ModelGraph, root: Op) -> Iterator[str]:
    """``(x - mean) / sqrt(variance + epsilon)`` with variance and mean of x itself, then scale and bias."""
    reduced = [op.type for inside in _producers(graph, root) for op in _producers(graph, inside)]
    if "ReduceMean" not in reduced:
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
