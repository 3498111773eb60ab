"""What one operator does to a per-channel affine: a table of facts, one module a family.

The search asks four questions of an operator (:class:`bnfold.operators.base.Facts`): are you an
affine yourself; can your weights take one in; what is one on your output on your inputs; what is one
on your inputs on your output. Nothing outside this package knows an operator by name.
"""

from __future__ import annotations

from collections.abc import Iterator

from bnfold.affine import Affine
from bnfold.graph import ModelGraph, Op, Param, Use
from bnfold.operators.answers import NewOp, Rewrite
from bnfold.operators.base import Facts, Node, Role, dim_of, facts_about, facts_of, known_types, rank_of
from bnfold.operators.batchnorm import BatchNorm, batchnorm
from bnfold.operators.linear import LinearFacts
from bnfold.refusal import Refusal

__all__ = [
    "BatchNorm",
    "Facts",
    "NewOp",
    "Node",
    "Rewrite",
    "Role",
    "as_affine",
    "batchnorm",
    "dim_of",
    "facts_about",
    "facts_of",
    "known_types",
    "linear_bias",
    "rank_of",
    "role",
    "value_readers",
]


def role(op: Op, graph: ModelGraph) -> Role:
    """What an operator is to the placement of a BatchNormalization.

    Mul, Add, Sub and Div are affines or joins: only the ``graph`` can tell.
    """
    facts, node = facts_of(op), Node(graph, op)
    if facts.role is Role.JOIN and isinstance(facts.as_affine(node), Affine):
        return Role.AFFINE
    return facts.role_in(node)


def value_readers(graph: ModelGraph, tensor: str) -> Iterator[Use]:
    """The reads of a tensor that depend on its values: not those that ask for its shape alone."""
    for use in graph.uses(tensor):
        if use.slot is None or facts_of(graph.op(use.op)).reads_values(use.slot):
            yield use


def as_affine(graph: ModelGraph, op: Op) -> Affine | Refusal:
    """The per-channel affine that an operator is by itself, or why it is none.

    One that is none may become one, when more is known of the shapes around it.
    """
    known: Affine | Refusal | None = graph.recalled(op, "as_affine")
    if known is None:
        known = facts_of(op).as_affine(Node(graph, op))
        if isinstance(known, Affine):
            graph.remember(op, "as_affine", known)
    return known


def linear_bias(graph: ModelGraph, op: Op) -> Param | None:
    """The constant bias of a linear operator, None where it has none."""
    facts = facts_of(op)
    return facts.bias_param(Node(graph, op)) if isinstance(facts, LinearFacts) else None
