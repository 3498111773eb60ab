"""ONNX's arithmetic and joins: Add, Sub, Mul, Div, Neg, Sum, Mean, Max, Min, Where, Concat."""

from __future__ import annotations

from bnfold.affine import Affine
from bnfold.operators.arithmetic import Add, Div, Mul, Sub
from bnfold.operators.base import Conditions, Node, register
from bnfold.operators.batchnorm import AffineFacts
from bnfold.operators.concatenation import Concat
from bnfold.operators.joins import Alike, Extreme, Mean, SumOfMany
from bnfold.refusal import Refusal

register("Add")(Add)
register("Sub")(Sub)
register("Mul")(Mul)
register("Div")(Div)
register("Concat")(Concat)
register("Sum")(SumOfMany)
register("Mean")(Mean)
register("Max", "Min")(Extreme)


@register("Neg")
class Neg(AffineFacts):
    """``-x``."""

    conditions = Conditions(as_affine="of floating-point numbers")

    def as_affine(self, node: Node) -> Affine | Refusal:
        dtype = node.graph.tensor(node.op.outputs[0]).dtype
        if dtype is None or dtype.kind in "iu":
            return node.refuse("integer", "computes with integers or with a type that is not known")
        return Affine.of(-1.0, 0.0, None)


@register("Where")
class Where(Alike):
    """Chooses between two tensors element by element."""

    conditions = Conditions(
        lift="the same to both choices; a constant of one number changes along",
        sink="what both choices carry alike; a constant of one number changes along",
    )

    def operands(self, node: Node) -> range:
        return range(1, 3)
