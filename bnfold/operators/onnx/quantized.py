"""QuantizeLinear and DequantizeLinear around activations; on constants they are weights (``operators.weights``)."""

from __future__ import annotations

import numpy as np

from bnfold.operators.base import KeepsShape, Node, Role, register
from bnfold.refusal import Refusal


@register("DequantizeLinear", "QuantizeLinear")
class Quantizer(KeepsShape):
    """The same values in the same places, but rounded and cut to a range: nothing folds across it."""

    role = Role.SHAPE
    keeps_axes = True

    def role_in(self, node: Node) -> Role:
        """Where zero is the lowest integer, negative values become zero: tools that quantise leave a ReLU to that."""
        zero = node.const(2)
        integers = node.op.input(0) if node.op.type == "DequantizeLinear" else node.op.outputs[0]
        dtype = zero.dtype if zero is not None else node.graph.tensor(integers).dtype
        if dtype is None or dtype.kind not in "iu":
            return self.role
        values = zero.array() if zero is not None else np.zeros((), dtype)
        return Role.ACTIVATION if (values == np.iinfo(dtype).min).all() else self.role

    def blocks(self, node: Node) -> Refusal:
        return node.refuse("quantized", "rounds to integers, which no affine passes")
