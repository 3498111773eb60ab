"""LSTM, GRU and RNN: the input weights take in an affine that precedes them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bnfold.affine import Affine
from bnfold.graph import Param
from bnfold.operators.answers import Absorbed, NewWeights
from bnfold.operators.base import Conditions, Facts, Node, Role, channels_fit, register, vectors


@register("LSTM", "GRU", "RNN")
class Recurrent(Facts):
    """X [sequence, batch, in], W [directions, gates * hidden, in], B [directions, 2 * gates * hidden].

    The first half of B is the input's, so ``W (s x + t)`` puts ``W t`` there; GRU's
    ``linear_before_reset`` concerns the other half alone.
    """

    conditions = Conditions(absorb_input="of its data; weights constant; along the features, or uniform")
    role = Role.RECURRENT

    def absorb_input(self, node: Node, affines: Mapping[int, Affine]) -> Absorbed:
        weight = node.const(1)
        if set(affines) != {0}:
            return node.refuse("state", "gets the affine in its state, not in its input")
        if weight is None:
            return node.refuse("dynamic-weights", "has weights that are computed at run time")
        affine = affines[0]
        directions, rows, channels = weight.shape
        misfit = channels_fit(node, affine, 2, channels)
        if misfit is not None:
            return misfit
        scale, shift = vectors(affine, channels)
        inputs: dict[int, Param] = {}
        if not affine.is_shift:
            inputs[1] = weight.scaled(scale.reshape(1, 1, channels))
        if not affine.is_scale:
            bias = node.const(3)
            if node.has(3) and bias is None:
                return node.refuse("dynamic-bias", "has a bias that is computed at run time")
            total = np.zeros((directions, 2 * rows)) if bias is None else bias.exact().copy()
            total[:, :rows] += weight.exact() @ shift
            name = bias.name if bias is not None else f"{weight.name}_bias"
            inputs[3] = Param.of(name, total, weight.dtype if bias is None else bias.dtype)
        return NewWeights(inputs, channel_axis={1: 1})
