"""Constants that come up while folding: who computed their operands is no reader then, who reads them may be affine.

``fold`` itself asserts that folding again changes nothing.
"""

from __future__ import annotations

import numpy as np
import pytest
from helpers import Net, fold
from onnx import helper


def filled(net: Net, like: str) -> str:
    """A tensor of halves, of the shape of another one."""
    value = helper.make_tensor("value", 1, [1], [0.5])
    return str(net.op("ConstantOfShape", net.op("Shape", like), value=value))


@pytest.mark.parametrize("shown", [False, True])
def test_what_is_read_for_its_shape_is_no_reader_once_the_shape_is_known(shown: bool) -> None:
    net = Net(opset=12)
    x = net.input(3, 2, 4, 4)
    y = net.op("Conv", x, net.draw(2, 2, 1, 1))
    both = net.op("Add", y, x)
    net.output(net.op("Neg", net.op("Add", y, filled(net, both))))
    if shown:
        net.output(both)
    folded = fold(net.build())
    assert folded.count() == (6 if shown else 1), folded.sentences  # shown, the convolution has another reader


@pytest.mark.parametrize("between", [["Sigmoid"], ["Sigmoid", "Sqrt"], ["Relu", "Sigmoid", "Neg"]])
def test_what_reads_a_constant_that_folding_made_is_looked_at_again(between: list[str]) -> None:
    net = Net(opset=12)
    x = net.input(2, 3, 4, 4)
    y = net.bn(filled(net, x), 3)
    for kind in between:
        y = net.op(kind, y)
    folded = fold(net.build(net.op("Conv", net.op("Add", x, y), net.draw(2, 3, 1, 1))))
    assert folded.count() == 1, folded.sentences


def test_two_constants_that_folding_made_are_added_up() -> None:
    net = Net(opset=12)
    x = net.input(2, 3, 4, 4)
    one = filled(net, x)
    total = net.op("Add", net.bn(one, 3), net.bn(one, 3))
    folded = fold(net.build(net.op("Mul", net.op("Relu", x), total)))
    assert folded.count() == folded.count("Relu", "Mul") == 2, folded.sentences


def test_what_is_fed_is_no_constant() -> None:
    net = Net(opset=12)
    x = net.input(2, 3, 4, 4)
    y = net.op("Sigmoid", net.bn(net.input(2, 3, 4, 4), 3))
    folded = fold(net.build(net.op("Conv", net.op("Add", x, y), net.draw(2, 3, 1, 1))))
    assert folded.count() == 4


def test_branches_that_carry_the_same_but_for_rounding_are_joined() -> None:
    """``0.1 * (0.2 * 0.3)`` and ``(0.1 * 0.2) * 0.3`` are not the same number in float64."""
    net = Net(opset=13, dtype=np.float64)
    x, factors = net.input(2, 3), [np.float64(value) for value in (0.1, 0.2, 0.3)]
    y = net.op("Mul", net.op("Relu", x), factors[0] * (factors[1] * factors[2]) * np.ones(3))
    z = net.op("Mul", net.op("Tanh", x), (factors[0] * factors[1]) * factors[2] * np.ones(3))
    assert factors[0] * (factors[1] * factors[2]) != (factors[0] * factors[1]) * factors[2]
    folded = fold(net.build(net.op("Sigmoid", net.op("Add", y, z))))
    assert folded.count("Mul") == 1


@pytest.mark.parametrize("shown", [False, True])
def test_a_constant_that_a_subgraph_reads_too_is_followed(shown: bool) -> None:
    net = Net(opset=12)
    x = net.input(2, 3, 4, 4)
    y = net.bn(filled(net, x), 3)
    if shown:
        net.output(y)
    inner = Net(opset=12)
    inner.prefix = "inner"
    inner.output(inner.op("Identity", y), shape=[2, 3, 4, 4])
    flag = net.input(name="flag", dtype=bool)
    net.output(net.op("If", flag, then_branch=inner.graph("a"), else_branch=inner.graph("b")), shape=[2, 3, 4, 4])
    net.output(net.op("Conv", net.op("Add", x, net.op("Sigmoid", y)), net.draw(2, 3, 1, 1)))
    folded = fold(net.build())
    assert folded.count("BatchNormalization", "Sigmoid", "Add") == 0
    assert folded.count("Conv") == 1
