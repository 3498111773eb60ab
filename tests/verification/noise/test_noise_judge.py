"""Which differences are held against the noise, and where it is measured further."""

from __future__ import annotations

import numpy as np
import pytest
from deviations import apart, discrete

from bnfold.verification.deviation import deviation
from bnfold.verification.noise.judge import suspicious, undecided
from bnfold.verification.output_check import OnFeed, Tolerance, check_output
from bnfold.verification.precision import EPSILON


@pytest.mark.parametrize(("units", "noticed"), [(7.9, False), (8.1, True)])
def test_few_rounding_units_pass_without_a_measurement(units, noticed):
    item = apart(units * EPSILON["float32"] * 2)
    assert suspicious(item) is noticed
    assert check_output("y", [OnFeed("feed", item, [])], Tolerance()).ok is not noticed
    assert suspicious(item, strict=True)


def test_identical_outputs_are_never_suspicious():
    a = np.ones(3, np.float32)
    assert not suspicious(deviation(a, a), strict=True)


@pytest.mark.parametrize(
    ("times", "size", "more"), [(3, 1, False), (5, 1000, True), (15, 1000, True), (17, 1000, False), (1000, 255, True)]
)
def test_more_is_measured_only_where_it_may_change_the_verdict(times, size, more):
    assert undecided(apart(times * 1e-3, size=size), [apart(1e-3)]) is more


def test_what_was_not_measured_is_not_undecided():
    assert not undecided(apart(1.0), ())
    assert undecided(discrete(5), [discrete(1)])
    assert not undecided(discrete(4), [discrete(1)])
