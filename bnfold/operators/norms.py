"""Normalisations with a scale and a bias of their own, which take in an affine that follows."""

from __future__ import annotations

from bnfold.affine import Affine
from bnfold.graph import Param
from bnfold.operators.base import Absorbed, Facts, Node, Rewrite, channels_fit, register, vectors


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


@register("InstanceNormalization", "GroupNormalization")
class InstanceNormalization(Facts):
    """Scale and bias by channel, on axis 1."""

    def absorb_output(self, node: Node, affine: Affine) -> Absorbed:
        gamma = node.const(1)
        if gamma is None or len(gamma.shape) != 1:
            return node.refuse("dynamic-parameters", "has parameters that are computed at run time")
        return channels_fit(node, affine, 1, gamma.size) or _rescaled(node, affine, gamma.size, 1, 2)


@register("LayerNormalization")
class LayerNormalization(Facts):
    """Over the last axis alone: its scale and bias run along it."""

    def absorb_output(self, node: Node, affine: Affine) -> Absorbed:
        rank, gamma = node.rank(0), node.const(1)
        axis = int(node.attr("axis", -1))
        if gamma is None or node.used(1) or node.used(2):
            return node.refuse("dynamic-parameters", "has parameters that are computed at run time, or more outputs")
        if len(gamma.shape) != 1 or rank is None or axis % rank != rank - 1:
            return node.refuse("other-axis", "normalises over more than the last axis")
        return channels_fit(node, affine, rank - 1, gamma.size) or _rescaled(node, affine, gamma.size, 1, 2)
