"""What ONNX writes for affines and sums."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnfold.affine import Affine
from bnfold.graph import ModelGraph, Param
from bnfold.operators.answers import NewOp
from bnfold.operators.base import rank_of
from bnfold.operators.convolution import Convolution
from bnfold.operators.dialect import DATA, Dialect, Form
from bnfold.operators.onnx.conv import conv_op
from bnfold.operators.onnx.idioms import idiom_members
from bnfold.refusal import Refusal

#: PyTorch's BN by the rank of its input.
_TORCH = {2: "BatchNorm1d", 3: "BatchNorm1d", 4: "BatchNorm2d", 5: "BatchNorm3d"}


class OnnxDialect(Dialect):
    """Operators of ONNX's own domain; biases are called as in PyTorch, which most models come from."""

    name = "onnx"
    channel_axis = 1
    bias_argument = "bias"
    trains = False
    decomposes = True
    sums = ("Add", "Sub", "Sum")

    def form(self, graph: ModelGraph, tensor: str, affine: Affine, dtype: np.dtype[Any]) -> Form | Refusal:
        """Mul, Add, one BatchNormalization where the channels are on axis 1, or Mul and Add."""
        # A number needs no rank to be broadcast against.
        rank = 0 if affine.axis is None else rank_of(graph, tensor)
        if rank is None:
            return Refusal("unknown-rank", f"{tensor} has an unknown rank, so no constant can be shaped for it")
        if graph.opsets.get("", 99) < 7:
            return Refusal("old-opset", "before opset 7 constants broadcast by other rules")
        scale = _operand(affine, affine.scale, rank, dtype, f"{tensor}_scale")
        shift = _operand(affine, affine.shift, rank, dtype, f"{tensor}_shift")
        if affine.is_scale:
            return [NewOp("Mul", (DATA, scale))]
        if affine.is_shift:
            return [NewOp("Add", (DATA, shift))]
        # Two numbers are no normalisation: a scaled input or a decomposed activation stays what it was.
        if affine.axis != 1 or affine.grid or dtype.name not in ("float16", "float32", "float64"):
            return [NewOp("Mul", (DATA, scale)), NewOp("Add", (DATA, shift))]
        vectors = {"scale": affine.scale, "bias": affine.shift}
        vectors |= {"mean": np.zeros(affine.size), "variance": np.ones(affine.size)}
        params = [Param.of(f"{tensor}_{name}", vector, dtype) for name, vector in vectors.items()]
        return [NewOp("BatchNormalization", (DATA, *params), {"epsilon": 0.0})]

    def convolution(self, data: str, convolution: Convolution, stem: str) -> NewOp | None:
        return conv_op(data, convolution, stem)

    def batchnorm_code(self, layer: str, axis: int, rank: int | None, channels: int) -> str:
        """PyTorch's, for most ONNX models are exported from it; its BN knows axis 1 alone."""
        return f"x = torch.nn.{_TORCH[rank]}({channels})(x)" if axis == 1 and rank in _TORCH else ""

    def composites(self, graph: ModelGraph) -> frozenset[str]:
        return idiom_members(graph)


def _operand(affine: Affine, values: NDArray[np.float64], rank: int, dtype: np.dtype[Any], name: str) -> Param:
    """A constant that broadcasts from the right against a tensor of that rank."""
    shape = [1] * rank
    for axis, size in affine.axes:
        shape[axis] = size
    first = next((axis for axis, size in enumerate(shape) if size != 1), rank)
    return Param.of(name, values.reshape(shape[first:]), dtype)


ONNX = OnnxDialect()
