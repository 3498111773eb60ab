"""Tensors beside each other along an axis: an affine over all of them is one slice a part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from bnfold.affine import Affine, concatenate
from bnfold.operators.answers import Crossing, Lifts, Sunk
from bnfold.operators.base import Combination, Conditions, Facts, Node, Role
from bnfold.refusal import Refusal


def axis_of(node: Node, default: int) -> int | None:
    """The attribute ``axis``, counted from the left; None where that takes a rank that is not known."""
    axis, rank = int(node.attr("axis", default)), node.rank(0)
    if axis < 0:
        return None if rank is None else axis + rank
    return axis


def parts_of(affine: Affine, sizes: Sequence[int | None]) -> list[Affine] | None:
    """Slices of an affine, one for each of the consecutive ``sizes``; None where they are not all of it."""
    parts, start = [], 0
    for size in sizes:
        if size is None:
            return None
        parts.append(simplified(affine.take(slice(start, start + size))))
        start += size
    return parts if start == affine.size else None


def simplified(affine: Affine) -> Affine:
    return affine.as_uniform() if affine.size and affine.is_uniform else affine


def joined_parts(node: Node, parts: Mapping[int, Affine], sizes: Sequence[int | None], axis: int) -> Affine | Refusal:
    """One affine over consecutive parts along ``axis``; the same one for all may run along another axis.

    ``parts`` are by number; those left out carry none.
    """
    first = next(iter(parts.values()))
    if len(parts) == len(sizes) and first.axis != axis and all(part.same_as(first) for part in parts.values()):
        return first
    if any(part.axis not in (None, axis) for part in parts.values()):
        return node.refuse("unequal-parts", "has parts that do not carry the same affine along the same axis")
    known = known_sizes(sizes)
    if known is None or any(part.size not in (1, known[index]) for index, part in parts.items()):
        return node.refuse("unknown-shape", f"has parts of unknown size along axis {axis}")
    return simplified(concatenate(parts, known, axis))


def known_sizes(sizes: Sequence[int | None]) -> Sequence[int] | None:
    """The sizes, where all are known."""
    return None if None in sizes else cast(Sequence[int], sizes)


class Concat(Facts):
    """Along the joined axis each part has its slice, along another one all parts have the same map."""

    conditions = Conditions(
        lift="along the joined axis, one slice to each part of known size; else the same to all parts",
        sink="along the joined axis from parts of known size; else only what all parts carry alike",
    )
    role = Role.JOIN
    combination = Combination.CONCATENATION

    def lift(self, node: Node, affines: Mapping[int, Affine]) -> Lifts:
        affine, axis = affines[0], axis_of(node, 1)
        slots = range(len(node.op.inputs))
        if affine.axis is None:
            return [Crossing(dict.fromkeys(slots, affine))]
        if axis is None:
            return node.refuse("unknown-rank", "joins tensors of unknown rank")
        if affine.axis != axis:
            return [Crossing(dict.fromkeys(slots, affine))]
        parts = parts_of(affine, self.sizes(node, axis))
        if parts is None:
            return node.refuse("unknown-shape", f"joins parts of unknown size along axis {axis}")
        return [Crossing(dict(enumerate(parts)))]

    def sink(self, node: Node, affines: Mapping[int, Affine]) -> Sunk:
        axis = axis_of(node, 1)
        if axis is None:
            return node.refuse("unknown-rank", "joins tensors of unknown rank")
        joined = joined_parts(node, affines, self.sizes(node, axis), axis)
        return joined if isinstance(joined, Refusal) else Crossing({0: joined})

    @staticmethod
    def sizes(node: Node, axis: int) -> Sequence[int | None]:
        """The sizes of the parts, found once: each of a thousand parts may ask for all of them."""
        known: Sequence[int | None] | None = node.graph.recalled(node.op, "sizes")
        if known is None:
            slots = range(len(node.op.inputs))
            known = known_sizes([node.dim(slot, axis) for slot in slots])
            if known is None:
                return [None] * len(slots)
            node.graph.remember(node.op, "sizes", known)
        return known
