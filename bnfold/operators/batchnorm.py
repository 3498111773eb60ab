"""BatchNormalization, and what all operators share that are themselves affine maps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bnfold.affine import Affine, Vector
from bnfold.graph import ModelGraph, Op, float_limits, is_float
from bnfold.operators.answers import Absorbed, NewAffine
from bnfold.operators.base import Conditions, Facts, KeepsShape, Node, Role, facts_of
from bnfold.operators.convolution import Convolution
from bnfold.operators.pointwise import of_affine
from bnfold.records import record
from bnfold.refusal import Refusal


@record
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

    def sizes(self, total: Affine) -> tuple[Vector, Vector]:
        """How large ``scale x`` and ``scale x + shift`` are by the statistics of x: their root mean squares by channel.

        ``total`` is this BN's map, alone or with others behind it. Of mean m and standard deviation d the root mean
        square is ``sqrt(m^2 + d^2)``.
        """
        deviation = np.sqrt(self.variance + self.epsilon)
        scale = np.abs(total.scale)
        return scale * np.hypot(self.mean, deviation), np.hypot(
            total.scale * self.mean + total.shift, scale * deviation
        )

    def is_identity(self, ulp: float) -> bool:
        """Are gamma = sqrt(variance + epsilon) and beta = mean, to this relative rounding?"""
        with np.errstate(invalid="ignore"):
            root = np.sqrt(self.variance + self.epsilon)
        scale_off = np.abs(self.gamma - root) > ulp * np.abs(root)
        shift_off = np.abs(self.beta - self.mean) > ulp * np.maximum(np.abs(self.beta), np.abs(self.mean))
        return not (scale_off.any() or shift_off.any())


class AffineFacts(Facts):
    """An operator that is itself an affine takes others in by becoming the composition."""

    conditions = Conditions(
        absorb_output="where it is an affine: along the same axes, or one of the two uniform",
        absorb_input="where it is an affine: along the same axes, or one of the two uniform",
    )
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

    conditions = Conditions(
        as_affine="in inference mode, with constant and finite parameters by channel",
        absorb_output="along the same axes, or one of the two uniform",
        absorb_input="along the same axes, or one of the two uniform",
    )
    role = Role.BATCHNORM

    def batchnorm(self, node: Node) -> BatchNorm | Refusal:
        raise AssertionError("every format reads its own")

    def is_identity(self, node: Node) -> bool:
        numbers = self.batchnorm(node)
        if isinstance(numbers, Refusal):
            return False
        # The data may be finer than the statistics: then it is they that must not change. Where both are coarse,
        # many a BN with unit variance comes near, and is one all the same.
        data = node.graph.tensor(node.op.input(self.data_slot(node))).dtype
        dtypes = [numbers.dtype, np.dtype(np.float32), *([data] if data is not None and is_float(data) else [])]
        return numbers.is_identity(min(float_limits(dtype).eps for dtype in dtypes))

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
