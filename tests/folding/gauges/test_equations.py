"""Systems that grow by one equation at a time, beside numpy's solution of the whole."""

from __future__ import annotations

import numpy as np
import pytest

from bnfold.folding.gauges.equations import Conflict, MixedError, Parity, System


def weights(count: int) -> dict[int, float]:
    return dict.fromkeys(range(count), 1.0)


def random_rows(rng: np.random.Generator, count: int, rows: int) -> list[tuple[dict[int, float], float]]:
    made = []
    for _ in range(rows):
        chosen = rng.choice(count, size=int(rng.integers(1, 4)), replace=False).tolist()
        made.append(({k: float(rng.choice([-2.0, -1.0, 1.0])) for k in chosen}, float(rng.integers(-1, 2))))
    return made


@pytest.mark.parametrize("seed", range(60))
def test_an_equation_is_kept_exactly_if_the_system_still_has_a_solution(seed):
    rng = np.random.default_rng(seed)
    system, matrix, right = System(1, weights(6)), [], []
    for terms, constant in random_rows(rng, 6, 12):
        row = np.zeros(6)
        row[list(terms)] = list(terms.values())
        rank = np.linalg.matrix_rank(np.array([*matrix, row]))
        wide = np.linalg.matrix_rank(np.column_stack([np.array([*matrix, row]), [*right, constant]]))
        refused = isinstance(system.add(terms, np.array([constant]), "row"), Conflict)
        assert refused == (wide > rank)
        if not refused:
            matrix.append(row)
            right.append(constant)
    found = system.values()
    np.testing.assert_allclose(np.array(matrix) @ [found[k][0] for k in range(6)], right, atol=1e-9)


@pytest.mark.parametrize("seed", range(60))
def test_signs_solve_exactly_if_some_choice_of_signs_does(seed):
    rng = np.random.default_rng(seed)
    system, rows = Parity(1, weights(5)), []
    for terms, _ in random_rows(rng, 5, 9):
        odd = bool(rng.integers(2))
        tried = [*rows, (set(terms), odd)]
        possible = any(
            all(bool(sum(choice >> k & 1 for k in row) % 2) == parity for row, parity in tried) for choice in range(32)
        )
        factors = dict.fromkeys(terms, 1.0)
        assert (system.add(factors, np.array([odd]), "row") is None) == possible
        if possible:
            rows = tried
    found = system.values()
    for row, parity in rows:
        assert sum(found[k][0] for k in row) % 2 == parity


def test_undo_brings_back_the_former_answers():
    system = System(1, weights(3))
    system.add({0: 1.0, 1: -1.0}, np.zeros(1), "tie")
    mark = system.mark()
    assert system.add({0: 1.0}, np.ones(1), "one") is None
    assert isinstance(system.add({1: 1.0}, np.full(1, 2.0), "two"), Conflict)
    system.undo(mark)
    assert system.add({1: 1.0}, np.full(1, 2.0), "two") is None
    assert system.values()[0] == 2.0


def test_a_conflict_names_the_equations_that_contradict_each_other_and_no_others():
    system = System(2, weights(5))
    system.add({0: 1.0, 1: -1.0}, np.zeros(2), "tie")
    system.add({3: 1.0, 4: -1.0}, np.zeros(2), "elsewhere")
    system.add({0: 1.0}, np.array([1.0, 1.0]), "first")
    found = system.add({1: 1.0}, np.array([1.0, 2.0]), "second")
    assert isinstance(found, Conflict)
    assert set(found.sources) == {"tie", "first", "second"}
    assert found.copy == 1


def test_values_are_kept_together_where_they_have_a_reach():
    system = System(1, weights(4), reach=10.0)
    for k in range(3):
        refused = system.add({k: 1.0, k + 1: -1.0}, np.full(1, 4.0), k)
        assert isinstance(refused, Conflict) == (k == 2)
    low, high = min(v[0] for v in system.values().values()), max(v[0] for v in system.values().values())
    assert (low, high) == (-4.0, 4.0)


def test_an_equation_that_holds_a_variable_in_some_copies_alone_is_mixed():
    system = System(2, weights(2))
    system.add({0: 1.0, 1: np.array([-1.0, -2.0])}, np.zeros(2), "tie")
    with pytest.raises(MixedError):
        system.add({0: 1.0, 1: -1.0}, np.zeros(2), "mixed")


def test_a_small_factor_is_no_zero():
    system = System(1, weights(2))
    system.add({0: 1e-12, 1: -1.0}, np.zeros(1), "tie")
    assert system.add({1: 1.0}, np.full(1, 3.0), "one") is None
    np.testing.assert_allclose(system.values()[0], 3e12)


@pytest.mark.parametrize(("off", "is_zero"), [(0.0, True), (2.0**-50, True), (2.0**-46, False), (1e-9, False)])
def test_a_value_is_zero_where_rounding_alone_keeps_it_from_that(off, is_zero):
    """Of ``x - y = 3, y + z = -3 + off`` follows x = -z + off: a sum of threes that is zero or nearly so."""
    system = System(1, weights(3))
    system.add({0: 1.0, 1: -1.0}, np.array([3.0]), "first")
    system.add({1: 1.0, 2: 1.0}, np.array([-3.0 + 3.0 * off]), "second")
    system.add({2: 1.0}, np.array([0.0]), "third")
    assert (system.values()[0][0] == 0.0) == is_zero


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_small_values_are_not_zero_for_being_small(size):
    system = System(1, weights(2))
    system.add({0: 1.0, 1: -1.0}, np.array([size]), "first")
    system.add({1: 1.0}, np.array([0.0]), "second")
    assert system.values()[0][0] == size


@pytest.mark.parametrize("seed", range(20))
def test_rounding_of_a_long_chain_leaves_no_shift_where_there_is_none(seed):
    """Around a ring of branches that pay for each other the shifts add up to zero exactly, in floats nearly."""
    rng = np.random.default_rng(seed)
    steps = rng.standard_normal(12) / 3.0
    system = System(1, weights(13))
    for k, step in enumerate(steps):
        system.add({k + 1: 1.0, k: -1.0}, np.array([step]), k)
    system.add({12: 1.0}, np.array([np.sum(steps[::-1])]), "ring")
    assert system.values()[0][0] == 0.0


@pytest.mark.parametrize("size", [1.0, 1e-10, 1e-30])
def test_a_contradiction_is_one_at_any_size(size):
    system = System(1, weights(2))
    assert system.add({0: 1.0}, np.zeros(1), "still") is None
    assert system.add({1: 1.0, 0: -1.0}, np.array([size]), "behind") is None
    assert system.add({1: 1.0}, np.array([2 * size]), "elsewhere") is not None
    assert system.add({1: 1.0}, np.zeros(1), "nowhere") is not None


def test_logarithms_are_small_beside_one():
    system = System(1, weights(1), unit=1.0)
    assert system.add({0: 1.0}, np.zeros(1), "still") is None
    assert system.add({0: 1.0}, np.array([1e-10]), "rounding") is None
    assert system.add({0: 1.0}, np.array([1e-8]), "another scale") is not None


def test_what_rounding_leaves_of_a_sum_is_no_contradiction():
    system = System(1, weights(3))
    for variable, value in enumerate((0.1, 0.2)):
        assert system.add({variable: 1.0}, np.array([value]), variable) is None
    assert system.add({2: 1.0, 0: -1.0, 1: -1.0}, np.zeros(1), "sum") is None
    assert system.add({2: 1.0}, np.array([0.3]), "0.1 + 0.2 is not 0.3 in float64") is None
