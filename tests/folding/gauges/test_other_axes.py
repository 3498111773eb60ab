"""Affines of one component that do not all work along the same axes."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import Folded, Net, fold


def two_readers(wide: tuple[int, ...], *, mul_first: bool) -> Folded:
    """Two BN read a convolution; what the second one makes is added to a tensor, and that multiplied by ``wide``."""
    net = Net()
    x = net.input("N", 4, 6, 6)
    c, other = (net.op("Conv", x, net.draw(4, 4, 1, 1)) for _ in range(2))

    def multiplied() -> None:
        normed = net.bn(c, 4, name="second")
        net.output(net.op("Sigmoid", normed))
        net.output(net.op("Tanh", net.op("Mul", net.op("Add", other, normed), net.positive(*wide), name="wide")))

    def plain() -> None:
        net.output(net.op("Relu", net.bn(c, 4, name="first")))

    for part in (multiplied, plain) if mul_first else (plain, multiplied):
        part()
    return fold(net.build())


@pytest.mark.parametrize("mul_first", [True, False])
@pytest.mark.parametrize("wide", [(6, 1), (4, 6, 1)])
def test_one_that_works_along_other_axes_hinders_nobody(wide: tuple[int, ...], mul_first: bool) -> None:
    """Whichever the search begins with: one of the two BN goes, the other one makes up for it."""
    folded = two_readers(wide, mul_first=mul_first)
    assert folded.count("BatchNormalization") == 1, folded.sentences
    assert folded.count("Mul") == 1


def test_an_operator_that_repeats_channels_between_tensors_along_different_axes() -> None:
    """The cast carries channels of axis 1 on one side and was reached along axis 0 on the other."""
    net = Net()
    x = net.op("Max", net.input(4, 6), net.positive(1))
    net.output(net.op("Relu", net.op("Sub", net.draw(4, 1), x)))
    normed = net.bn(net.op("Neg", x), 6)
    net.output(net.op("MatMul", net.draw(4, 4), normed))
    net.output(net.op("Relu", net.bn(net.op("Div", net.op("Identity", x), net.positive(4, 1)), 6)))
    folded = fold(net.build())
    assert folded.count("Neg") == 0


def test_a_choice_between_two_tensors_that_were_reached_along_different_axes() -> None:
    net = Net()
    product = net.op("MatMul", net.input(2, 4, 6), net.draw(6, 6))
    other = net.op("Add", product, net.draw(6))
    moved = net.op("CastLike", net.op("Add", net.bn(product, 4), net.draw(4, 1)), product)
    net.output(net.bn(net.op("Where", np.arange(6) % 2 == 0, moved, other), 4))
    folded = fold(net.build())
    assert folded.count("BatchNormalization") == 2
    assert folded.count("Add") == 1


def test_a_product_of_two_computed_matrices_beside_a_gauge() -> None:
    """One of its inputs carries a change, its output none: that is refused, for it has no weights."""
    net = Net()
    x = net.input(2, 4, 6)
    mean = net.op("ReduceMean", x, axes=[2], keepdims=1)
    total = net.op("Add", net.draw(2, 1, 1), net.op("Add", mean, x))
    net.output(net.op("GlobalAveragePool", net.op("MatMul", x, net.op("Transpose", total, perm=[0, 2, 1]))))
    net.output(net.op("Relu", net.op("Neg", mean)))
    net.output(net.op("Sub", net.const(1.5), net.op("ReduceMean", total, axes=[2], keepdims=1)))
    fold(net.build())


def test_the_model_s_output_keeps_a_producer_where_all_that_makes_it_could_go() -> None:
    """The negation of the negation of an input, which is another output."""
    net = Net()
    negated = net.op("Neg", net.input(4, 6))
    net.output(net.op("Add", net.const(1.5), negated), net.op("Div", negated, net.positive(6)))
    net.output(net.op("Neg", negated))
    fold(net.build())
