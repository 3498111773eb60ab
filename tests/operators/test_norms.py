"""Normalisations take in an affine that follows, and take away a shift that precedes."""

from __future__ import annotations

import numpy as np
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
    assert_stays(fold(net.build(y)), "normalised", "norm")


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


# -- a shift that is taken away again ----------------------------------------------------------------


def shifted(net: Net, *shape: int) -> str:
    """Something that a shift cannot go back into, and the shift."""
    return net.op("Add", net.op("Tanh", net.input(2, 3, C)), net.draw(*shape))


def normalised(net: Net, x: str, kind: str) -> str:
    parameters = {"InstanceNormalization": 3, "GroupNormalization": 3, "LayerNormalization": C}
    operands = [net.positive(parameters[kind]), net.draw(parameters[kind])] if kind in parameters else []
    extra = {"num_groups": 1} if kind == "GroupNormalization" else {}
    y = net.op(kind, x, *operands, name="norm", **extra)
    net.output(y, shape=[2, 3, C])
    return y


CANCELLED = {
    "InstanceNormalization": [(1,), (3, 1), (2, 1, 1)],
    "GroupNormalization": [(1,), (2, 1, 1)],
    "LayerNormalization": [(1,), (3, 1), (2, 1, 1)],
    "Softmax": [(1,), (3, 1), (2, 1, 1)],
    "LogSoftmax": [(1,), (3, 1), (2, 1, 1)],
}
KEPT = {
    "InstanceNormalization": [(C,)],
    "GroupNormalization": [(C,), (3, 1)],
    "LayerNormalization": [(C,)],
    "Softmax": [(C,)],
    "LogSoftmax": [(C,)],
}


@pytest.mark.parametrize(("kind", "shape"), [(kind, shape) for kind, shapes in CANCELLED.items() for shape in shapes])
def test_a_shift_that_is_the_same_along_the_axes_goes(kind, shape):
    net = Net(opset=21)
    normalised(net, shifted(net, *shape), kind)
    folded = fold(net.build())
    assert folded.count() == 2
    assert folded.plan.steps[0].sentence().endswith("(Add): cancelled by norm")


@pytest.mark.parametrize(("kind", "shape"), [(kind, shape) for kind, shapes in KEPT.items() for shape in shapes])
def test_a_shift_that_varies_along_the_axes_stays(kind, shape):
    net = Net(opset=21)
    normalised(net, shifted(net, *shape), kind)
    assert_stays(fold(net.build()), "nonlinear" if "Softmax" in kind else "normalised", "norm")


@pytest.mark.parametrize("kind", CANCELLED)
def test_a_scale_stays(kind):
    net = Net(opset=21)
    x = net.op("Mul", net.op("Tanh", net.op("Sigmoid", net.input(2, 3, C))), net.positive(1))
    normalised(net, x, kind)
    assert_stays(fold(net.build()), "nonlinear" if "Softmax" in kind else "normalised", "norm")


@pytest.mark.parametrize("slot", [1, 2])
def test_a_shift_of_the_parameters_stays(slot):
    net = Net()
    operands = [net.op("Tanh", net.input(2, 3, C)), net.positive(3), net.draw(3)]
    operands[slot] = net.op("Add", net.op("Tanh", net.input(3)), net.draw(3))
    y = net.op("InstanceNormalization", *operands, name="norm")
    assert_stays(fold(net.build(y)), "normalised", "norm")


def test_a_shift_that_the_mean_shows_stays():
    net = Net()
    y, mean = net.op("LayerNormalization", shifted(net, 1), net.positive(C), outputs=2, name="norm")
    net.output(mean, shape=[2, 3, 1])
    assert_stays(fold(net.build(y)), "normalised", "norm")


@pytest.mark.parametrize(("kind", "count"), [("LayerNormalization", 3), ("Softmax", 3)])
@pytest.mark.parametrize("axis", [-1, 1])
def test_an_axis_that_counts_from_an_unknown_end(kind, count, axis):
    net = Net()
    x = net.op("Add", net.op("Tanh", net.unknown_rank(net.input(2, C), [2, C])), np.float32(0.5))
    y = net.op(kind, x, *([net.positive(C)] if kind == "LayerNormalization" else []), axis=axis, name="norm")
    net.output(y, shape=[None, None])
    folded = fold(net.build(), feeds=net.feeds)
    assert folded.count("Add") == (0 if axis == 1 else 1)
    assert folded.count() == count + (axis < 0)


@pytest.mark.parametrize(
    ("opset", "shape", "stays"), [(11, (C,), 1), (11, (2, 1, 1), 0), (13, (C,), 0), (13, (3, 1), 1)]
)
def test_softmax_of_old_takes_all_axes_from_its_own_on_as_one(opset, shape, stays):
    net = Net(opset=opset)
    y = net.op("Softmax", shifted(net, *shape), axis=1)
    assert fold(net.build(y)).count("Add") == stays


@pytest.mark.parametrize(("opset", "stays"), [(11, 1), (13, 0)])
def test_the_axis_of_softmax_by_default(opset, stays):
    net = Net(opset=opset)
    y = net.op("Softmax", shifted(net, 3, 1))
    assert fold(net.build(y)).count("Add") == stays


def test_a_normalization_whose_scale_goes_back_and_whose_shift_is_cancelled():
    net = Net()
    x = net.op("Relu", net.op("Conv", net.input("N", 3, 6, 6), net.draw(C, 3, 3, 3)))
    x = net.exact_bn(x, net.positive(C), net.draw(C))
    y = net.op("InstanceNormalization", x, net.positive(C), net.draw(C))
    assert fold(net.build(y)).count() == 3
