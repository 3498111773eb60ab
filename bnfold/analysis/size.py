"""How large is a model? Counts over a graph and its subgraphs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bnfold.affine import Affine
from bnfold.graph import ModelGraph, Op, Param, walk
from bnfold.operators import Facts, Role, as_affine, facts_of
from bnfold.operators.patterns import is_bias_add


@dataclass(frozen=True, slots=True)
class Size:
    """What a model holds: operators, BN, other per-channel affines, parameters and their bytes.

    ``parameters`` are the elements of floating-point and quantised constants that some operator
    reads; shapes and indices do not count.
    """

    nodes: int = 0
    batchnorms: int = 0
    affines: int = 0
    parameters: int = 0
    bytes: int = 0

    def to_dict(self) -> dict[str, int]:
        return {
            "nodes": self.nodes,
            "batchnorms": self.batchnorms,
            "affines": self.affines,
            "parameters": self.parameters,
            "bytes": self.bytes,
        }


def measure(graph: ModelGraph) -> Size:
    """Operators, BN, other affines and parameters of a graph and everything inside it."""
    nodes = batchnorms = affines = 0
    params: dict[int, Param] = {}
    for inner in walk(graph):
        for op in inner.ops():
            facts = facts_of(op)
            nodes += not facts.is_border
            kind = _kind(inner, op, facts)
            batchnorms += kind is Role.BATCHNORM
            affines += kind is Role.AFFINE
        params.update({id(param): param for param in _read_params(inner)})
    weights = [(param.size, param.dtype.itemsize) for param in params.values() if is_weight(param)]
    sizes = sum(size for size, _ in weights), sum(size * itemsize for size, itemsize in weights)
    return Size(nodes, batchnorms, affines, *sizes)


def is_weight(param: Param) -> bool:
    """A number that was trained or measured, not a shape or an index."""
    return param.is_float or param.dtype.itemsize == 1


def _read_params(graph: ModelGraph) -> Iterable[Param]:
    return [param for name, param in graph.params.items() if graph.is_used(name)]


def _kind(graph: ModelGraph, op: Op, facts: Facts) -> Role:
    """BATCHNORM, AFFINE for a Mul or Add by a vector (not by a number, nor a layer's bias), or OTHER."""
    if facts.role is Role.BATCHNORM:
        return Role.BATCHNORM
    if facts.role not in (Role.AFFINE, Role.JOIN):
        return Role.OTHER
    if facts.role is Role.JOIN and not _has_vector(graph, op):
        return Role.OTHER  # by numbers, or a join of tensors: the rule, and found out faster than the affine
    affine = as_affine(graph, op)
    by_channel = isinstance(affine, Affine) and affine.axis is not None
    return Role.AFFINE if by_channel and not is_bias_add(graph, op) else Role.OTHER


def _has_vector(graph: ModelGraph, op: Op) -> bool:
    """Has it a constant operand of more than one number?"""
    for tensor in reversed(op.inputs):  # the constant is the second one as a rule
        param = graph.constant(tensor)
        if param is not None and param.size > 1:
            return True
    return False
