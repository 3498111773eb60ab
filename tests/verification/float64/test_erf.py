"""The error function against the C library's, element by element."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bnfold.verification.float64.erf import erf

EPS = np.finfo(np.float64).eps


@pytest.mark.parametrize(
    ("low", "high"), [(-1e-9, 1e-9), (-0.47, 0.47), (0.46, 0.48), (-4.1, 4.1), (3.9, 6.1), (5, 40)]
)
def test_as_the_c_library_has_it(low, high):
    x = np.random.default_rng(7).uniform(low, high, (3, 7000))  # more than are computed at a time
    expected = np.vectorize(math.erf)(x)
    np.testing.assert_allclose(erf(x), expected, rtol=4 * EPS, atol=0)


def test_where_the_approximations_meet():
    edges = np.array([0.46875, 4.0, 6.0])
    x = np.concatenate([edges, np.nextafter(edges, 0), np.nextafter(edges, 9)])
    np.testing.assert_allclose(erf(x), [math.erf(value) for value in x], rtol=4 * EPS, atol=0)


def test_what_is_no_ordinary_number():
    found = erf(np.array([0.0, -0.0, np.inf, -np.inf, np.nan]))
    np.testing.assert_array_equal(found, [0.0, 0.0, 1.0, -1.0, np.nan])
    assert np.signbit(found[1])
    assert erf(np.array(0.5)).shape == ()
    assert erf(np.empty((0, 3))).shape == (0, 3)
