"""Operators that work on each element alone: identities, which let everything pass, and activations."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bnfold.affine import Affine
from bnfold.graph import is_float
from bnfold.operators.base import Crossing, Facts, KeepsShape, Node, Role, Sunk, register
from bnfold.operators.passing import Homogeneous, Passing, Transparent
from bnfold.refusal import Refusal


@register("Identity")
class Identity(Transparent):
    """``x``."""

    role = Role.SHAPE


@register("Dropout")
class Dropout(Transparent):
    """``x`` at inference: opset 12 made training a run-time input, older opsets have ``is_test``."""

    role = Role.DROPOUT

    def allows(self, node: Node, affine: Affine) -> Refusal | None:
        if node.has(2):
            mode = node.const(2)
            if mode is None or bool(mode.array().any()):
                return node.refuse("training-mode", "is in training mode, or may be at run time")
        if node.opset < 7 and not node.attr("is_test", 0):
            return node.refuse("training-mode", "is in training mode")
        return None


@register("Cast")
class Cast(Passing):
    """Between floating-point types."""

    role = Role.SHAPE

    def allows(self, node: Node, affine: Affine) -> Refusal | None:
        for tensor in (node.op.input(0), node.op.outputs[0]):
            dtype = node.graph.tensor(tensor).dtype
            if dtype is None or not is_float(dtype):
                return node.refuse("cast", "converts from or to something that is not floating point")
        return None


@register("CastLike")
class CastLike(Cast):
    """Like Cast, to the type of the second input."""

    def reads_values(self, slot: int) -> bool:
        return slot == 0


@register("EyeLike", "RandomNormalLike", "RandomUniformLike", "Shape", "Size")
class ShapeOf(Facts):
    """Sees no values, so that an affine may pass it by."""

    role = Role.SHAPE

    def reads_values(self, slot: int) -> bool:
        return False

    def sink(self, node: Node, affines: Mapping[int, Affine]) -> Sunk:
        return Crossing({})


@register("Relu", "LeakyRelu", "PRelu", "Abs")
class ReluFamily(Homogeneous):
    """Piecewise linear with the corner at zero."""


@register("Trilu")
class Trilu(Passing):
    """Sets one triangle to zero, which a scale leaves at zero."""

    role = Role.SHAPE

    def allows(self, node: Node, affine: Affine) -> Refusal | None:
        return None if affine.is_scale else node.refuse("zero-padding", "sets elements to zero, so no shift passes")


@register("CumSum")
class CumSum(Passing):
    """Sums up along one axis: a scale passes that is the same all along it."""

    role = Role.OTHER

    def allows(self, node: Node, affine: Affine) -> Refusal | None:
        if not affine.is_scale:
            return node.refuse("uneven-taps", "adds up ever more elements, so no shift stays constant")
        summed, rank = node.const_ints(1), node.rank(0)
        if affine.axis is None:
            return None
        if not summed or rank is None:
            return node.refuse("dynamic-axes", "sums along an axis that is not known")
        if summed[0] % rank in dict(affine.axes):
            return node.refuse("reduced-axis", "sums along the affine's axis")
        return None


@register("Clip")
class Clip(Homogeneous):
    """A Clip from zero upward is a ReLU; any other bound stops everything."""

    def allows(self, node: Node, affine: Affine) -> Refusal | None:
        if self._bound(node, 1, "min") != 0.0 or self._bound(node, 2, "max") != float("inf"):
            return node.refuse("nonlinear", "is nonlinear")
        return super().allows(node, affine)

    @staticmethod
    def _bound(node: Node, slot: int, attribute: str) -> float | None:
        """The bound, infinite where there is none, None where it is computed at run time."""
        if node.opset < 11:
            value = float(node.attr(attribute, float("inf")))
            # Before opset 11 the defaults were the largest float32 numbers.
            return float("inf") if value >= np.finfo(np.float32).max else value
        if not node.has(slot):
            return float("inf")
        param = node.const(slot)
        return None if param is None or param.size != 1 else float(param.array().reshape(()))


@register(
    "Celu", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "Log", "Hardmax", "Mish", "Selu",
    "Shrink", "Sigmoid", "Sign", "Softplus", "Softsign", "Sqrt", "Swish", "Tanh", "ThresholdedRelu",
)  # fmt: skip
class Nonlinear(KeepsShape):
    """Nothing passes."""

    role = Role.ACTIVATION
