"""How far apart two arrays are, against numpy in float64 and by hand."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest

from bnfold.verification import deviation as module
from bnfold.verification.deviation import deviation


@pytest.mark.parametrize("chunk", [1 << 20, 7])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_amounts_are_those_of_numpy(monkeypatch, dtype, chunk):
    monkeypatch.setattr(module, "_CHUNK", chunk)
    rng = np.random.default_rng(0)
    a = rng.standard_normal((5, 6)).astype(dtype)
    b = (a.astype(np.float64) + rng.standard_normal((5, 6)) * 0.1).astype(dtype)
    found = deviation(a, b)
    wide, difference = a.astype(np.float64), np.abs(a.astype(np.float64) - b.astype(np.float64))
    assert found.largest == difference.max()
    assert found.rms == pytest.approx(math.sqrt((difference**2).mean()))
    assert found.typical == pytest.approx(np.quantile(difference, 0.9))
    assert found.signal == pytest.approx(math.sqrt((wide**2).mean()))
    assert (found.low, found.high) == (wide.min(), wide.max())
    assert found.span == wide.max() - wide.min()
    assert found.magnitude == np.abs(wide).max()
    assert not found.identical
    assert found.dtype == np.dtype(dtype).name


def test_equal_arrays_are_identical_down_to_the_sign_of_zero():
    a = np.array([0.0, np.nan, np.inf], np.float32)
    assert deviation(a, a.copy()).identical
    minus = deviation(a, np.array([-0.0, np.nan, np.inf], np.float32))
    assert not minus.identical
    assert minus.largest == 0.0
    assert minus.nonfinite_agree


@pytest.mark.parametrize(
    ("a", "b", "agree"),
    [
        ([1, np.nan], [1, np.nan], True),
        ([1, np.nan], [1, 2], False),
        ([1, 2], [1, np.nan], False),
        ([np.inf, 2], [np.inf, 2], True),
        ([np.inf, 2], [-np.inf, 2], False),
        ([np.inf, 2], [np.nan, 2], False),
        ([1, 2], [1, np.inf], False),
    ],
)
def test_what_is_not_finite_must_agree_in_place(a, b, agree):
    found = deviation(np.array(a, np.float32), np.array(b, np.float32))
    assert found.nonfinite_agree is agree
    assert found.largest == 0.0


def test_amounts_leave_out_what_is_not_finite():
    a, b = np.array([1, np.nan, 3, np.inf], np.float64), np.array([1.5, np.nan, 3, np.inf])
    found = deviation(a, b)
    assert (found.largest, found.low, found.high) == (0.5, 1, 3)


def test_the_range_is_the_references_whatever_the_other_holds():
    found = deviation(np.array([1.0, 2.0, np.inf]), np.full(3, np.nan))
    assert (found.low, found.high) == (1.0, 2.0)
    assert found.informative
    assert not found.nonfinite_agree


def test_large_numbers_do_not_overflow():
    a = np.array([1e300, -1e300])
    found = deviation(a, a * 1.5)
    assert found.rms == pytest.approx(5e299)
    assert math.isfinite(found.signal)


@pytest.mark.parametrize(
    ("values", "informative"), [([np.nan, np.inf], False), ([np.nan, 1], True), ([], True), ([0, 0], True)]
)
def test_an_output_without_finite_values_tells_nothing(values, informative):
    a = np.array(values, np.float32)
    assert deviation(a, a).informative is informative


@pytest.mark.parametrize(
    ("a", "b", "mismatches"),
    [
        (np.array([1, 2, 3]), np.array([1, 5, 3]), 1),
        (np.array([True, False]), np.array([False, True]), 2),
        (np.array(["a", "b"], object), np.array(["a", "b"], object), 0),
    ],
)
def test_discrete_types_are_counted(a, b, mismatches):
    found = deviation(a, b)
    assert found.exact_type
    assert found.mismatches == mismatches
    assert found.identical is (mismatches == 0)


def test_another_shape_or_dtype_is_a_fault():
    a = np.zeros((2, 3), np.float32)
    assert deviation(a, a.T).fault == "shape [3, 2] instead of [2, 3]"
    assert deviation(a, a.astype(np.float64)).fault == "float64 instead of float32"


def test_a_single_number_has_its_magnitude_as_range():
    assert deviation(np.array(-3.0), np.array(-3.0)).span == 3.0


def test_quantiles_of_large_arrays_are_of_a_sample(monkeypatch):
    monkeypatch.setattr(module, "_SAMPLE", 100)
    a = np.zeros(10_001, np.float32)
    b = a.copy()
    b[::5] = 1.0
    assert deviation(a, b).typical == 1.0
    b[:] = 0.0
    b[0] = 1.0
    assert deviation(a, b).typical == 0.0
