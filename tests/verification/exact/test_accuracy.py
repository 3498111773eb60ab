"""How much less accurate a result may be, where its errors are many and where few are far larger than the others."""

from __future__ import annotations

import numpy as np
import pytest

from bnfold.verification.exact.accuracy import _independent, error
from bnfold.verification.exact.slices import slices

#: Values of an output, and the rounding of the original.
SHAPE, ROUNDING = (2, 64), 1e-4


def factor_of(times: float, *, alone: bool, seed: int = 0) -> float:
    """That of a result with ``times`` the original's rms error: in every value alike, or most of it in one."""
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal(SHAPE)
    first = ROUNDING * rng.standard_normal(SHAPE)
    second = ROUNDING * rng.standard_normal(SHAPE)
    if alone:
        second[1, 5] = times * np.sqrt(np.square(first).sum())
    else:
        second *= times * np.sqrt(np.square(first).mean() / np.square(second).mean())
    mine, theirs = ((truth + off).astype(np.float32) for off in (first, second))
    return error("y", truth, mine, theirs).factor


@pytest.mark.parametrize(("times", "is_less"), [(1.0, False), (3.0, False), (7.0, True), (10.0, True)])
def test_errors_that_are_alike_are_held_to_their_number(times: float, is_less: bool) -> None:
    assert (factor_of(times, alone=False) > 1.0) == is_less


@pytest.mark.parametrize(("times", "is_less"), [(3.0, False), (8.0, False), (30.0, True)])
def test_one_error_that_is_most_of_all_is_a_matter_of_chance(times: float, is_less: bool) -> None:
    assert (factor_of(times, alone=True) > 1.0) == is_less


@pytest.mark.parametrize("size", [1e-300, 1e-160, 1.0, 1e150])
def test_the_size_of_the_values_does_not_matter(size: float) -> None:
    truth = size * np.random.default_rng(0).standard_normal(SHAPE)
    mine, theirs = truth * (1 + 1e-6), truth * (1 + 1e-5)
    assert error("y", truth, mine, theirs).factor > 1.0
    assert error("y", truth, mine, mine).factor <= 1.0


@pytest.mark.parametrize("size", [1e-170, 1e-160, 1e-80])
def test_errors_whose_powers_vanish_are_many(size: float) -> None:
    truth = np.random.default_rng(0).standard_normal(SHAPE)
    off = size * np.random.default_rng(1).standard_normal(SHAPE)
    found = _independent(slices(truth, off), slices(truth, np.square(off)))
    assert (found >= 1.0).all()
    assert found[0] > 100
