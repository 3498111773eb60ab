"""The choice of the learning rate, and the epochs to reach the others."""

from __future__ import annotations

from bnfold.experiment.rates import best_rate, best_so_far, epochs_to_reach


class TestBestRate:
    def test_the_best_mean(self) -> None:
        scores = {0.1: [0.8, 0.9], 0.01: [0.9, 0.9], 0.001: [0.95, 0.7]}
        assert best_rate(scores, higher=True) == 0.01
        assert best_rate(scores, higher=False) == 0.001

    def test_a_rate_at_which_runs_diverge_is_no_better_for_it(self) -> None:
        assert best_rate({0.1: [0.99, None], 0.01: [0.8, 0.8]}, higher=True) == 0.01

    def test_all_diverge_somewhere(self) -> None:
        assert best_rate({0.1: [None, None], 0.01: [0.2, None]}, higher=True) == 0.01

    def test_equal_ones(self) -> None:
        assert best_rate({0.01: [0.9], 0.1: [0.9]}, higher=True) == 0.01

    def test_the_models_own(self) -> None:
        assert best_rate({None: [0.9]}, higher=True) is None


class TestEpochs:
    def test_best_so_far(self) -> None:
        assert best_so_far([0.5, 0.4, 0.7], 5, higher=True) == [0.5, 0.5, 0.7, 0.7, 0.7]
        assert best_so_far([0.5, 0.4, 0.7], 3, higher=False) == [0.5, 0.4, 0.4]
        assert best_so_far([0.5, None], 2, higher=True) == [0.5, 0.5]
        assert best_so_far([None], 2, higher=True) == []

    def test_to_the_best_of_the_worst(self) -> None:
        """The worst arm's mean is 0.6 in the end, after 3 epochs; the other is there after 2."""
        curves = {"slow": [[0.2, 0.4, 0.5], [0.3, 0.5, 0.7]], "fast": [[0.4, 0.7, 0.8], [0.5, 0.6, 0.9]]}
        assert epochs_to_reach(curves, higher=True) == {"slow": 3, "fast": 2}

    def test_less_is_better(self) -> None:
        assert epochs_to_reach({"a": [[3.0, 2.0]], "b": [[1.9, 1.0]]}, higher=False) == {"a": 2, "b": 1}

    def test_an_arm_without_scores(self) -> None:
        assert epochs_to_reach({"a": [[0.1]], "b": [[None]]}, higher=True) == {"a": 1, "b": None}
        assert epochs_to_reach({"a": [[None]]}, higher=True) == {"a": None}
