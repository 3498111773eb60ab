"""Operators that work on each element alone: identities, which let everything pass, and activations."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from bnfold.affine import Affine, Vector
from bnfold.graph import is_float
from bnfold.operators.answers import Crossing, Sunk
from bnfold.operators.base import Conditions, Facts, Node, Role, register
from bnfold.operators.passing import Elementwise, Homogeneous, Passing, Transparent
from bnfold.refusal import Refusal


@register("Identity")
class Identity(Transparent):
    """``x``."""

    role = Role.SHAPE
    keeps_axes = True


@register("Dropout")
class Dropout(Transparent):
    """``x`` at inference: opset 12 made training a run-time input, older opsets have ``is_test``."""

    conditions = Conditions(cross="everything, in inference mode")
    role = Role.DROPOUT

    def drop_rate(self, node: Node) -> float:
        if "ratio" in node.op.attributes:
            return float(node.attr("ratio"))
        ratio = node.const(1)
        return 0.5 if ratio is None or ratio.size != 1 else float(ratio.array().item())

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

    conditions = Conditions(cross="everything, between floating-point types")
    role = Role.SHAPE
    keeps_axes = True

    def allows(self, node: Node, affine: Affine) -> Refusal | None:
        for tensor in (node.op.input(0), node.op.outputs[0]):
            dtype = node.graph.tensor(tensor).dtype
            if dtype is None or not is_float(dtype):
                return node.refuse("cast", "converts from or to something that is not floating point")
        return None

    def source_axis(self, node: Node, axis: int) -> int | None:
        return axis if self.allows(node, Affine.identity()) is None else None


@register("CastLike")
class CastLike(Cast):
    """Like Cast, to the type of the second input."""

    def reads_values(self, slot: int) -> bool:
        return slot == 0


@register("EyeLike", "RandomNormalLike", "RandomUniformLike", "Shape", "Size")
class ShapeOf(Facts):
    """Sees no values, so that an affine may pass it by."""

    conditions = Conditions(sink="everything vanishes: no values are read")
    role = Role.SHAPE

    def reads_values(self, slot: int) -> bool:
        return False

    def sink(self, node: Node, affines: Mapping[int, Affine]) -> Sunk:
        return Crossing({})


@register("Relu", "LeakyRelu", "PRelu", "Abs")
class ReluFamily(Homogeneous):
    """Piecewise linear with the corner at zero."""

    def value(self, node: Node, numbers: Vector) -> Vector | None:
        if node.op.type == "PRelu":
            return numbers if (numbers >= 0).all() else None  # the slope may differ by element
        below = {"Relu": 0.0, "Abs": -1.0}.get(node.op.type, float(node.attr("alpha", 0.01)))
        return np.where(numbers >= 0, numbers, below * numbers)


@register("Trilu")
class Trilu(Passing):
    """Sets one triangle to zero, which a scale leaves at zero."""

    conditions = Conditions(cross="a scale")
    role = Role.SHAPE

    def allows(self, node: Node, affine: Affine) -> Refusal | None:
        return None if affine.is_scale else node.refuse("zero-padding", "sets elements to zero, so no shift passes")


@register("CumSum")
class CumSum(Passing):
    """Sums up along one axis: a scale passes that is the same all along it."""

    conditions = Conditions(cross="a scale, not along the summed axis")
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

    conditions = Conditions(cross="from zero upward: a scale that is nowhere negative")

    def allows(self, node: Node, affine: Affine) -> Refusal | None:
        if self._bound(node, 1, "min") != 0.0 or self._bound(node, 2, "max") != float("inf"):
            return node.refuse("nonlinear", "is nonlinear")
        return super().allows(node, affine)

    def blocks(self, node: Node) -> Refusal:
        return node.refuse("nonlinear", "is nonlinear, and its bounds are the same for all channels")

    def value(self, node: Node, numbers: Vector) -> Vector | None:
        low, high = self._bound(node, 1, "min"), self._bound(node, 2, "max")
        if low is None or high is None:
            return None
        # A lower bound that is left out is none, though it is read as infinite.
        return np.minimum(numbers if low == np.inf else np.maximum(numbers, low), high)

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


def _exp_below(numbers: Vector, scale: float) -> Vector:
    """``scale (exp x - 1)`` below zero, x above."""
    return np.where(numbers > 0, numbers, scale * np.expm1(np.minimum(numbers, 0.0)))


def _sigmoid(numbers: Vector) -> Vector:
    return 0.5 * (1.0 + np.tanh(0.5 * numbers))


#: f of numbers, given the operator for its attributes (defaults as in ONNX).
_FUNCTIONS: dict[str, Callable[[Node, Vector], Vector]] = {
    "Elu": lambda node, x: _exp_below(x, node.attr("alpha", 1.0)),
    "Exp": lambda node, x: np.exp(x),
    "HardSigmoid": lambda node, x: np.clip(node.attr("alpha", 0.2) * x + node.attr("beta", 0.5), 0.0, 1.0),
    "HardSwish": lambda node, x: x * np.clip(x / 6.0 + 0.5, 0.0, 1.0),
    "Log": lambda node, x: np.log(x),
    "Mish": lambda node, x: x * np.tanh(np.logaddexp(0.0, x)),
    "Sigmoid": lambda node, x: _sigmoid(x),
    "Softplus": lambda node, x: np.logaddexp(0.0, x),
    "Softsign": lambda node, x: x / (1.0 + np.abs(x)),
    "Sqrt": lambda node, x: np.sqrt(x),
    "Swish": lambda node, x: x * _sigmoid(node.attr("alpha", 1.0) * x),
    "Tanh": lambda node, x: np.tanh(x),
}


@register(
    "Celu", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "Log", "Mish", "Selu",
    "Shrink", "Sign", "Softplus", "Softsign", "Sqrt", "Swish", "Tanh", "ThresholdedRelu",
)  # fmt: skip
class Nonlinear(Elementwise):
    """Nothing passes but channels that hold one number."""

    def value(self, node: Node, numbers: Vector) -> Vector | None:
        function = _FUNCTIONS.get(node.op.type)
        if function is None:
            return None
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            return function(node, numbers)


@register("Hardmax", "Sigmoid")
class Final(Nonlinear):
    """Nothing passes; a classifier or a regressor may end in it."""

    def is_final(self, node: Node) -> bool:
        return True
