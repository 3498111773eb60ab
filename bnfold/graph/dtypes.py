"""Arrays, and what floating-point types can hold."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Limits(NamedTuple):
    """What a floating-point dtype can hold."""

    largest: float
    smallest_normal: float
    eps: float


@cache
def float_limits(dtype: np.dtype[Any]) -> Limits:
    """The limits of float16, bfloat16, float32 or float64."""
    info = ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
    return Limits(float(info.max), float(info.smallest_normal), float(info.eps))


#: The types that models compute in. What has fewer bits is storage: no affine keeps its rounding.
_FLOATS = frozenset({np.float16, ml_dtypes.bfloat16, np.float32, np.float64})


def is_float(dtype: np.dtype[Any]) -> bool:
    """Is it float16, float32, float64 or bfloat16? numpy's kind does not tell: some types of 8 bits are 'f' too."""
    return dtype.type in _FLOATS  # its name takes numpy ten times as long
