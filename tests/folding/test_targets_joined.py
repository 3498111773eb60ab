"""Affines that are blocked on several inputs of one operator become one behind it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from helpers import Net, fold, op_counts

from bnfold.folding import FoldStep
from bnfold.folding.plan import Remaining

C = 4


def sides(net: Net, *makers: Callable[[str], str] | None, size: tuple = (5, 6)) -> list[str]:
    """Activations of inputs of their own, each with what its maker puts behind it: no way back for an affine."""
    tensors = [
        net.op(kind, net.input("N", C, *size)) for kind, _ in zip(("Sigmoid", "Tanh", "Relu"), makers, strict=False)
    ]
    return [maker(tensor) if maker else tensor for maker, tensor in zip(makers, tensors, strict=True)]


def closed(net: Net, tensor: str):
    """The model that ends in an activation of the tensor: no way forward."""
    return net.build(net.op("Softplus", tensor))


def scale(net: Net, values) -> Callable[[str], str]:
    return lambda tensor: net.op("Mul", tensor, np.asarray(values, np.float32))


def shift(net: Net, values) -> Callable[[str], str]:
    return lambda tensor: net.op("Add", tensor, np.asarray(values, np.float32))


def vector(net: Net) -> np.ndarray:
    return net.draw(C, 1, 1)


AFFINES = ("BatchNormalization", "Mul", "Add")


# -- sums --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Add", "Sub"])
def test_two_shifts_become_one(kind):
    net = Net()
    a, b = sides(net, shift(net, vector(net)), shift(net, vector(net)))
    folded = fold(closed(net, net.op(kind, a, b)))
    before, after = op_counts(folded.before), op_counts(folded.after)
    assert after["Add"] == before["Add"] - 1
    assert after.total() == before.total() - 1


@pytest.mark.parametrize("kind", ["Add", "Sub", "Sum"])
def test_one_scale_on_all_sides_becomes_one_behind(kind):
    net = Net()
    values = vector(net)
    folded = fold(closed(net, net.op(kind, *sides(net, scale(net, values), scale(net, values)))))
    assert folded.count("Mul") == 1


def test_equal_scales_and_any_shifts_become_one_batchnorm():
    net = Net()
    values = net.draw(C)
    a, b = sides(net, *(lambda tensor: net.exact_bn(tensor, values, net.draw(C)) for _ in range(2)))
    folded = fold(closed(net, net.op("Add", a, b)))
    assert folded.count("BatchNormalization") == 1
    assert folded.count("Add") == 1


def test_three_sides_of_one_sum():
    net = Net()
    tensors = sides(net, *(shift(net, vector(net)) for _ in range(3)))
    folded = fold(closed(net, net.op("Sum", *tensors)))
    assert folded.count("Add") == 1


def test_shifts_meet_beside_an_operand_that_carries_nothing():
    net = Net()
    a, b, c = sides(net, shift(net, vector(net)), shift(net, vector(net)), None)
    assert fold(closed(net, net.op("Sum", a, b, c))).count("Add") == 1


def test_rows_of_affines_count_by_their_operators():
    """Mul and Add along the width are two operators: four become two."""
    net = Net()
    values = net.draw(6)

    def row(tensor: str) -> str:
        return net.op("Add", net.op("Mul", tensor, values), net.draw(6))

    folded = fold(closed(net, net.op("Add", *sides(net, row, row))))
    assert folded.count("Mul") == 1
    assert folded.count("Add") == 2


# -- where they do not meet --------------------------------------------------------------------------


def test_different_scales_do_not_meet():
    net = Net()
    folded = fold(closed(net, net.op("Add", *sides(net, scale(net, vector(net)), scale(net, vector(net))))))
    assert not folded.plan.steps
    assert "unequal-scales" in folded.codes


def test_a_scale_and_a_shift_do_not_meet():
    net = Net()
    folded = fold(closed(net, net.op("Add", *sides(net, scale(net, vector(net)), shift(net, vector(net))))))
    # Behind the sum they are no one affine; the shift moves over to the scale.
    assert [step.kind for step in folded.plan.steps] == ["gauge"]


def test_one_side_alone_has_nobody_to_meet():
    net = Net()
    folded = fold(closed(net, net.op("Mul", *sides(net, shift(net, vector(net)), None))))
    assert not folded.plan.steps


def test_what_would_be_as_many_operators_stays():
    """Parts of a row along the width: the two affines would become a Mul and an Add."""
    net = Net()
    a, b = sides(net, scale(net, net.draw(6)), shift(net, net.draw(6)))
    folded = fold(closed(net, net.op("Concat", a, b, axis=3)))
    assert not folded.plan.steps


def test_an_observed_affine_does_not_meet():
    net = Net()
    a, b = sides(net, shift(net, vector(net)), shift(net, vector(net)))
    net.output(a)
    folded = fold(closed(net, net.op("Add", a, b)))
    assert folded.count("Add") == 3


def test_one_affine_read_twice_does_not_meet_itself():
    net = Net()
    (a,) = sides(net, shift(net, vector(net)))
    assert fold(closed(net, net.op("Add", a, a))).count("Add") == 2


@pytest.mark.parametrize("which", ["join", "first"])
def test_an_operator_that_was_asked_to_stay_is_no_meeting_place(which):
    net = Net()
    a, b = sides(net, lambda tensor: net.op("Add", tensor, vector(net), name="first"), shift(net, vector(net)))
    folded = fold(closed(net, net.op("Add", a, b, name="join")), skip={which})
    assert not folded.plan.steps


def test_affines_along_different_axes_do_not_meet():
    net = Net()
    a, b = sides(net, shift(net, net.draw(C, 1, 1)), shift(net, net.draw(6)))
    assert not fold(closed(net, net.op("Add", a, b))).plan.steps


# -- other meeting places ----------------------------------------------------------------------------


def test_the_parts_of_a_concatenation_meet():
    net = Net()
    a, b, c = sides(net, lambda t: net.bn(t, C), lambda t: net.bn(t, C), None)
    folded = fold(closed(net, net.op("Concat", a, b, c, axis=1)))
    assert folded.count(*AFFINES) == 1
    norm = folded.node("BatchNormalization")
    assert folded.constant(norm.input[1]).shape == (3 * C,)
    np.testing.assert_array_equal(folded.constant(norm.input[1])[2 * C :], 1.0)


def test_the_parts_along_another_axis_meet_where_they_are_alike():
    net = Net()
    gamma, beta = net.draw(C), net.draw(C)
    same = [lambda tensor: net.exact_bn(tensor, gamma, beta)] * 2
    assert fold(closed(net, net.op("Concat", *sides(net, *same), axis=2))).count("BatchNormalization") == 1
    other = Net()
    unlike = [lambda tensor: other.bn(tensor, C)] * 2
    assert not fold(closed(other, other.op("Concat", *sides(other, *unlike), axis=2))).plan.steps


def test_the_factors_of_a_product_meet():
    net = Net()
    a, b = sides(net, scale(net, vector(net)), scale(net, vector(net)))
    folded = fold(closed(net, net.op("Mul", a, b)))
    assert folded.count("Mul") == 2  # the product, and one scale


def test_the_scales_of_a_quotient_meet():
    net = Net()
    a, b = sides(net, scale(net, net.positive(C, 1, 1)), scale(net, net.positive(C, 1, 1)))
    quotient = net.op("Div", b, a)  # behind a sigmoid: never zero
    assert fold(closed(net, quotient)).count("Mul") == 1


@pytest.mark.parametrize(("sign", "left"), [(1.0, 1), (-1.0, 2)])
def test_the_sides_of_a_maximum_meet_where_they_rise(sign, left):
    net = Net()
    gamma, beta = sign * net.positive(C), net.draw(C)
    same = [lambda tensor: net.exact_bn(tensor, gamma, beta)] * 2
    assert fold(closed(net, net.op("Max", *sides(net, *same)))).count("BatchNormalization") == left


def test_both_values_of_a_choice_meet():
    net = Net()
    gamma, beta = net.draw(C), net.draw(C)
    a, b = sides(net, *[lambda tensor: net.exact_bn(tensor, gamma, beta)] * 2)
    condition = net.input("N", 1, 1, 1, name="condition", dtype=bool)
    assert fold(closed(net, net.op("Where", condition, a, b))).count("BatchNormalization") == 1


# -- and then ----------------------------------------------------------------------------------------


def test_what_met_goes_on_into_the_affine_behind():
    net = Net()
    values = vector(net)
    total = net.op("Add", *sides(net, scale(net, values), scale(net, values)))
    folded = fold(closed(net, net.op("Relu", net.bn(total, C))))
    assert folded.count("Mul") == 0
    assert folded.count("BatchNormalization") == 1


def test_affines_meet_again_further_on():
    net = Net()
    first = net.op("Add", *sides(net, shift(net, vector(net)), shift(net, vector(net))))
    second = net.op("Add", *sides(net, shift(net, vector(net)), shift(net, vector(net))))
    folded = fold(closed(net, net.op("Add", first, second)))
    assert folded.count("Add") == 4  # three sums, and one shift


def test_what_met_can_be_the_output():
    net = Net()
    y = net.op("Add", *sides(net, shift(net, vector(net)), shift(net, vector(net))))
    folded = fold(net.build(y))
    assert folded.count("Add") == 2
    assert folded.after.graph.output[0].name == y


def test_the_plan_says_where_they_met():
    net = Net()
    values = vector(net)
    a, b = (
        net.op("Mul", net.op(kind, net.input("N", C, 5, 6)), values, name=name)
        for kind, name in (("Sigmoid", "left"), ("Tanh", "right"))
    )
    plan = fold(closed(net, net.op("Add", a, b, name="join"))).plan
    assert {step.subject: (step.kind, step.through) for step in plan.steps} == {
        "left": ("composed", ("join",)),
        "right": ("composed", ("join",)),
    }
    (holder,) = plan.steps[0].holders
    fate = plan.fate("left")
    assert isinstance(fate, Remaining)
    assert fate.subject == holder
    assert not isinstance(fate, FoldStep)


def test_many_meet_in_one_go():
    net = Net()
    values = net.const(np.full((C, 1, 1), 0.5))
    y = net.input("N", C, 2, 2)
    for _ in range(150):
        y = net.op(
            "Tanh", net.op("Add", net.op("Mul", net.op("Relu", y), values), net.op("Mul", net.op("Abs", y), values))
        )
    assert fold(net.build(y), slack=20).count("Mul") == 150
