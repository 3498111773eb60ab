"""The layers of a toy format, ``.toy``, and its dialect: CONTRIBUTING.md's example of a new file format."""

from __future__ import annotations

from typing import Any

import numpy as np

from bnfold.affine import Affine, Vector
from bnfold.graph import ModelGraph, Param
from bnfold.operators.answers import NewOp, Reweighted
from bnfold.operators.base import Node, register
from bnfold.operators.batchnorm import BatchNorm, BatchNormFacts
from bnfold.operators.convolution import Convolution
from bnfold.operators.dialect import DATA, Dialect, Form
from bnfold.operators.linear import Layout, LinearFacts, vector_bias
from bnfold.operators.passing import Homogeneous
from bnfold.operators.weights import weight_of
from bnfold.refusal import Refusal

DOMAIN = "toy"


@register("dense", domain=DOMAIN)
class Dense(LinearFacts):
    """Kernel [in, out] in slot 1, bias [out] in slot 2, which is always there; channels on axis 1."""

    bias_slot = 2

    def needs_bias(self, node: Node) -> bool:
        return True

    def layout(self, node: Node) -> Layout | Refusal:
        kernel = weight_of(node, 1)
        if isinstance(kernel, Refusal):
            return kernel
        inside, out = kernel.shape
        return Layout(
            weight=kernel, out_axis=1, in_axis=1, weight_out=1, weight_in=0, out_channels=out, in_channels=inside
        )

    def add_bias(self, node: Node, layout: Layout, scale: Vector, shift: Vector) -> Reweighted:
        return vector_bias(node, layout, 2, scale, shift)


@register("norm", domain=DOMAIN)
class Norm(BatchNormFacts):
    """gamma, beta, mean and variance in slots 1 to 4; epsilon is 0, channels are on axis 1."""

    def batchnorm(self, node: Node) -> BatchNorm | Refusal:
        gamma, beta, mean, variance = (node.graph.params[node.op.input(slot)] for slot in range(1, 5))
        return BatchNorm(gamma.exact(), beta.exact(), mean.exact(), variance.exact(), 0.0, 1, mean.dtype)


@register("relu", domain=DOMAIN)
class Relu(Homogeneous):
    """``max(x, 0)``."""


class ToyDialect(Dialect):
    """Rows of layers: no sums, no convolutions."""

    name = "toy"
    domain = DOMAIN
    channel_axis = 1
    bias_argument = "bias"
    trains = False
    decomposes = False
    sums = ("", "", "")

    def form(self, graph: ModelGraph, tensor: str, affine: Affine, dtype: np.dtype[Any]) -> Form | Refusal:
        """One norm."""
        size = graph.dim(tensor, 1)
        if not isinstance(size, int):
            return Refusal("unknown-shape", f"{tensor} has an unknown number of channels")
        vectors = {"gamma": affine.scale, "beta": affine.shift, "mean": np.zeros(1), "variance": np.ones(1)}
        params = [Param.of(f"{tensor}_{key}", np.broadcast_to(value, size), dtype) for key, value in vectors.items()]
        return [NewOp("norm", (DATA, *params), domain=DOMAIN)]

    def convolution(self, data: str, convolution: Convolution, stem: str) -> NewOp | None:
        return None

    def can_add(self, graph: ModelGraph, tensor: str, rank: int | None) -> bool:
        return False


TOY = ToyDialect()
