"""Keras's joins of several tensors, as layers and as operations written with tensors."""

from __future__ import annotations

from collections.abc import Mapping

from bnfold.affine import Affine
from bnfold.operators.answers import Lifts, Sunk
from bnfold.operators.arithmetic import Add, Arithmetic, Div, Mul, Sub, lift_gate, sink_gate
from bnfold.operators.base import Combination, Conditions, Facts, Node, Role, register
from bnfold.operators.concatenation import Concat
from bnfold.operators.joins import Extreme, Mean, SumOfMany
from bnfold.operators.keras.layer import DOMAIN, conversion
from bnfold.refusal import Refusal

register("Concatenate", domain=DOMAIN)(Concat)
register("Average", domain=DOMAIN)(Mean)
register("Maximum", "Minimum", domain=DOMAIN)(Extreme)


@register("Add", "Subtract", domain=DOMAIN)
class Sum(SumOfMany):
    """The sum of any number of tensors, the difference of two."""

    def addends(self, node: Node) -> Mapping[int, float]:
        signs = super().addends(node)
        return {**signs, 1: -1.0} if node.op.type == "Subtract" else signs


class Operation(Arithmetic):
    """An operation written with tensors: an affine where one operand is constant."""

    conditions = Conditions(as_affine="one operand constant and not enlarging the other, of floating-point data")

    def as_affine(self, node: Node) -> Affine | Refusal:
        return conversion(node, self.data_slot(node)) or super().as_affine(node)


@register("ops.Add", domain=DOMAIN)
class AddOperation(Operation, Add):
    """``a + b``."""


@register("ops.Subtract", domain=DOMAIN)
class SubtractOperation(Operation, Sub):
    """``a - b``."""


@register("ops.Multiply", domain=DOMAIN)
class MultiplyOperation(Operation, Mul):
    """``a * b``."""


@register("ops.TrueDivide", "ops.Divide", domain=DOMAIN)
class DivideOperation(Operation, Div):
    """``a / b``."""

    conditions = Conditions(as_affine="the divisor constant and nowhere zero, of floating-point data")


@register("Multiply", domain=DOMAIN)
class Product(Facts):
    """The product of tensors; where a factor carries a mask, one takes the place of what it masks."""

    conditions = Conditions(
        lift="a scale, to a factor that has the axis in full",
        sink="scales, which multiply; along one axis",
    )
    role = Role.JOIN
    combination = Combination.PRODUCT

    def lift(self, node: Node, affines: Mapping[int, Affine]) -> Lifts:
        return _masked(node) or lift_gate(node, tuple(range(len(node.op.inputs))), affines[0])

    def sink(self, node: Node, affines: Mapping[int, Affine]) -> Sunk:
        return _masked(node) or sink_gate(node, affines)


def _masked(node: Node) -> Refusal | None:
    return node.refuse("mask", "multiplies by one what a mask hides") if node.attr("masked") else None


@register("ops.Maximum", "ops.Minimum", domain=DOMAIN)
class ExtremeOperation(Facts):
    """Nothing passes."""

    combination = Combination.EXTREME
