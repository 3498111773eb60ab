"""The error function in float64, which numpy does not have, by rational approximations.

Forms and coefficients: W. J. Cody, "Rational Chebyshev approximations for the error function", Mathematics of
Computation 23 (1969), tables II, III and IV for 16 to 18 digits. Good to a few roundings.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

#: erf(x) = x · P(x²) / Q(x²) up to here...
_SMALL = 0.46875
_SMALL_P = (1.85777706184603153e-1, 3.16112374387056560, 1.13864154151050156e2, 3.77485237685302021e2,
            3.20937758913846947e3)  # fmt: skip
_SMALL_Q = (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3)
#: ...erfc(x) = exp(-x²) · P(x) / Q(x) up to here...
_MIDDLE = 4.0
_MIDDLE_P = (2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594, 6.61191906371416295e1,
             2.98635138197400131e2, 8.81952221241769090e2, 1.71204761263407058e3, 2.05107837782607147e3,
             1.23033935479799725e3)  # fmt: skip
_MIDDLE_Q = (1.0, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2, 1.62138957456669019e3,
             3.29079923573345963e3, 4.36261909014324716e3, 3.43936767414372164e3, 1.23033935480374942e3)  # fmt: skip
#: ...and beyond erfc(x) = exp(-x²) / x · (1/√π - P(1/x²) / (x² Q(1/x²))), until it is lost beside 1.
_LAST = 6.0
_LARGE_P = (1.63153871373020978e-2, 3.05326634961232344e-1, 3.60344899949804439e-1, 1.25781726111229246e-1,
            1.60837851487422766e-2, 6.58749161529837803e-4)  # fmt: skip
_LARGE_Q = (1.0, 2.56852019228982242, 1.87295284992346725, 5.27905102951428412e-1, 6.05183413124413191e-2,
            2.33520497626869185e-3)  # fmt: skip
#: Elements at a time: intermediate results stay in the processor's cache.
_BLOCK = 1 << 14


def erf(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """``2/√π ∫₀ˣ exp(-t²) dt`` of every element; NaN of NaN."""
    flat = np.ascontiguousarray(x, np.float64).reshape(-1)
    result = np.empty_like(flat)
    for start in range(0, flat.size, _BLOCK):
        result[start : start + _BLOCK] = _block(flat[start : start + _BLOCK])
    return result.reshape(x.shape)


def _block(x: Vector) -> Vector:
    size = np.abs(x)
    result = np.where(np.isnan(x), np.nan, 1.0)
    small, large = size <= _SMALL, (size > _MIDDLE) & (size < _LAST)
    middle = (size > _SMALL) & (size <= _MIDDLE)
    a = size[small]
    result[small] = a * _ratio(_SMALL_P, _SMALL_Q, a * a)
    b = size[middle]
    result[middle] = 1.0 - np.exp(-b * b) * _ratio(_MIDDLE_P, _MIDDLE_Q, b)
    c = size[large]
    inverse = 1.0 / (c * c)
    rest = 1.0 / np.sqrt(np.pi) - inverse * _ratio(_LARGE_P, _LARGE_Q, inverse)
    result[large] = 1.0 - np.exp(-c * c) / c * rest
    return np.copysign(result, x)


def _ratio(above: tuple[float, ...], below: tuple[float, ...], x: Vector) -> Vector:
    """The quotient of two polynomials, highest powers first (Horner)."""
    p, q = np.full_like(x, above[0]), np.full_like(x, below[0])
    for high, low in zip(above[1:], below[1:], strict=True):
        p = p * x + high
        q = q * x + low
    return p / q
