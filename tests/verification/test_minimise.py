"""The fewest steps that show a fault."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper
from verification_models import model

from bnfold.errors import NotEquivalentError
from bnfold.verification import VerifyOptions, smallest_failing
from bnfold.verification.minimise import minimal

STEPS = [f"s{index}" for index in range(40)]


@given(st.sets(st.sampled_from(STEPS), min_size=1, max_size=4), st.integers(4, 40))
def test_a_set_of_causes_that_act_together_is_found_exactly(causes, count):
    items = sorted(set(STEPS[:count]) | causes, key=STEPS.index)
    assert set(minimal(items, lambda kept: causes <= set(kept))) == causes


@given(st.lists(st.sets(st.sampled_from(STEPS), min_size=1, max_size=3), min_size=1, max_size=4))
def test_of_several_causes_one_is_found_and_nothing_more(causes):
    def fails(kept):
        return any(cause <= set(kept) for cause in causes)

    found = minimal(STEPS, fails)
    assert fails(found)
    assert not any(fails([item for item in found if item != left_out]) for left_out in found)
    assert list(found) == sorted(found, key=STEPS.index)


def test_a_single_cause_among_many_costs_few_tests():
    items = [str(index) for index in range(1024)]
    calls = []

    def fails(kept):
        calls.append(len(kept))
        return "700" in kept

    assert minimal(items, fails) == ("700",)
    assert len(calls) <= 2 * math.log2(1024)


def product(factors, least=None):
    """y = x·f0·f1…, one Mul a factor; where there is a least, no element of y is smaller."""
    names = ["x", *(f"h{index}" for index in range(len(factors)))]
    nodes = [helper.make_node("Mul", [names[index], f"f{index}"], [names[index + 1]]) for index in range(len(factors))]
    weights = {f"f{index}": np.float32(value) for index, value in enumerate(factors)}
    if least is None:
        nodes.append(helper.make_node("Identity", [names[-1]], ["y"]))
    else:
        nodes.append(helper.make_node("Max", [names[-1], "least"], ["y"]))
        weights["least"] = np.float32(least)
    return model(nodes, {"x": [16]}, ["y"], weights)


FACTORS = [1.5, 0.75, 2.0, 1.25, 0.5, 3.0, 0.8, 1.1]


def refolding(wrong, least=None):
    """Each step rewrites one factor as itself, those of ``wrong`` with a fault."""

    def refold(kept):
        factors = [f * (1.01 if str(i) in kept and str(i) in wrong else 1) for i, f in enumerate(FACTORS)]
        return product(factors, least)

    return refold


@pytest.mark.parametrize("wrong", [{"0"}, {"3"}, {"7"}])
def test_the_faulty_step_is_found(wrong):
    steps = [str(index) for index in range(len(FACTORS))]
    assert set(smallest_failing(steps, refolding(wrong))) == wrong
    assert set(smallest_failing(steps, refolding(wrong), original=product(FACTORS))) == wrong


def test_the_feed_that_shows_the_fault_is_followed():
    """On the first feeds no element is as large as the least."""
    steps = [str(index) for index in range(len(FACTORS))]
    assert smallest_failing(steps, refolding({"3"}, least=25.0)) == ("3",)


def test_of_two_faulty_steps_each_is_found_in_turn():
    steps = [str(index) for index in range(len(FACTORS))]
    (first,) = smallest_failing(steps, refolding({"2", "6"}))
    (second,) = smallest_failing([step for step in steps if step != first], refolding({"2", "6"}))
    assert {first, second} == {"2", "6"}


def test_no_faulty_step_is_an_empty_answer():
    assert smallest_failing(["0", "1"], refolding(set())) == ()


def test_a_step_whose_model_does_not_load_is_faulty():
    def refold(kept):
        if "1" in kept:
            return model([helper.make_node("Relu", ["nowhere"], ["y"])], {"x": [16]}, ["y"])
        return product(FACTORS)

    assert smallest_failing(["0", "1", "2"], refold) == ("1",)


def test_a_fault_that_shows_only_inside_is_found_with_intermediates():
    def refold(kept):
        scale = 1.5 if "2" in kept else 1.0
        nodes = [helper.make_node("Mul", ["x", "s"], ["h"]), helper.make_node("Mul", ["h", "z"], ["m"])]
        nodes.append(helper.make_node("Add", ["x", "m"], ["y"]))
        return model(nodes, {"x": [16]}, ["y"], {"s": np.float32(scale), "z": np.float32(0)})

    assert smallest_failing(["1", "2", "3"], refold) == ()
    assert smallest_failing(["1", "2", "3"], refold, options=VerifyOptions(intermediates=True)) == ("2",)


def test_an_original_that_cannot_be_run_is_an_error():
    custom = model([helper.make_node("Mystery", ["x"], ["y"], domain="my.own")], {"x": [1]}, ["y"])
    custom.opset_import.append(helper.make_opsetid("my.own", 1))
    with pytest.raises(NotEquivalentError, match="cannot load the original"):
        smallest_failing(["0"], lambda kept: custom)
