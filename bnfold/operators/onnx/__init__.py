"""ONNX: its dialect, and the facts about its operators, one module a family; importing them registers them."""

from bnfold.operators.onnx import (
    conv,
    elementwise,
    joins,
    matmul,
    normalization,
    pooling,
    quantized,
    rearrange,
    recurrent,
    select,
    spatial,
)
from bnfold.operators.onnx.dialect import ONNX

__all__ = [
    "ONNX",
    "conv",
    "elementwise",
    "joins",
    "matmul",
    "normalization",
    "pooling",
    "quantized",
    "rearrange",
    "recurrent",
    "select",
    "spatial",
]
