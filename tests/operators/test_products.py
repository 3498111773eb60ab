"""Products of two tensors computed at run time: a shift passes beside a matrix that adds up to one.

``fold`` compares the outputs in onnxruntime.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from helpers import Net, assert_gone, assert_stays, fold, ints

#: Heads, queries, keys, width of a head.
H, L, S, D = 2, 3, 5, 4

Weights = Callable[[Net, str], str]


def softmax(**attrs: int) -> Weights:
    return lambda net, scores: str(net.op("Softmax", scores, **attrs))


def followed(kind: str, *inputs: object, **attrs: object) -> Weights:
    return lambda net, scores: str(net.op(kind, net.op("Softmax", scores, axis=-1), *inputs, **attrs))


def narrowed(net: Net, scores: str) -> str:
    return str(net.op("Cast", net.op("Cast", net.op("Softmax", scores, axis=-1), to=11), to=1))


def turned_twice(net: Net, scores: str) -> str:
    y = net.op("Softmax", net.op("Transpose", scores, perm=[0, 1, 3, 2]), axis=2)
    return str(net.op("Transpose", net.op("Identity", y), perm=[0, 1, 3, 2]))


def reversed_axes(net: Net, scores: str) -> str:
    y = net.op("Softmax", net.op("Transpose", scores), axis=0)
    return str(net.op("Transpose", y))


AVERAGES: dict[str, tuple[Weights, int]] = {
    "the last axis": (softmax(axis=-1), 17),
    "the last axis from the front": (softmax(axis=3), 17),
    "no axis named": (softmax(), 17),
    "the last axis, of old": (softmax(axis=3), 11),
    "the last axis from behind, of old": (softmax(axis=-1), 11),
    "Dropout": (followed("Dropout"), 17),
    "Casts": (narrowed, 17),
    "Transpose": (turned_twice, 17),
    "Transpose that reverses": (reversed_axes, 17),
}
OTHERS: dict[str, tuple[Weights, int]] = {
    "another axis": (softmax(axis=2), 17),
    "several axes, of old": (softmax(axis=2), 11),
    "the axis of old": (softmax(), 11),
    "LogSoftmax": (lambda net, scores: str(net.op("LogSoftmax", scores, axis=-1)), 17),
    "Sigmoid": (lambda net, scores: str(net.op("Sigmoid", scores)), 17),
    "a mask behind": (followed("Mul", np.tri(L, S, dtype=np.float32)), 17),
    "a part of it": (followed("Pad", ints(0, 0, 0, 0, 0, 0, 0, 1)), 17),
    "training": (followed("Dropout", np.float32(0.0), np.array(True)), 17),
}


def attended(net: Net, weights: Weights, value: str) -> str:
    return str(net.op("MatMul", weights(net, net.input("B", H, L, S)), value, name="mix"))


def value_of(net: Net, keys: int = S) -> str:
    return str(net.op("Relu", net.input("B", H, keys, D)))


@pytest.mark.parametrize(("weights", "opset"), AVERAGES.values(), ids=AVERAGES)
@pytest.mark.parametrize("shape", [(), (D,), (H, 1, 1), (H, 1, D)])
def test_a_shift_passes_from_the_values_to_the_result(weights, opset, shape):
    net = Net(opset=opset)
    y = attended(net, weights, net.op("Add", value_of(net), net.draw(*shape)))
    net.output(net.op("Add", y, net.draw(*shape)), shape=["B", H, L, D])
    assert fold(net.build()).count("Add") == 1


@pytest.mark.parametrize(("weights", "opset"), AVERAGES.values(), ids=AVERAGES)
def test_a_batch_normalization_behind_heads_goes_to_where_the_values_come_from(weights, opset):
    """It runs over heads and their widths, which are two axes of the product."""
    net = Net(opset=opset)
    value = net.op("Reshape", net.op("Conv", net.input("B", 3, S), net.draw(H * D, 3, 1)), ints(-1, H, D, S))
    y = attended(net, weights, net.op("Transpose", value, perm=[0, 1, 3, 2]))
    y = net.op("Reshape", net.op("Transpose", y, perm=[0, 1, 3, 2]), ints(-1, H * D, L))
    net.output(net.op("Relu", net.bn(y, H * D)), shape=["B", H * D, L])
    folded = fold(net.build())
    assert_gone(folded)
    assert folded.count("Conv") == 1


@pytest.mark.parametrize(("weights", "opset"), OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("behind", [False, True])
def test_a_shift_stays_where_nothing_says_that_the_weights_add_up_to_one(weights, opset, behind):
    net = Net(opset=opset)
    keys = S + 1 if weights is OTHERS["a part of it"][0] else S
    value = value_of(net, keys)
    if behind:
        y = net.op("Add", attended(net, weights, value), net.draw(D))
    else:
        y = net.op("Sigmoid", attended(net, weights, net.op("Add", value, net.draw(D))))
    folded = fold(net.build(net.op("Sigmoid", y)))
    assert folded.count("Add") == 1
    assert "mix (MatMul) multiplies two tensors, so no shift passes" in folded.sentences


@pytest.mark.parametrize("axis", [-2, -1])
def test_columns_that_add_up_to_one_let_a_shift_of_the_left_matrix_pass(axis):
    net = Net()
    left = net.op("Add", net.op("Relu", net.input("B", D, S)), net.draw(D, 1))
    y = net.op("MatMul", left, net.op("Softmax", net.input("B", S, L), axis=axis), name="mix")
    folded = fold(net.build(net.op("Add", y, net.draw(D, 1))))
    assert folded.count("Add") == (1 if axis == -2 else 2)


def test_a_shift_along_the_axis_that_is_summed_over_stays():
    net = Net()
    y = attended(net, softmax(axis=-1), net.op("Add", value_of(net), net.draw(S, 1)))
    assert_stays(fold(net.build(net.op("Sigmoid", y))), "contracted-axis", "mix (MatMul)")


def test_a_shift_along_the_rows_of_what_adds_up_to_one_stays():
    net = Net()
    y = net.op("Add", attended(net, softmax(axis=-1), value_of(net)), net.draw(L, 1))
    assert_stays(fold(net.build(net.op("Sigmoid", y))), "other-axis", "mix (MatMul)", "in full")


def test_a_shift_of_values_that_are_the_same_for_all_heads_stays_apart_by_head():
    net = Net()
    value = net.op("Conv", net.input(1, D, S), net.draw(S, D, 1))
    value = net.op("Reshape", value, ints(1, S, S))
    y = net.op("Add", attended(net, softmax(axis=-1), value), net.draw(H, 1, S))
    assert_stays(fold(net.build(net.op("Sigmoid", y))), "other-axis", "mix (MatMul)", "in full")


def test_both_sides_carrying_something_is_no_average_any_more():
    net = Net()
    weights = net.op("Mul", net.op("Softmax", net.input("B", L, S), axis=-1), net.draw(L, 1))
    y = net.op("MatMul", weights, net.op("Add", net.op("Relu", net.input("B", S, D)), net.draw(D)), name="mix")
    folded = fold(net.build(net.op("Sigmoid", y)))
    assert folded.count("Add") == 1


def test_nothing_adds_up_to_one_over_no_keys():
    net = Net()
    weights = net.op("Softmax", net.input(2, L, 0), axis=-1)
    y = net.op("MatMul", weights, net.op("Add", net.op("Relu", net.input(2, 0, D)), net.draw(D)), name="mix")
    folded = fold(net.build(net.op("Add", y, net.draw(D))))
    assert folded.count("Add") == 2


@pytest.mark.parametrize("slot", [0, 1])
@pytest.mark.parametrize("behind", [False, True])
def test_a_scale_along_a_batch_axis_goes_to_a_factor_that_has_it(slot, behind):
    net = Net()
    shapes = [[H, L, S], [H, S, D]]
    shapes[slot] = [1, *shapes[slot][1:]]
    factors = [net.op("MatMul", net.input("B", *shape), net.draw(shape[-1], shape[-1])) for shape in shapes]
    if behind:
        y = net.op("Mul", net.op("MatMul", *factors), net.draw(H, 1, 1))
    else:
        factors[1 - slot] = net.op("Mul", net.op("Tanh", factors[1 - slot]), net.draw(H, 1, 1))
        y = net.op("Mul", net.op("MatMul", *factors), net.draw(H, 1, 1))
    folded = fold(net.build(net.op("Sigmoid", y)))
    # A weight of one matrix for all heads has no room for a scale by head: one Mul stays.
    assert folded.count("Mul") == 1
