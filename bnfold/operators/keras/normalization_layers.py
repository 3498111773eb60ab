"""Keras's normalisations by statistics of their own input."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from bnfold.affine import Affine
from bnfold.operators.answers import Absorbed, Crossing, Sunk
from bnfold.operators.base import NEVER, Conditions, Facts, Node, register
from bnfold.operators.keras.layer import DOMAIN, shape_of
from bnfold.operators.normalizing import Normalization, RootMeanSquare


@register("LayerNormalization", domain=DOMAIN)
class LayerNormalization(Normalization):
    """Over ``axis``, one or several; gamma and beta in slots 1 and 2, with the shape of these axes."""

    def over(self, node: Node) -> Collection[int] | None:
        # That of older versions divides by the deviation, but takes no mean away.
        return None if node.attr("rms_scaling") else _axes(node)

    def channel_axis(self, node: Node) -> int | None:
        return _axes(node)[0]

    def absorb_output(self, node: Node, affine: Affine) -> Absorbed:
        if node.attr("rms_scaling"):
            return node.refuse("no-bias", "scales by the root mean square and may leave its bias out")
        return super().absorb_output(node, affine)


def _axes(node: Node) -> tuple[int, ...]:
    axis = node.attr("axis")
    return tuple(axis) if isinstance(axis, tuple) else (axis,)


@register("GroupNormalization", domain=DOMAIN)
class GroupNormalization(Normalization):
    """Over groups of the channels and all axes but the batch; gamma and beta by channel in slots 1 and 2."""

    conditions = Conditions(sink="a shift that is the same all over each group vanishes")

    def over(self, node: Node) -> Collection[int]:
        return range(1, len(shape_of(node.graph, node.op.input(0))))

    def channel_axis(self, node: Node) -> int | None:
        return int(node.attr("axis"))

    def sink(self, node: Node, affines: Mapping[int, Affine]) -> Sunk:
        affine, groups = affines.get(0), int(node.attr("groups"))
        if affine is not None and affine.axis == self.channel_axis(node) and affine.is_shift and len(affines) == 1:
            shifts = affine.shift.reshape(groups, -1)
            if np.array_equal(shifts, np.broadcast_to(shifts[:, :1], shifts.shape)):
                return Crossing({})
        return super().sink(node, affines)


@register("RMSNormalization", domain=DOMAIN)
class RMSNormalization(RootMeanSquare, LayerNormalization):
    """Divides by the root of the mean square over ``axis``, then scales by slot 1; it has no bias."""

    conditions = Conditions(absorb_output="a scale along its axis, or uniform", sink=NEVER)


@register("SpectralNormalization", "UnitNormalization", domain=DOMAIN)
class OtherNormalization(Facts):
    """Nothing passes."""

    normalizes = True
