"""Is a constant still good in its own dtype after folding? Against numpy's own rounding."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import BFLOAT16
from hypothesis import given
from hypothesis import strategies as st

from bnfold.folding.rounding import overflow_code, rounding_fault, scale_fault
from bnfold.graph import Param, float_limits

DTYPES = [np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64), BFLOAT16]


def weight(values, dtype=np.float16) -> Param:
    return Param.of("w", np.asarray(values, np.float64), np.dtype(dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_limits_themselves_survive(dtype):
    limits = float_limits(dtype)
    assert rounding_fault(weight([[limits.largest, limits.smallest_normal]], dtype)) is None
    assert scale_fault(np.array([limits.smallest_normal, -limits.smallest_normal, 0.0]), dtype) is None


@pytest.mark.parametrize("dtype", [DTYPES[0], DTYPES[1], DTYPES[3]], ids=str)
def test_beyond_the_limits_refuses(dtype):
    limits = float_limits(dtype)
    assert "overflow" in rounding_fault(weight([[1.0], [2 * limits.largest]], dtype))
    assert "vanish" in rounding_fault(weight([[1.0], [limits.smallest_normal / 2]], dtype))
    assert "vanish" in scale_fault(np.array([1.0, limits.smallest_normal / 2]), dtype)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_refuses(bad):
    assert "not finite" in rounding_fault(weight([1.0, bad]))
    assert "not finite" in rounding_fault(Param.of("w", np.asarray(bad), np.dtype(np.float32)))


def test_a_bias_may_vanish_and_a_channel_of_zeros_is_one():
    assert rounding_fault(weight([1e-9, 1.0])) is None
    assert rounding_fault(weight([[0.0, 0.0], [1.0, 1e-9]])) is None


def test_integers_and_nothing_are_fine():
    assert rounding_fault(Param.of("w", np.array([[200]], np.uint8))) is None
    assert rounding_fault(weight(np.zeros((0, 3)))) is None


@pytest.mark.parametrize("axis", [0, 1])
def test_the_channels_lie_along_the_given_axis(axis):
    values = np.ones((3, 4))
    values[(slice(None), 2) if axis == 1 else (2, slice(None))] = 1e-9
    assert "vanish" in rounding_fault(weight(values), axis)
    assert rounding_fault(weight(values), 1 - axis) is None


@given(
    st.sampled_from([0, 1]),
    st.lists(st.floats(-12, 4), min_size=4, max_size=4),
    st.lists(st.floats(-12, 6), min_size=3, max_size=3),
)
def test_a_weight_that_was_scaled_is_judged_like_its_values(axis, exponents, factors):
    """The bound that spares the product never lets through what the product itself would not."""
    base = Param.of("w", (10.0 ** np.array(exponents) * np.ones((3, 1))).astype(np.float16))
    factor = 10.0 ** np.array(factors).reshape(3, 1)
    lazily = rounding_fault(base.scaled(factor), axis)
    at_once = rounding_fault(weight(base.exact() * factor), axis)
    assert (lazily is None) == (at_once is None)


def test_large_weights_are_judged_piece_by_piece():
    values = np.ones((300, 200, 3), np.float32)
    assert rounding_fault(Param.of("w", values).scaled(np.full((1, 1, 1), 2.0))) is None
    values[299, 199, 2] = 1e30
    assert "overflow" in rounding_fault(Param.of("w", values).scaled(np.full((1, 1, 1), 1e30)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_half_precision_has_a_code_of_its_own(dtype):
    assert overflow_code(dtype) == ("fp16-overflow" if dtype == np.float16 else "overflow")


@pytest.mark.parametrize(
    ("factor", "refuses"), [(1.0, False), (1e37, False), (1e38, True), (1e-37, False), (1e-38, True)]
)
def test_a_large_weight_that_was_judged_once_is_judged_by_its_next_factor_too(factor, refuses):
    base = Param.of("w", np.full((64, 1024), 30.0, np.float32) * np.arange(1, 65, dtype=np.float32)[:, None] / 64)
    assert rounding_fault(base.scaled(np.full((1, 1), 2.0))) is None
    assert base.extent == (30.0 / 64, 30.0)
    new = base.scaled(np.full((1, 1), factor / 2)).scaled(np.full((1, 1), 2.0))
    with np.errstate(over="ignore", under="ignore"):
        rounded = np.abs((base.array().astype(np.float64) * factor).astype(np.float32))
    limits = float_limits(np.dtype(np.float32))
    survives = bool(np.isfinite(rounded).all() and (rounded.max(axis=1) >= limits.smallest_normal).all())
    assert (rounding_fault(new) is not None) == refuses == (not survives)
