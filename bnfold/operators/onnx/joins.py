"""ONNX's arithmetic and joins: Add, Sub, Mul, Div, Neg, Sum, Mean, Max, Min, Where, Concat."""

from __future__ import annotations

from collections.abc import Mapping

from bnfold.affine import Affine
from bnfold.operators.arithmetic import (
    Add,
    Div,
    Mul,
    Sub,
    lift_same,
    lift_sum,
    rising,
    sink_same,
    sink_sum,
)
from bnfold.operators.base import Combination, Conditions, Facts, Lifts, Node, Role, Sunk, register
from bnfold.operators.batchnorm import AffineFacts
from bnfold.operators.concatenation import Concat
from bnfold.refusal import Refusal

register("Add")(Add)
register("Sub")(Sub)
register("Mul")(Mul)
register("Div")(Div)
register("Concat")(Concat)


@register("Neg")
class Neg(AffineFacts):
    """``-x``."""

    conditions = Conditions(as_affine="of floating-point numbers")

    def as_affine(self, node: Node) -> Affine | Refusal:
        dtype = node.graph.tensor(node.op.outputs[0]).dtype
        if dtype is None or dtype.kind in "iu":
            return node.refuse("integer", "computes with integers or with a type that is not known")
        return Affine.of(-1.0, 0.0, None)


@register("Sum", "Mean")
class SumOfMany(Facts):
    """The sum or the mean of any number of tensors."""

    conditions = Conditions(
        lift="Sum: a scale to every operand, the shift to one of them; Mean: the same to all",
        sink="Sum: shifts, and scales that all carry alike; Mean: what all carry alike",
    )
    role = Role.JOIN
    combination = Combination.SUM

    def addends(self, node: Node) -> Mapping[int, float] | None:
        return dict.fromkeys(range(len(node.op.inputs)), 1.0) if node.op.type == "Sum" else None

    def lift(self, node: Node, affines: Mapping[int, Affine]) -> Lifts:
        signs = self.addends(node)
        if signs is not None:
            return lift_sum(node, signs, affines[0])
        return lift_same(node, range(len(node.op.inputs)), affines[0])

    def sink(self, node: Node, affines: Mapping[int, Affine]) -> Sunk:
        signs = self.addends(node)
        if signs is not None:
            return sink_sum(node, signs, affines)
        return sink_same(node, range(len(node.op.inputs)), affines)


@register("Max", "Min")
class Extreme(Facts):
    """The largest or smallest of several tensors: keeps every scale that is not negative."""

    conditions = Conditions(
        lift="the same to all operands, with no negative scale; a constant of one number changes along",
        sink="what all operands carry alike, with no negative scale; a constant of one number changes along",
    )
    role = Role.JOIN
    combination = Combination.EXTREME

    def lift(self, node: Node, affines: Mapping[int, Affine]) -> Lifts:
        return rising(node, affines[0]) or lift_same(node, range(len(node.op.inputs)), affines[0])

    def sink(self, node: Node, affines: Mapping[int, Affine]) -> Sunk:
        for affine in affines.values():
            refusal = rising(node, affine)
            if refusal is not None:
                return refusal
        return sink_same(node, range(len(node.op.inputs)), affines)


@register("Where")
class Where(Facts):
    """Chooses between two tensors element by element."""

    conditions = Conditions(
        lift="the same to both choices; a constant of one number changes along",
        sink="what both choices carry alike; a constant of one number changes along",
    )
    role = Role.JOIN

    def lift(self, node: Node, affines: Mapping[int, Affine]) -> Lifts:
        return lift_same(node, range(1, 3), affines[0])

    def sink(self, node: Node, affines: Mapping[int, Affine]) -> Sunk:
        return sink_same(node, range(1, 3), affines)
