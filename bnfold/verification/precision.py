"""The floating-point types that are compared by size of difference: how coarse each is, and where it ends."""

from __future__ import annotations

#: Machine epsilon by dtype: the spacing of numbers of magnitude 1.
EPSILON = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
#: The largest relative error of one rounding.
ROUNDOFF = {dtype: epsilon / 2 for dtype, epsilon in EPSILON.items()}
#: Below this a number is flushed to 0 or rounded to few bits by some machines: differences of that size are none.
TINY = {"float64": 2.0**-1022, "float32": 2.0**-126, "float16": 2.0**-24, "bfloat16": 2.0**-126}
