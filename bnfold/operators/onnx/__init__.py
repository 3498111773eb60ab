"""The facts about ONNX's operators, one module a family: importing them registers them."""

from bnfold.operators.onnx import (
    conv,
    elementwise,
    joins,
    matmul,
    normalization,
    pooling,
    rearrange,
    recurrent,
    select,
    spatial,
)

__all__ = [
    "conv",
    "elementwise",
    "joins",
    "matmul",
    "normalization",
    "pooling",
    "rearrange",
    "recurrent",
    "select",
    "spatial",
]
