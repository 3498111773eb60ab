"""What operators share that work on each element alone and let an affine pass as it is."""

from __future__ import annotations

from collections.abc import Mapping

from bnfold.affine import Affine
from bnfold.operators.base import Crossing, KeepsShape, Lifts, Node, Role, Sunk
from bnfold.operators.convolution import Convolution, of_affine
from bnfold.refusal import Refusal


class Passing(KeepsShape):
    """One data input, one output of the same shape; an affine passes unchanged if ``allows`` lets it."""

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

    def convolution(self, node: Node) -> Convolution | None:
        nothing = Affine.identity()
        return None if self.allows(node, nothing) is not None else of_affine(node, nothing, macs_per_channel=0.0)


class Homogeneous(Passing):
    """``f(s x) = s f(x)`` for every s that is not negative, and for no shift."""

    role = Role.ACTIVATION

    def allows(self, node: Node, affine: Affine) -> Refusal | None:
        if not affine.is_scale:
            return node.refuse("nonlinear", "is nonlinear, so no shift passes")
        if (affine.scale < 0).any():
            return node.refuse("negative-scale", "tells positive from negative values, so no negative scale passes")
        return None
