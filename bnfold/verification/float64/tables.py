"""All operators that are known here: importing their modules fills the table."""

from __future__ import annotations

from bnfold.verification.float64 import (
    boxes,
    elementwise,
    fused,
    indexing,
    layout,
    norms,
    pooling,
    products,
    quantized,
    recurrent,
    reductions,
    resize,
    sequences,
)
from bnfold.verification.float64.registry import OPERATORS

__all__ = [
    "OPERATORS",
    "boxes",
    "elementwise",
    "fused",
    "indexing",
    "layout",
    "norms",
    "pooling",
    "products",
    "quantized",
    "recurrent",
    "reductions",
    "resize",
    "sequences",
]
