"""Where an affine's axes go when axes are renamed, split and merged."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise
from math import prod
from operator import attrgetter
from typing import NamedTuple

import numpy as np

from bnfold.affine import MAX_CHANNELS, Affine
from bnfold.graph import Shape
from bnfold.operators.answers import Crossing, Lifts, Sunk
from bnfold.operators.base import Conditions, Facts, Node, Role
from bnfold.refusal import Refusal


class Rearrangement(Facts):
    """One data input and one output that hold the same elements in another arrangement."""

    conditions = Conditions(cross="everything, its axes renamed")
    role = Role.SHAPE
    grids = True

    def up(self, node: Node, affine: Affine) -> Affine | Refusal:
        """An affine on the output, on the input."""
        raise AssertionError("every rearrangement has its own")

    def down(self, node: Node, affine: Affine) -> Affine | Refusal:
        """An affine on the input, on the output."""
        raise AssertionError("every rearrangement has its own")

    def lift(self, node: Node, affines: Mapping[int, Affine]) -> Lifts:
        moved = affines[0] if affines[0].axis is None else self.up(node, affines[0])
        return moved if isinstance(moved, Refusal) else [Crossing({0: moved})]

    def sink(self, node: Node, affines: Mapping[int, Affine]) -> Sunk:
        if set(affines) != {0}:
            return node.refuse("parameter", "gets the affine in an input that is not its data")
        moved = affines[0] if affines[0].axis is None else self.down(node, affines[0])
        return moved if isinstance(moved, Refusal) else Crossing({0: moved})


def rename_axes(affine: Affine, new: Mapping[int, int] | Sequence[int]) -> Affine:
    """Axis a becomes axis ``new[a]``."""
    axes, scale, shift = affine.arrays()
    return Affine.over([new[axis] for axis in axes], scale, shift)


class _Factor(NamedTuple):
    """A part of an axis of the source that is a part of an axis of the target too."""

    source: int
    target: int
    size: int


def regroup(affine: Affine, source: Shape, target: Shape) -> Affine | None:
    """The affine after a reshape from ``source`` to ``target`` shape; None where it cannot be told.

    Both shapes are cut into common factors, from the left as long as axes are the same, then from
    the right as long as sizes are known, of which one may follow from the others. An affine axis that
    is split becomes a grid over its factors; factors that are merged repeat the affine over those it
    does not vary along. Exact comparison then drops what does not vary, so a split and a merge undo
    each other.
    """
    same = [a is not None and a == b for a, b in zip(source, target, strict=False)]
    left = [*same, False].index(False)
    source, target = _completed(source, target[left:], left), _completed(target, source[left:], left)
    factors = _common_factors(source, target, left)
    sizes = dict(affine.axes)
    if any(axis >= left and prod(f.size for f in factors if f.source == axis) != size for axis, size in sizes.items()):
        return None
    # One dimension for each common leading axis and each factor, 1 where the affine does not vary.
    split = [sizes.get(axis, 1) for axis in range(left)]
    split += [factor.size if factor.source in sizes else 1 for factor in factors]
    merged, reach = split[:left], split[:left]
    targets = list(range(left))
    for axis, parts in groupby(factors, key=attrgetter("target")):
        members = list(parts)
        # Within one target axis every factor is needed in full as soon as one varies.
        varies = any(factor.source in sizes for factor in members)
        if varies and prod(factor.size for factor in members) != target[axis]:
            return None  # part of the axis lies beyond the known factors
        spread = [factor.size if varies else 1 for factor in members]
        targets.append(axis)
        reach += spread
        merged.append(prod(spread))
    if prod(reach) > MAX_CHANNELS:
        return None
    scale, shift = (
        np.broadcast_to(vector.reshape(split), reach).reshape(merged) for vector in (affine.scale, affine.shift)
    )
    return Affine.over(targets, scale, shift)


def _completed(shape: Shape, rest: Shape, left: int) -> Shape:
    """The shape, the one size from ``left`` on that is not known told by the other shape's ``rest``: they hold as many
    elements.
    """
    unknown = [axis for axis in range(left, len(shape)) if not isinstance(shape[axis], int)]
    sizes = [dim for dim in rest if isinstance(dim, int) and dim > 0]
    own = prod(dim for dim in shape[left:] if isinstance(dim, int))
    if len(unknown) != 1 or len(sizes) != len(rest) or not own or prod(sizes) % own:
        return shape
    return (*shape[: unknown[0]], prod(sizes) // own, *shape[unknown[0] + 1 :])


def _common_factors(source: Shape, target: Shape, left: int) -> list[_Factor]:
    """What the axes from ``left`` on are both made of, outermost first, as far from the right as it is known."""
    own, other = _places(source[left:]), _places(target[left:])
    reach = min(own[-1], other[-1])
    factors = []
    for inner, outer in pairwise(sorted({place for place in (*own, *other) if place <= reach})):
        if outer % inner:
            break
        # The last axis that begins there: those before it have size 1.
        axes = len(source) - bisect_right(own, inner), len(target) - bisect_right(other, inner)
        factors.append(_Factor(*axes, outer // inner))
    return factors[::-1]


def _places(shape: Shape) -> list[int]:
    """How many elements lie apart along each axis, from the right, as long as sizes are known."""
    places = [1]
    for dim in reversed(shape):
        if not isinstance(dim, int) or dim < 1:
            break
        places.append(places[-1] * dim)
    return places
