"""What operators share that work on each element alone and let an affine pass as it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from bnfold.affine import Affine, Vector
from bnfold.operators.answers import Crossing, Lifts, Sunk
from bnfold.operators.base import Conditions, KeepsShape, Node, Role
from bnfold.operators.convolution import Convolution
from bnfold.operators.pointwise import of_affine
from bnfold.refusal import Refusal


class Passing(KeepsShape):
    """One data input, one output of the same shape; an affine passes unchanged if ``allows`` lets it."""

    conditions = Conditions(cross="everything")
    grids = True

    def allows(self, node: Node, affine: Affine) -> Refusal | None:
        return None

    def lift(self, node: Node, affines: Mapping[int, Affine]) -> Lifts:
        if set(affines) != {0}:
            return self.blocks(node)
        return self.allows(node, affines[0]) or [Crossing({self.data_slot(node): affines[0]})]

    def sink(self, node: Node, affines: Mapping[int, Affine]) -> Sunk:
        slot = self.data_slot(node)
        if set(affines) != {slot}:
            return node.refuse("parameter", "gets the affine in an input that is not its data")
        return self.allows(node, affines[slot]) or Crossing({0: affines[slot]})


class Transparent(Passing):
    """Puts out what it is given, wherever ``allows`` lets anything pass."""

    def source_axis(self, node: Node, axis: int) -> int | None:
        return axis if self.allows(node, Affine.identity()) is None else None

    def convolution(self, node: Node) -> Convolution | None:
        nothing = Affine.identity()
        return None if self.allows(node, nothing) is not None else of_affine(node, nothing, macs_per_channel=0.0)


class Elementwise(KeepsShape):
    """``f(x)`` of each element alone. A channel that holds one number t everywhere holds f(t) behind it."""

    conditions = Conditions(sink="nothing but channels that hold one number")
    role = Role.ACTIVATION

    def value(self, node: Node, numbers: Vector) -> Vector | None:
        """f of these numbers, in float64; None where it cannot be told."""
        return None

    def constant_channels(self, node: Node, affine: Affine) -> Affine | None:
        """An affine on the input as the output carries it, if nothing but channels of scale 0 is changed by f.

        The others have to pass as they are, which is for the caller to know. None where f is not known.
        """
        dead = affine.scale == 0.0
        values = self.value(node, affine.shift[dead])
        if values is None or not np.isfinite(values).all():
            return None
        shift = affine.shift.copy()
        shift[dead] = values
        return replace(affine, shift=shift)

    def sink(self, node: Node, affines: Mapping[int, Affine]) -> Sunk:
        affine = affines.get(self.data_slot(node))
        if len(affines) == 1 and affine is not None and not affine.scale.all():
            live = affine.scale != 0.0
            if (affine.scale[live] == 1.0).all() and not affine.shift[live].any():
                behind = self.constant_channels(node, affine)
                if behind is not None:
                    return Crossing({0: behind})
        return self.blocks(node)


class Homogeneous(Passing, Elementwise):
    """``f(s x) = s f(x)`` for every s that is not negative, and for no shift."""

    conditions = Conditions(cross="a scale that is nowhere negative")
    role = Role.ACTIVATION

    def sink(self, node: Node, affines: Mapping[int, Affine]) -> Sunk:
        affine = affines.get(self.data_slot(node))
        if len(affines) == 1 and affine is not None and not affine.scale.all() and not affine.is_scale:
            live = replace(affine, shift=np.where(affine.scale == 0.0, 0.0, affine.shift))
            behind = self.constant_channels(node, affine)
            if behind is not None and self.allows(node, live) is None:
                return Crossing({0: behind})
        return Passing.sink(self, node, affines)

    def allows(self, node: Node, affine: Affine) -> Refusal | None:
        if not affine.is_scale:
            return node.refuse("nonlinear", "is nonlinear, so no shift passes")
        if (affine.scale < 0).any():
            return node.refuse("negative-scale", "tells positive from negative values, so no negative scale passes")
        return None
