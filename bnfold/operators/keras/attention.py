"""Keras's MultiHeadAttention: its projections take in what comes before and behind."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bnfold.affine import Affine, Vector
from bnfold.graph import Param
from bnfold.operators.answers import Absorbed, NewWeights
from bnfold.operators.base import Conditions, Facts, Node, channels_fit, register, vectors
from bnfold.operators.keras.layer import DOMAIN, channel_axis, weight_of

#: The slots of the kernels of the projections that read, and of the one that writes; behind each is its bias.
_READING = {"query": 1, "key": 3, "value": 5}
_WRITING = 7


@register("MultiHeadAttention", domain=DOMAIN)
class MultiHeadAttention(Facts):
    """Kernels [in, heads, size] of what reads query, key and value, and [heads, size, out] of what writes.

    ``tensors`` says what each of the tensors is that it is called on; where no key is given the values are the keys.
    """

    conditions = Conditions(
        absorb_output="along the last axis, or uniform; a shift only with biases; without scores as a second output",
        absorb_input="of query, key and value, along their last axis, or uniform; a shift only with biases",
    )

    def absorb_input(self, node: Node, affines: Mapping[int, Affine]) -> Absorbed:
        slots = self._slots(node)
        if not set(affines) <= set(slots.values()):
            return node.refuse("dynamic-weights", "gets the affine in a mask")
        inputs: dict[int, Param] = {}
        for name, slot in _READING.items():
            affine, kernel = affines.get(slots[name], Affine.identity()), weight_of(node, slot)
            misfit = channels_fit(node, affine, channel_axis(node), kernel.shape[0])
            if misfit is not None:
                return misfit
            scale, shift = vectors(affine, kernel.shape[0])
            if not affine.is_shift:
                inputs[slot] = kernel.scaled(scale.reshape(-1, 1, 1))
            if not affine.is_scale:
                bias = node.const(slot + 1)
                if bias is None:
                    return node.refuse("no-bias", "has no biases that could take the shift")
                added = np.tensordot(shift, kernel.exact(), 1)
                inputs[slot + 1] = Param.of(bias.name, bias.exact() + added, bias.dtype)
        return NewWeights(inputs, channel_axis=dict.fromkeys(_READING.values(), 1))

    @staticmethod
    def _slots(node: Node) -> Mapping[str, int]:
        """In which slots query, key and value are."""
        told = node.attr("tensors")
        weights = len(node.op.inputs) - len(told)
        found = {name: at + (weights if at else 0) for at, name in enumerate(told)}
        return {"query": found["query"], "value": found["value"], "key": found.get("key", found["value"])}

    def absorb_output(self, node: Node, affine: Affine) -> Absorbed:
        kernel, bias = weight_of(node, _WRITING), node.const(_WRITING + 1)
        if len(node.op.outputs) > 1 or len(kernel.shape) != 3:
            return node.refuse("several-outputs", "puts out more than one tensor of features")
        misfit = channels_fit(node, affine, channel_axis(node), kernel.shape[2])
        if misfit is not None:
            return misfit
        scale, shift = vectors(affine, kernel.shape[2])
        inputs: dict[int, Param] = {}
        if not affine.is_shift:
            inputs[_WRITING] = kernel.scaled(scale.reshape(1, 1, -1))
        if bias is not None:
            inputs[_WRITING + 1] = _moved(bias, scale, shift)
        elif not affine.is_scale:
            return node.refuse("no-bias", "has no bias that could take the shift")
        return NewWeights(inputs, channel_axis={_WRITING: 2})


def _moved(bias: Param, scale: Vector, shift: Vector) -> Param:
    return Param.of(bias.name, bias.exact() * scale + shift, bias.dtype)
