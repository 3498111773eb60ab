"""Differences slice by slice."""

from __future__ import annotations

import numpy as np
import pytest

from bnfold.verification.exact.slices import slices


def test_a_small_channel_is_measured_by_its_own_size():
    rng = np.random.default_rng(0)
    reference = rng.standard_normal((2, 3, 5, 5)) * np.array([1e6, 1.0, 1e-6]).reshape(1, 3, 1, 1)
    difference = np.zeros_like(reference)
    difference[:, 2] = 1e-3 * reference[:, 2]
    found = slices(reference, difference)
    ratio, at = found.worst(found.size)
    assert ratio == pytest.approx(1e-3)
    assert found.place(at) == "index 2 of axis 1"
    assert found.rms[0] < 1e-9 * found.size[0]
    assert found.place(0) == "the whole"


def test_a_factor_is_along_and_a_shift_is_in_the_mean():
    reference = np.random.default_rng(1).standard_normal((4, 10_000))
    factor, shift = slices(reference, 0.01 * reference), slices(reference, np.full_like(reference, 0.02))
    assert factor.along[0] == pytest.approx(factor.rms[0])
    assert abs(factor.mean[0]) < 0.1 * factor.rms[0]
    assert shift.mean[0] == pytest.approx(0.02)
    assert abs(shift.along[0]) < 0.1 * shift.rms[0]


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_squares_neither_overflow_nor_vanish(size):
    reference = np.full((3, 4), size)
    found = slices(reference, 0.5 * reference)
    assert np.allclose(found.size / size, 1.0)
    assert np.allclose(found.rms / size, 0.5)


def test_what_is_not_finite_does_not_count():
    reference, difference = np.array([[1.0, np.inf], [np.nan, 1.0]]), np.array([[0.5, 0.0], [0.0, np.nan]])
    found = slices(reference, difference)
    assert found.size[0] == pytest.approx(0.5)
    assert found.rms[0] == pytest.approx(0.25)


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1, 1)])
def test_shapes_without_slices(shape):
    found = slices(np.zeros(shape), np.zeros(shape))
    assert found.worst(found.size)[0] == 0.0


@pytest.mark.parametrize(("small", "seen"), [(1e-190, False), (1e-140, True)])
def test_a_slice_so_small_that_its_squares_vanish_is_not_off(small: float, seen: bool) -> None:
    """As the probability of a class that a softmax all but rules out, beside others near 1."""
    reference = np.array([[1.0, small], [1.0, small]])
    measured = slices(reference, np.array([[0.0, 1e-7 * small], [0.0, 1e-7 * small]]))
    for amounts in (measured.rms, measured.mean, measured.along):
        assert (amounts > 0).any() == seen
