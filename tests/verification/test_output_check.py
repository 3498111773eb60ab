"""When is the difference of an output rounding? The rules on numbers made by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from deviations import apart, discrete

from bnfold.verification.deviation import Deviation, deviation
from bnfold.verification.output_check import TOLERANCE, OnFeed, Tolerance, check_output, factor
from bnfold.verification.precision import EPSILON

LOOSE = Tolerance()
STRICT = Tolerance(strict=True)
EPS = EPSILON["float32"]


def verdict(item, samples, tolerance=LOOSE):
    return check_output("y", [OnFeed("feed", item, samples)], tolerance)


def test_the_factor_is_in_rounding_units_without_noise():
    assert factor(apart(2 * EPS), ()) == pytest.approx(1.0)
    assert factor(apart(2 * EPS), [apart(EPS / 100)]) == pytest.approx(1.0)


def test_each_amount_is_held_against_its_like():
    noise = [apart(1e-3, 1e-5, 1e-7)]
    assert factor(apart(1e-3, 1e-5, 1e-7), noise) == pytest.approx(1.0)
    assert factor(apart(1e-3, 1e-3, 1e-7), noise) == pytest.approx(100)
    assert factor(apart(1e-3, 1e-5, 1e-3), noise) > 1e3


def test_a_large_offset_makes_the_unit_its_spacing():
    close = apart(1e-4, low=9999.0, high=10001.0)
    assert factor(close, ()) == pytest.approx(1e-4 / (EPS / 2 * 10001))


def test_nothing_is_nothing_and_something_from_nothing_is_beyond_measure():
    assert factor(apart(0.0, low=0.0, high=0.0), ()) == 0.0
    assert factor(apart(1e-3, low=0.0, high=0.0), ()) > 1e30
    assert factor(apart(1e-40, low=0.0, high=0.0), ()) < 1


@pytest.mark.parametrize(("times", "ok"), [(3.9, True), (4.1, False)])
def test_a_difference_may_be_a_few_times_the_measured_noise(times, ok):
    check = verdict(apart(times * 1e-3), [apart(1e-3), apart(5e-4)])
    assert check.ok is ok
    assert check.factor == pytest.approx(times)
    assert check.noise == pytest.approx(5e-4)
    if not ok:
        assert "4.1 times the original's rounding noise" in check.reason


def test_noise_that_cannot_be_measured_leaves_the_fixed_tolerance():
    span = 2.0
    assert verdict(apart(TOLERANCE["float32"] * span * 0.9), None).ok
    assert not verdict(apart(TOLERANCE["float32"] * span * 1.1), None).ok


def test_strict_demands_both():
    within_both = apart(1e-5)
    assert verdict(within_both, [apart(1e-5)], STRICT).ok
    assert not verdict(within_both, [apart(1e-6)], STRICT).ok
    noisy = apart(1e-2)
    assert verdict(noisy, [apart(1e-2)], LOOSE).ok
    assert not verdict(noisy, [apart(1e-2)], STRICT).ok


@pytest.mark.parametrize(
    ("tolerance", "ok"),
    [
        (Tolerance(rtol=1e-3), True),
        (Tolerance(rtol=1e-5), False),
        (Tolerance(atol=1.1e-4), True),
        (Tolerance(atol=0.9e-4), False),
        (Tolerance(rtol=3e-5, atol=5e-5), True),
    ],
)
def test_a_given_tolerance_is_of_the_range_and_absolute(tolerance, ok):
    check = verdict(apart(1e-4), [], tolerance)
    assert check.ok is ok
    assert check.tolerance == pytest.approx(tolerance.limit("float32", 2.0) / 2.0)


def test_the_range_is_over_all_feeds_and_the_factor_of_each():
    small, large = apart(1e-4, low=0.0, high=1e-2), apart(1e-4, low=-100.0, high=100.0)
    check = check_output("y", [OnFeed("small", small, []), OnFeed("large", large, [])], LOOSE)
    assert check.max_rel == pytest.approx(1e-4 / 200)
    assert not check.ok
    assert check.feed == "small"


def test_snr_is_of_power():
    check = verdict(apart(1e-3), [apart(1e-3)])
    assert check.snr_db == pytest.approx(60.0)
    assert verdict(apart(0.0), []).snr_db is None


def test_nan_in_other_places_is_never_accepted():
    item = Deviation("float32", 3, nonfinite_agree=False, low=0.0, high=1.0)
    for tolerance in (LOOSE, STRICT, Tolerance(rtol=1.0)):
        check = verdict(item, [], tolerance)
        assert not check.ok
        assert check.feed == "feed"


@pytest.mark.parametrize(("flips", "mismatches", "ok"), [(0, 0, True), (0, 1, False), (2, 8, True), (2, 9, False)])
def test_discrete_values_may_flip_as_often_as_rounding_flips_them(flips, mismatches, ok):
    check = verdict(discrete(mismatches), [discrete(0), discrete(flips)])
    assert check.ok is ok
    assert check.mismatches == mismatches
    for tolerance in (STRICT, Tolerance(rtol=1.0)):
        assert verdict(discrete(mismatches), [discrete(flips)], tolerance).ok is (mismatches == 0)


def test_discrete_reasons_count():
    assert verdict(discrete(9), [discrete(2)]).reason == "9 of 100 values of y differ (rounding alone flips 2)"
    assert verdict(discrete(9), None).reason == "9 of 100 values of y differ"


def test_a_fault_is_its_own_reason():
    a = np.zeros(3, np.float32)
    check = check_output("y", [OnFeed("one", deviation(a, a), []), OnFeed("two", deviation(a, a[:2]), [])], LOOSE)
    assert not check.ok
    assert check.factor == math.inf
    assert check.reason == "y has shape [2] instead of [3] on feed 'two'"
