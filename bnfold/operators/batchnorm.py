"""BatchNormalization, and what all operators share that are themselves affine maps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bnfold.affine import Affine, Vector
from bnfold.graph import ModelGraph, Op, Param, float_limits
from bnfold.operators.base import Absorbed, Facts, KeepsShape, NewAffine, Node, Role, facts_of, register
from bnfold.operators.convolution import Convolution, of_affine
from bnfold.refusal import Refusal


@dataclass(frozen=True, slots=True)
class BatchNorm:
    """A BatchNormalization in inference form: ``gamma * (x - mean) / sqrt(variance + epsilon) + beta``.

    The vectors are float64, one entry a channel along ``axis``; gamma and beta are ones and zeros
    where the layer has none. ``dtype`` is what the statistics are stored as.
    """

    gamma: Vector
    beta: Vector
    mean: Vector
    variance: Vector
    epsilon: float
    axis: int
    dtype: np.dtype[Any]

    @property
    def channels(self) -> int:
        return int(self.mean.size)

    @property
    def affine(self) -> Affine:
        """``scale = gamma / sqrt(variance + epsilon)``, ``shift = beta - mean * scale`` (Ioffe & Szegedy 2015)."""
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            scale = self.gamma / np.sqrt(self.variance + self.epsilon)
            return Affine.over((self.axis,), scale, self.beta - self.mean * scale)

    @property
    def is_identity(self) -> bool:
        """Are gamma = sqrt(variance + epsilon) and beta = mean, to rounding?"""
        ulp = float_limits(self.dtype).eps
        with np.errstate(invalid="ignore"):
            root = np.sqrt(self.variance + self.epsilon)
        scale_off = np.abs(self.gamma - root) > ulp * np.abs(root)
        shift_off = np.abs(self.beta - self.mean) > ulp * np.maximum(np.abs(self.beta), np.abs(self.mean))
        return not (scale_off.any() or shift_off.any())


class AffineFacts(Facts):
    """An operator that is itself an affine takes others in by becoming the composition."""

    role = Role.AFFINE
    grids = True

    def absorb_output(self, node: Node, affine: Affine) -> Absorbed:
        own = self.as_affine(node)
        if isinstance(own, Refusal):
            return own
        return self._become(node, own, affine)

    def absorb_input(self, node: Node, affines: Mapping[int, Affine]) -> Absorbed:
        own = self.as_affine(node)
        if isinstance(own, Refusal):
            return own
        # The other inputs are constants, which carry none.
        return self._become(node, affines[self.data_slot(node)], own)

    def convolution(self, node: Node) -> Convolution | None:
        """One tap and one group a channel, for images."""
        affine = self.as_affine(node)
        return None if isinstance(affine, Refusal) else of_affine(node, affine, macs_per_channel=1.0)

    def _become(self, node: Node, first: Affine, second: Affine) -> Absorbed:
        if not first.composes(second):
            return node.refuse("other-axis", "is an affine along another axis")
        return NewAffine(first.then(second))


def batchnorm(graph: ModelGraph, op: Op) -> BatchNorm | Refusal | None:
    """The numbers of a BatchNormalization; None for another operator, a Refusal for one that is
    not in inference form or whose parameters are not constants.
    """
    facts = facts_of(op)
    return facts.batchnorm(Node(graph, op)) if isinstance(facts, BatchNormFacts) else None


class BatchNormFacts(AffineFacts, KeepsShape):
    """What ONNX's and Keras's BatchNormalization share."""

    role = Role.BATCHNORM

    def batchnorm(self, node: Node) -> BatchNorm | Refusal:
        raise AssertionError("every format reads its own")

    def is_identity(self, node: Node) -> bool:
        numbers = self.batchnorm(node)
        return isinstance(numbers, BatchNorm) and numbers.is_identity

    def as_affine(self, node: Node) -> Affine | Refusal:
        numbers = self.batchnorm(node)
        if isinstance(numbers, Refusal):
            return numbers
        if not numbers.channels:
            return node.refuse("empty", "has no channels")
        affine = numbers.affine
        if not affine.is_finite:
            return node.refuse("invalid-statistics", "has a negative variance, a NaN or an infinity in its parameters")
        return affine


@register("BatchNormalization")
class OnnxBatchNorm(BatchNormFacts):
    """Inputs X, scale, B, mean, var; channels on axis 1."""

    def batchnorm(self, node: Node) -> BatchNorm | Refusal:
        if is_training(node):
            return node.refuse("training-mode", "is in training mode: it normalises with the statistics of each batch")
        params: list[Param] = []
        for slot in range(1, 5):
            param = node.const(slot)
            if param is None:
                tensor = node.op.input(slot)
                if tensor in node.graph.overridable:
                    return node.refuse("overridable", f"has a parameter ({tensor}) that the caller may override")
                return node.refuse("dynamic-parameters", f"has a parameter ({tensor}) that is computed at run time")
            if not param.is_float:
                return node.refuse("invalid-statistics", f"has a parameter ({param.name}) of type {param.dtype}")
            params.append(param)
        vectors = [param.exact() for param in params]
        if any(vector.ndim != 1 for vector in vectors) or len({vector.size for vector in vectors}) != 1:
            return node.refuse("per-activation", "keeps statistics by activation, not by channel (spatial=0)")
        rank = node.rank(0)
        if not int(node.attr("spatial", 1)) and rank != 2:
            return node.refuse("per-activation", "keeps statistics by activation, not by channel (spatial=0)")
        gamma, beta, mean, variance = vectors
        if rank == 1 and mean.size != 1:
            return node.refuse("size-mismatch", f"normalises a vector with {mean.size} statistics")
        return BatchNorm(gamma, beta, mean, variance, float(node.attr("epsilon", 1e-5)), 1, params[2].dtype)

    def output_shape(self, node: Node) -> tuple[int | None, dict[int, int]]:
        param = node.const(1)
        # A single statistic may also be that of a vector, which has no axis 1.
        return None, {1: param.size} if param is not None and param.size > 1 else {}


def is_training(node: Node) -> bool:
    """Does this ONNX BatchNormalization use batch statistics? The form changed at opsets 7 and 14."""
    if node.opset >= 14:
        return bool(node.attr("training_mode", 0)) or node.used(1) or node.used(2)
    if node.opset < 7 and not node.attr("is_test", 0):
        return True
    return any(node.used(index) for index in range(1, len(node.op.outputs)))
