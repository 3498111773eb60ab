"""What a choice of gauges does to the operators around it."""

from __future__ import annotations

import numpy as np
import pytest

from bnfold.affine import Affine
from bnfold.folding.gauges.carrying import _alike


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ([3.0, 0.0], [3.0, 0.0], True),
        ([0.0, 0.0], [-3e-17, 0.0], True),
        ([0.0, 0.0], [-3e-12, 0.0], False),
        ([3.0, 0.0], [3.0, 1e-10], True),
        ([3.0, 0.0], [3.0, 1e-6], False),
    ],
)
def test_two_ways_to_a_shift_agree_but_for_rounding(first, second, same):
    """Beside a largest shift of three, of which 2^-48 is 1e-14."""
    maps = [Affine(np.ones(2), np.array(shift), 1) for shift in (first, second)]
    assert _alike(*maps, 3.0 * 2.0**-48) == same
    assert _alike(*maps[::-1], 3.0 * 2.0**-48) == same


def test_no_map_is_the_identity():
    assert _alike(None, Affine(np.ones(2), np.array([0.0, 1e-17]), 1), 1e-14)
    assert not _alike(None, Affine(np.ones(2), np.array([0.0, 1e-3]), 1), 1e-14)
