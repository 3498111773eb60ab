"""Normalisations with a scale and a bias of their own take in an affine that follows."""

from __future__ import annotations

import pytest
from helpers import Net, assert_stays, fold

C = 4


def instance(net: Net) -> str:
    return net.op("InstanceNormalization", net.input("N", C, 6), net.positive(C), net.draw(C), name="norm")


def test_instance_normalization_takes_an_affine():
    net = Net()
    assert fold(net.build(net.op("Tanh", net.bn(instance(net), C)))).count() == 2


def test_instance_normalization_refuses_an_affine_along_another_axis():
    net = Net()
    folded = fold(net.build(net.op("Tanh", net.op("Mul", instance(net), net.draw(6)))))
    assert_stays(folded, "other-axis", "norm (InstanceNormalization)")


def test_instance_normalization_with_computed_parameters_refuses():
    net = Net()
    y = net.op("InstanceNormalization", net.input("N", C, 6), net.input(C), net.draw(C), name="norm")
    assert_stays(fold(net.build(net.op("Tanh", net.bn(y, C)))), "dynamic-parameters", "norm")


def test_an_affine_before_instance_normalization_stays():
    """It normalises away what it is given, but not exactly: epsilon is in the way."""
    net = Net()
    x = net.bn(net.op("Tanh", net.input("N", C, 6)), C)
    y = net.op("InstanceNormalization", x, net.positive(C), net.draw(C), name="norm")
    assert_stays(fold(net.build(y)), "unknown-operator", "norm")


def test_group_normalization_takes_an_affine():
    net = Net(opset=21)
    y = net.op("GroupNormalization", net.input("N", C, 6), net.positive(C), net.draw(C), num_groups=2)
    net.output(net.op("Tanh", net.bn(y, C)), shape=["N", C, 6])
    assert fold(net.build()).count() == 2


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("axis", [-1, 2])
def test_layer_normalization_takes_an_affine_along_the_last_axis(axis, bias):
    net = Net()
    operands = [net.positive(C)] + ([net.draw(C)] if bias else [])
    y = net.op("LayerNormalization", net.input("B", 3, C), *operands, axis=axis)
    y = net.op("Add", net.op("Mul", y, net.draw(C)), net.draw(C))
    assert fold(net.build(net.op("Tanh", y))).count() == 2


def test_layer_normalization_over_several_axes_refuses():
    net = Net()
    y = net.op("LayerNormalization", net.input("B", 3, C), net.positive(3, C), axis=1, name="norm")
    folded = fold(net.build(net.op("Tanh", net.op("Mul", y, net.draw(C)))))
    assert_stays(folded, "other-axis", "norm (LayerNormalization)")


def test_layer_normalization_refuses_an_affine_along_another_axis():
    net = Net()
    y = net.op("LayerNormalization", net.input("B", C, C), net.positive(C), name="norm")
    folded = fold(net.build(net.op("Tanh", net.bn(y, C))))
    assert_stays(folded, "other-axis", "norm (LayerNormalization)")


def test_layer_normalization_whose_mean_is_used_refuses():
    net = Net()
    y, mean = net.op("LayerNormalization", net.input("B", 3, C), net.positive(C), outputs=2, name="norm")
    net.output(mean, shape=["B", 3, 1])
    folded = fold(net.build(net.op("Tanh", net.op("Mul", y, net.draw(C)))))
    assert_stays(folded, "dynamic-parameters", "norm (LayerNormalization)")
