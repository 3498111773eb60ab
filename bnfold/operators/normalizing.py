"""Normalisations: their own scale and bias take in an affine that follows, and they take away a shift that precedes."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from bnfold.affine import Affine
from bnfold.graph import Param
from bnfold.operators.answers import Absorbed, Crossing, NewWeights, Sunk
from bnfold.operators.base import NEVER, Conditions, Facts, Node, channels_fit, vectors

#: The end of a range of axes that goes up to the last one.
BEYOND = 1 << 10


def axes_from(axis: int, rank: int | None) -> Collection[int]:
    """This axis and all behind it; all there are, where it may count from an end that is not known."""
    return range(axis % rank, BEYOND) if rank else range(BEYOND)


def is_cancelled(affines: Mapping[int, Affine], over: Collection[int]) -> bool:
    """Is this a shift of the data that is the same all over the axes ``over``, and so is taken away again?

    A scale is not taken away: epsilon is added to the scaled variance.
    """
    return set(affines) == {0} and affines[0].is_shift and affines[0].axis not in over


class Normalization(Facts):
    """Takes away the mean over some axes, and a shift with it; then applies its scale and its bias."""

    conditions = Conditions(
        absorb_output="parameters constant; along the axis of its scale, or uniform",
        sink="a shift that is the same along the normalised axes vanishes",
    )
    normalizes = True

    def over(self, node: Node) -> Collection[int] | None:
        """The axes whose mean it takes away; None where somebody sees the mean."""
        raise AssertionError("every normalisation has its own")

    def channel_axis(self, node: Node) -> int | None:
        """The axis along which a scale runs that is a vector; None where it is not known."""
        raise AssertionError("every normalisation has its own")

    def absorb_output(self, node: Node, affine: Affine) -> Absorbed:
        gamma, beta = node.const(1), node.const(2)
        if (node.has(1) and gamma is None) or (node.has(2) and beta is None):
            return node.refuse("dynamic-parameters", "has parameters that are computed at run time")
        known = gamma or beta
        if known is None:
            return node.refuse("no-parameters", "has neither scale nor bias")
        if len(known.shape) != 1:
            return node.refuse("other-axis", "has a scale that runs over more than one axis")
        misfit = channels_fit(node, affine, self.channel_axis(node), known.size)
        if misfit is not None:
            return misfit
        scale, shift = vectors(affine, known.size)
        inputs: dict[int, Param] = {}
        if not affine.is_shift:
            name, own = (f"{node.op.outputs[0]}_scale", np.ones(1)) if gamma is None else (gamma.name, gamma.exact())
            inputs[1] = Param.of(name, own * scale, known.dtype)
        if beta is not None:
            inputs[2] = Param.of(beta.name, beta.exact() * scale + shift, beta.dtype)
        elif not affine.is_scale:
            inputs[2] = Param.of(f"{node.op.outputs[0]}_bias", shift, known.dtype)
        return NewWeights(inputs)

    def sink(self, node: Node, affines: Mapping[int, Affine]) -> Sunk:
        over = self.over(node)
        if over is None or not is_cancelled(affines, over):
            return node.refuse("normalised", "takes away a shift along its axes, and lets no other affine through")
        return Crossing({})


class RootMeanSquare(Normalization):
    """What divides by the root of the mean square alone: it takes no mean away, and has a scale and no bias."""

    conditions = Conditions(absorb_output="scale constant; a scale along its axis, or uniform", sink=NEVER)

    def absorb_output(self, node: Node, affine: Affine) -> Absorbed:
        if not affine.is_scale:
            return node.refuse("no-bias", "has a scale and no bias")
        return super().absorb_output(node, affine)

    def sink(self, node: Node, affines: Mapping[int, Affine]) -> Sunk:
        return node.refuse("normalised", "divides by the size of its input, and lets no affine through")
