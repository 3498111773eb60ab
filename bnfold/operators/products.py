"""Matrix products of two tensors, both computed at run time: what passes to and from either of them.

``A B`` adds up over one axis of each. A scale that does not run along it passes: ``A (s B) = s (A B)``. A shift too
where the other matrix adds up to one there, as a softmax does: ``A (B + t) = A B + (sum of A) t = A B + t``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from bnfold.affine import Affine
from bnfold.graph import ModelGraph
from bnfold.operators.answers import Crossing, Lifts, Sunk
from bnfold.operators.base import Node, facts_of
from bnfold.refusal import Refusal

#: How many operators that only hand on are looked behind.
_MAX_WALK = 16


def adds_up_to_one(graph: ModelGraph, tensor: str, axis: int) -> bool:
    """Do the values of a tensor add up to one along an axis, wherever that is?"""
    for _ in range(_MAX_WALK):
        op = graph.producer(tensor)
        if op is None or op.outputs[0] != tensor:
            return False
        facts, node = facts_of(op), Node(graph, op)
        if facts.adds_up_to_one(node, axis):
            return True
        source = facts.source_axis(node, axis)
        if source is None:
            return False
        tensor, axis = op.input(facts.data_slot(node)), source
    return False


def lift_product(node: Node, affine: Affine) -> Lifts:
    """Either matrix carries what runs along axes of its own, a shift only beside one that adds up to one."""
    ranks = _ranks(node)
    if isinstance(ranks, Refusal):
        return ranks
    slots = list(range(2)) if affine.is_scale else list(_takers_of_shifts(node, ranks))
    if not slots:
        return node.refuse("product", "multiplies two tensors, so no shift passes")
    out = max(ranks)
    ways = []
    for slot in slots:
        others = out - 1 if slot == 0 else out - 2
        if all(axis != others and _is_full(node, slot, axis, size, ranks) for axis, size in affine.axes):
            ways.append(Crossing({slot: affine.shifted_axes(ranks[slot] - out)}))
    return ways or node.refuse("other-axis", "has no operand that lies along the affine's axis in full")


def sink_product(node: Node, affines: Mapping[int, Affine]) -> Sunk:
    """Scales multiply; a shift passes beside a matrix that adds up to one."""
    ranks = _ranks(node)
    if isinstance(ranks, Refusal):
        return ranks
    out, total = max(ranks), Affine.identity()
    for slot, affine in affines.items():
        if not affine.is_scale and (len(affines) > 1 or slot not in _takers_of_shifts(node, ranks)):
            return node.refuse("product", "multiplies two tensors, so no shift passes")
        contracted = ranks[slot] - (1 if slot == 0 else 2)
        if any(axis == contracted for axis, _ in affine.axes):
            return node.refuse("contracted-axis", "sums over the affine's axis")
        # One channel of a batch may meet several of the other operand's.
        affine = affine.as_uniform() if affine.size == 1 else affine
        moved = affine.shifted_axes(out - ranks[slot])
        if not total.composes(moved):
            return node.refuse("two-axes", "would carry affines along axes of both operands")
        total = total.then(moved)
    return Crossing({0: total})


def _ranks(node: Node) -> tuple[int, int] | Refusal:
    """The ranks of the operands, both of them at least 2."""
    left, right = node.rank(0) or 0, node.rank(1) or 0
    if min(left, right) < 2:
        return node.refuse("unknown-rank", "has an operand that is a single vector or of unknown rank")
    return left, right


def _takers_of_shifts(node: Node, ranks: tuple[int, int]) -> Iterator[int]:
    """The slots of the operands whose counterpart adds up to one, over at least one number."""
    for slot, other, axis in ((0, 1, ranks[1] - 2), (1, 0, ranks[0] - 1)):
        if node.dim(other, axis) != 0 and adds_up_to_one(node.graph, node.op.input(other), axis):
            yield slot


def _is_full(node: Node, slot: int, axis: int, size: int, ranks: tuple[int, int]) -> bool:
    """Has an operand an axis of the product, and is it not broadcast along it?"""
    own, free = axis - max(ranks) + ranks[slot], ranks[slot] - (2 if slot == 0 else 1)
    return own == free or (own >= 0 and node.dim(slot, own) == size)
