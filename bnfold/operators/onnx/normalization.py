"""ONNX's normalisations, and its BatchNormalization."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from bnfold.affine import Affine, Vector
from bnfold.graph import Param
from bnfold.operators.answers import Absorbed, Crossing, Sunk
from bnfold.operators.base import NEVER, Conditions, Facts, KeepsShape, Node, Role, register
from bnfold.operators.batchnorm import BatchNorm, BatchNormFacts
from bnfold.operators.normalizing import BEYOND, Normalization, RootMeanSquare, axes_from, is_cancelled
from bnfold.operators.weights import weight_of
from bnfold.refusal import Refusal

#: Attributes are float32 in ONNX, their defaults too: not 1e-5.
_EPSILON = float(np.float32(1e-5))


@register("InstanceNormalization")
class InstanceNormalization(Normalization):
    """Over all axes behind the channels; scale and bias by channel, on axis 1."""

    def over(self, node: Node) -> Collection[int]:
        return range(2, BEYOND)

    def channel_axis(self, node: Node) -> int | None:
        return 1


@register("GroupNormalization")
class GroupNormalization(InstanceNormalization):
    """Over groups of channels and all axes behind them."""

    conditions = Conditions(sink="a shift that is the same all over each group vanishes")

    def over(self, node: Node) -> Collection[int]:
        return range(1, BEYOND)

    def sink(self, node: Node, affines: Mapping[int, Affine]) -> Sunk:
        affine, groups = affines.get(0), int(node.attr("num_groups", 1))
        if affine is not None and affine.axis == 1 and groups > 0 and affine.size % groups == 0:
            shifts = affine.shift.reshape(groups, -1)
            if (shifts == shifts[:, :1]).all() and len(affines) == 1 and affine.is_shift:
                return Crossing({})
        return super().sink(node, affines)


@register("LayerNormalization")
class LayerNormalization(Normalization):
    """Over the last axes. Whichever they are, a scale that is a vector runs along the last one."""

    def over(self, node: Node) -> Collection[int] | None:
        return None if node.used(1) else axes_from(int(node.attr("axis", -1)), node.rank(0))

    def channel_axis(self, node: Node) -> int | None:
        rank = node.rank(0)
        return None if rank is None else rank - 1


@register("LRN")
class LocalResponseNormalization(Facts):
    """Nothing passes."""

    normalizes = True


@register("RMSNormalization")
class RMSNormalization(RootMeanSquare, LayerNormalization):
    """Divides by the root of the mean square over the last axes, then scales; it takes no mean away and has no bias."""


@register("MeanVarianceNormalization")
class MeanVarianceNormalization(Normalization):
    """Over the axes it names; it has neither scale nor bias."""

    conditions = Conditions(absorb_output=NEVER)

    def absorb_output(self, node: Node, affine: Affine) -> Absorbed:
        return node.refuse("no-weights", "has no weights that could take it")

    def over(self, node: Node) -> Collection[int]:
        axes, rank = node.ints("axes", (0, 2, 3)), node.rank(0)
        if min(axes, default=0) >= 0:
            return axes
        return [axis % rank for axis in axes] if rank else range(BEYOND)


@register("LogSoftmax")
class LogSoftmax(KeepsShape):
    """The logarithm of a softmax: a shift of x is a factor of all ``exp(x)``, which is divided by again."""

    conditions = Conditions(sink="a shift that is the same along its axis vanishes")
    role = Role.ACTIVATION

    def is_final(self, node: Node) -> bool:
        return True

    def sink(self, node: Node, affines: Mapping[int, Affine]) -> Sunk:
        return Crossing({}) if is_cancelled(affines, self._over(node)) else self.blocks(node)

    def _over(self, node: Node) -> Collection[int]:
        axis, rank = int(node.attr("axis", -1 if node.opset >= 13 else 1)), node.rank(0)
        # Before opset 13 the input counts as a matrix: all axes from this one on are one.
        return (axis % rank,) if node.opset >= 13 and rank else axes_from(axis, rank)


@register("Softmax")
class Softmax(LogSoftmax):
    """``exp(x)`` divided by its sum."""

    def adds_up_to_one(self, node: Node, axis: int) -> bool:
        rank = node.rank(0)
        return rank is not None and [own for own in self._over(node) if own < rank] == [axis]


@register("BatchNormalization")
class OnnxBatchNorm(BatchNormFacts):
    """Inputs X, scale, B, mean, var; channels on axis 1."""

    def batchnorm(self, node: Node) -> BatchNorm | Refusal:
        training = is_training(node)
        batch = _only_batch(node) if training else None
        if training and batch is None:
            return node.refuse("training-mode", "is in training mode: it normalises with the statistics of each batch")
        vectors: list[Vector] = []
        dtype: np.dtype[Any] = np.dtype(np.float32)
        for slot in range(1, 5 if batch is None else 3):
            param = node.const(slot)
            if param is None:
                tensor = node.op.input(slot)
                weight = weight_of(node, slot, rank=1)
                if not isinstance(weight, Refusal):  # quantised, as some tools do to every constant
                    vectors.append(weight.exact_rows(0, weight.shape[0]))
                    dtype = weight.float_dtype
                    continue
                if tensor in node.graph.overridable:
                    return node.refuse("overridable", f"has a parameter ({tensor}) that the caller may override")
                return node.refuse("dynamic-parameters", f"has a parameter ({tensor}) that is computed at run time")
            if not param.is_float:
                return node.refuse("invalid-statistics", f"has a parameter ({param.name}) of type {param.dtype}")
            vectors.append(param.exact())
            dtype = param.dtype
        if batch is not None:
            values, axes = batch.exact(), (0, *range(2, len(batch.shape)))
            vectors += [values.mean(axis=axes), values.var(axis=axes)]
        shapes = {vector.shape for vector in vectors}
        if len(shapes) != 1 or len(shapes.pop()) != 1:
            return node.refuse("per-activation", "keeps statistics by activation, not by channel (spatial=0)")
        rank = node.rank(0)
        if not int(node.attr("spatial", 1)) and rank != 2:
            return node.refuse("per-activation", "keeps statistics by activation, not by channel (spatial=0)")
        gamma, beta, mean, variance = vectors
        if rank == 1 and mean.size != 1:
            return node.refuse("size-mismatch", f"normalises a vector with {mean.size} statistics")
        return BatchNorm(gamma, beta, mean, variance, float(node.attr("epsilon", _EPSILON)), 1, dtype)

    def output_shape(self, node: Node) -> tuple[int | None, dict[int, int]]:
        param = node.const(1)
        # A single statistic may also be that of a vector, which has no axis 1.
        return None, {1: param.size} if param is not None and param.size > 1 else {}


def _only_batch(node: Node) -> Param | None:
    """The data of a BatchNormalization in training mode that is a constant: standardised weights have the same
    statistics in each batch. None for other data, and where somebody reads the statistics.
    """
    data = node.const(0) if node.opset >= 14 and not (node.used(1) or node.used(2)) else None
    return data if data is not None and data.is_float and data.size and len(data.shape) > 1 else None


def is_training(node: Node) -> bool:
    """Does this ONNX BatchNormalization use batch statistics? The form changed at opsets 7 and 14."""
    if node.opset >= 14:
        return bool(node.attr("training_mode", 0)) or node.used(1) or node.used(2)
    if node.opset < 7 and not node.attr("is_test", 0):
        return True
    return any(node.used(index) for index in range(1, len(node.op.outputs)))
