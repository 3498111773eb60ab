"""Normalisations: their own scale and bias take in an affine that follows, and they take away a shift that precedes."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from bnfold.affine import Affine
from bnfold.graph import Param
from bnfold.operators.base import (
    Absorbed,
    Crossing,
    Facts,
    KeepsShape,
    Node,
    Rewrite,
    Role,
    Sunk,
    channels_fit,
    register,
    vectors,
)

#: The end of a range of axes that goes up to the last one.
_BEYOND = 1 << 10


def _rescaled(node: Node, affine: Affine, channels: int, scale_slot: int, bias_slot: int) -> Absorbed:
    gamma, beta = node.const(scale_slot), node.const(bias_slot)
    if gamma is None or (node.has(bias_slot) and beta is None):
        return node.refuse("dynamic-parameters", "has parameters that are computed at run time")
    scale, shift = vectors(affine, channels)
    inputs: dict[int, Param] = {}
    if not affine.is_shift:
        inputs[scale_slot] = Param.of(gamma.name, gamma.exact() * scale, gamma.dtype)
    if beta is not None:
        inputs[bias_slot] = Param.of(beta.name, beta.exact() * scale + shift, beta.dtype)
    elif shift.any():
        inputs[bias_slot] = Param.of(f"{node.op.outputs[0]}_bias", shift, gamma.dtype)
    return Rewrite(inputs)


def _cancelled(affines: Mapping[int, Affine], over: Collection[int]) -> bool:
    """Is this a shift of the data that is the same all over the axes ``over``, and so is taken away again?

    A scale is not taken away: epsilon is added to the scaled variance.
    """
    return set(affines) == {0} and affines[0].is_shift and affines[0].axis not in over


class Normalization(Facts):
    """Takes away the mean over some axes, and a shift with it."""

    def over(self, node: Node) -> Collection[int] | None:
        """The axes whose mean it takes away; None where they are not known."""
        raise AssertionError("every normalisation has its own")

    def sink(self, node: Node, affines: Mapping[int, Affine]) -> Sunk:
        over = self.over(node)
        if over is None or not _cancelled(affines, over):
            return node.refuse("normalised", "takes away a shift along its axes, and lets no other affine through")
        return Crossing({})


@register("InstanceNormalization")
class InstanceNormalization(Normalization):
    """Over all axes behind the channels; scale and bias by channel, on axis 1."""

    def over(self, node: Node) -> Collection[int]:
        return range(2, _BEYOND)

    def absorb_output(self, node: Node, affine: Affine) -> Absorbed:
        gamma = node.const(1)
        if gamma is None or len(gamma.shape) != 1:
            return node.refuse("dynamic-parameters", "has parameters that are computed at run time")
        return channels_fit(node, affine, 1, gamma.size) or _rescaled(node, affine, gamma.size, 1, 2)


@register("GroupNormalization")
class GroupNormalization(InstanceNormalization):
    """Over groups of channels and all axes behind them."""

    def over(self, node: Node) -> Collection[int]:
        return range(1, _BEYOND)


@register("LayerNormalization")
class LayerNormalization(Normalization):
    """Over the last axes. Scale and bias that run along the last axis alone take in an affine."""

    def over(self, node: Node) -> Collection[int] | None:
        axis, rank = int(node.attr("axis", -1)), node.rank(0)
        if node.used(1) or (axis < 0 and rank is None):  # the mean is an output too
            return None
        return range(axis if rank is None else axis % rank, _BEYOND)

    def absorb_output(self, node: Node, affine: Affine) -> Absorbed:
        rank, gamma = node.rank(0), node.const(1)
        axis = int(node.attr("axis", -1))
        if gamma is None or node.used(1) or node.used(2):
            return node.refuse("dynamic-parameters", "has parameters that are computed at run time, or more outputs")
        if len(gamma.shape) != 1 or rank is None or axis % rank != rank - 1:
            return node.refuse("other-axis", "normalises over more than the last axis")
        return channels_fit(node, affine, rank - 1, gamma.size) or _rescaled(node, affine, gamma.size, 1, 2)


@register("Softmax", "LogSoftmax")
class Softmax(KeepsShape):
    """``exp(x)`` divided by its sum: a factor of all of them, which a shift of x is, changes nothing."""

    role = Role.ACTIVATION

    def sink(self, node: Node, affines: Mapping[int, Affine]) -> Sunk:
        over = self._over(node)
        return Crossing({}) if over is not None and _cancelled(affines, over) else self.blocks(node)

    def _over(self, node: Node) -> Collection[int] | None:
        axis, rank = int(node.attr("axis", -1 if node.opset >= 13 else 1)), node.rank(0)
        if axis < 0:
            if rank is None:
                return None
            axis += rank
        # Before opset 13 the input counts as a matrix: all axes from this one on are one.
        return (axis,) if node.opset >= 13 else range(axis, _BEYOND)
