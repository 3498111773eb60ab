"""The statistics of an experiment, against brute force and scipy's own tests."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from bnfold.errors import UsageError
from bnfold.experiment import significance


def brute_force(differences: np.ndarray) -> float:
    """Every choice of signs in turn, in fractions of whole numbers, so that nothing is rounded."""
    whole = [round(value * 1000) for value in differences]
    seen = abs(sum(whole))
    flips = [
        sum(sign * value for sign, value in zip(signs, whole, strict=True))
        for signs in product((1, -1), repeat=len(whole))
    ]
    return sum(abs(total) >= seen for total in flips) / len(flips)


class TestSignFlip:
    @pytest.mark.parametrize("seed", range(30))
    def test_agrees_with_brute_force(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        differences = random.integers(-20, 30, size=random.integers(1, 11)) / 1000
        assert significance.sign_flip_p(differences) == brute_force(differences)

    @pytest.mark.parametrize("seed", range(3))
    def test_agrees_with_scipy(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        a, b = random.normal(0.5, 1, 8), random.normal(0, 1, 8)
        expected = stats.permutation_test(
            (a, b), lambda x, y, axis: np.mean(x - y, axis=axis), permutation_type="samples", n_resamples=np.inf
        )
        assert significance.sign_flip_p(a - b) == pytest.approx(expected.pvalue)

    @pytest.mark.parametrize("seeds", [1, 2, 5, 8])
    def test_all_of_one_sign_is_the_lowest_there_is(self, seeds: int) -> None:
        assert significance.sign_flip_p(np.linspace(0.1, 0.3, seeds)) == significance.lowest_p(seeds)

    def test_five_seeds(self) -> None:
        assert significance.lowest_p(5) == 0.0625

    def test_no_difference_at_all(self) -> None:
        assert significance.sign_flip_p(np.zeros(5)) == 1.0

    def test_ties_that_rounding_parts_are_ties(self) -> None:
        assert significance.sign_flip_p(np.array([0.1, 0.2, -0.3])) == 1.0

    def test_many_seeds_are_exact(self) -> None:
        """24 differences of ±1, of which 17 are positive: a binomial test."""
        differences = np.array([1.0] * 17 + [-1.0] * 7)
        assert significance.sign_flip_p(differences) == pytest.approx(stats.binomtest(17, 24).pvalue)

    def test_too_many_seeds(self) -> None:
        assert significance.sign_flip_p(np.ones(40)) == 2.0**-39
        with pytest.raises(UsageError, match="40 seeds at most"):
            significance.sign_flip_p(np.ones(41))


class TestInterval:
    def test_agrees_with_scipy(self) -> None:
        differences = np.array([0.3, 0.1, -0.2, 0.4, 0.25])
        expected = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
        assert significance.t_interval(differences) == pytest.approx((expected.low, expected.high))

    def test_one_seed_has_none(self) -> None:
        assert significance.t_interval(np.array([0.3])) == (None, None)


class TestHolm:
    def test_by_hand(self) -> None:
        assert significance.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])

    def test_never_above_one_nor_out_of_order(self) -> None:
        assert significance.holm([0.9, 0.5]) == [1.0, 1.0]

    @pytest.mark.parametrize(("pairs", "seeds"), [(1, 6), (3, 7)])
    def test_seeds_that_a_clear_difference_needs(self, pairs: int, seeds: int) -> None:
        assert significance.seeds_needed(pairs) == seeds
        assert pairs * 2.0 ** (1 - seeds) < 0.05 <= pairs * 2.0 ** (2 - seeds)


class TestCompare:
    def test_identical_arms_do_not_differ(self) -> None:
        scores = [0.91, 0.93, 0.9, 0.95, 0.92, 0.9, 0.94, 0.93]
        (found,) = significance.compare({"a": scores, "b": scores})
        assert (found.mean, found.p, found.clear) == (0.0, 1.0, False)

    def test_false_alarms_are_rare(self) -> None:
        """Three arms drawn from one distribution, 400 times: at most 5 % of the experiments find a difference."""
        random = np.random.default_rng(7)
        alarms = 0
        for _ in range(400):
            arms = dict(zip("abc", random.normal(0.9, 0.01, (3, 8)) + random.normal(0, 0.02, 8), strict=True))
            alarms += any(pair.clear for pair in significance.compare(arms))
        assert alarms <= 0.05 * 400 + 2 * np.sqrt(400 * 0.05 * 0.95)

    def test_a_planted_effect_is_found(self) -> None:
        random = np.random.default_rng(8)
        of_the_seed = random.normal(0.9, 0.05, 8)  # far more than the effect: pairing takes it away
        arms = {
            name: of_the_seed + random.normal(0, 0.002, 8) + effect
            for name, effect in (("a", 0), ("b", 0), ("c", 0.02))
        }
        found = {(pair.first, pair.second): pair for pair in significance.compare(arms)}
        assert found["a", "c"].clear
        assert found["b", "c"].clear
        assert found["a", "c"].mean == pytest.approx(-0.02, abs=0.005)

    def test_different_numbers_of_seeds(self) -> None:
        with pytest.raises(UsageError, match="paired"):
            significance.compare({"a": [1.0], "b": [1.0, 2.0]})


def test_diverged_runs_count_as_the_worst() -> None:
    assert significance.with_diverged([0.9, None, 0.8], 0.1) == [0.9, 0.1, 0.8]
