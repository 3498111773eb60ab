"""The operations of ``keras.ops`` with one tensor or a list of them; those with two operands are among the joins."""

from __future__ import annotations

from math import prod

from bnfold.affine import Affine
from bnfold.graph import Shape
from bnfold.operators.axes import Rearrangement, rename_axes
from bnfold.operators.base import Conditions, KeepsShape, Node, register
from bnfold.operators.batchnorm import AffineFacts
from bnfold.operators.concatenation import Concat
from bnfold.operators.keras.layer import DOMAIN, conversion, shape_of
from bnfold.operators.keras.plain_layers import Activation, KerasReshape, Permute
from bnfold.operators.onnx.pooling import ReduceExtreme, ReduceMean, ReduceSum
from bnfold.operators.onnx.rearrange import Squeeze
from bnfold.operators.onnx.select import Split
from bnfold.refusal import Refusal


@register(
    "ops.Elu", "ops.Gelu", "ops.HardSigmoid", "ops.HardSilu", "ops.LeakyRelu", "ops.LogSoftmax", "ops.Relu",
    "ops.Relu6", "ops.Selu", "ops.Sigmoid", "ops.Silu", "ops.Softmax", "ops.Softplus", "ops.Softsign", "ops.Tanh",
    domain=DOMAIN,
)  # fmt: skip
class ActivationOperation(Activation):
    """As the Activation of the same name."""


@register("ops.Negative", domain=DOMAIN)
class Negative(AffineFacts, KeepsShape):
    """``-x``."""

    conditions = Conditions(as_affine="of floating-point data")

    def as_affine(self, node: Node) -> Affine | Refusal:
        return conversion(node) or Affine.of(-1.0, 0.0, None)


@register("ops.Moveaxis", "ops.Swapaxes", "ops.Transpose", domain=DOMAIN)
class TransposeOperation(Permute):
    """Axis ``i`` of the output is axis ``perm[i]`` of the input."""


@register("ops.Reshape", domain=DOMAIN)
class ReshapeOperation(KerasReshape):
    """Row-major order stays; unlike a Reshape layer it may cut up the batch."""

    def _flow(self, node: Node) -> tuple[list[int], Shape, Shape]:
        order, source, target = super()._flow(node)
        inner, outer = source[1:], target[1:]
        if None not in (*inner, *outer) and prod(inner) == prod(outer):  # type: ignore[arg-type]
            return order, source, target
        return order, (None, *inner), shape_of(node.graph, node.op.outputs[0])


@register("ops.ExpandDims", "ops.Squeeze", domain=DOMAIN)
class SqueezeOperation(Squeeze):
    """As ONNX's."""


@register("ops.Mean", domain=DOMAIN)
class MeanOperation(ReduceMean):
    """As ONNX's."""


@register("ops.Sum", domain=DOMAIN)
class SumOperation(ReduceSum):
    """As ONNX's."""


@register("ops.Max", "ops.Min", domain=DOMAIN)
class ExtremeReduction(ReduceExtreme):
    """As ONNX's, but for one that compares with an initial value as well."""

    conditions = Conditions(cross="along an axis that is not reduced, or uniform; no negative scale, no initial value")

    def through(self, node: Node, affine: Affine, *, upward: bool) -> Affine | Refusal:
        if node.attr("initial") is not None:
            return node.refuse("initial-value", "also compares with a number of its own")
        return super().through(node, affine, upward=upward)


@register("ops.Concatenate", domain=DOMAIN)
class ConcatenateOperation(Concat):
    """As the layer."""


@register("ops.Split", domain=DOMAIN)
class SplitOperation(Split):
    """As ONNX's."""


@register("ops.GetItem", domain=DOMAIN)
class GetItem(Rearrangement):
    """A part of a tensor: what lies along an axis that is taken whole passes."""

    conditions = Conditions(cross="along an axis that is taken whole, or uniform")

    def up(self, node: Node, affine: Affine) -> Affine | Refusal:
        places = node.attr("places", ())
        axes = {at: place for at, place in enumerate(places) if place is not None}
        return self._renamed(node, affine, axes)

    def down(self, node: Node, affine: Affine) -> Affine | Refusal:
        places = node.attr("places", ())
        return self._renamed(node, affine, {place: at for at, place in enumerate(places) if place is not None})

    @staticmethod
    def _renamed(node: Node, affine: Affine, axes: dict[int, int]) -> Affine | Refusal:
        if any(axis not in axes for axis, _ in affine.axes):
            return node.refuse("part-of-axis", "takes a part of the axis along which the affine runs")
        return rename_axes(affine, axes)
