"""Normalisations take in an affine that follows, and take away a shift that precedes."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import Net, assert_stays, fold, fold_unrun

from bnfold.folding.plan import FoldKind

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


@pytest.mark.parametrize("slot", [1, 2])
@pytest.mark.parametrize("kind", ["InstanceNormalization", "LayerNormalization"])
def test_parameters_that_are_computed_refuse(kind, slot):
    net = Net()
    operands = [net.input("N", C, C), net.positive(C), net.draw(C)]
    operands[slot] = net.input(C)
    y = net.op(kind, *operands, name="norm")
    assert_stays(fold(net.build(net.op("Tanh", net.op("Mul", y, np.float32(2))))), "dynamic-parameters", "norm")


def test_a_scale_that_is_no_vector_refuses():
    net = Net()
    y = net.op("InstanceNormalization", net.input("N", C, 6), net.positive(C, 1), net.draw(C), name="norm")
    assert_stays(fold_unrun(net.build(net.op("Tanh", net.bn(y, C)))), "other-axis", "norm (InstanceNormalization)")


def test_instance_normalization_takes_a_uniform_affine():
    net = Net()
    folded = fold(net.build(net.op("Tanh", net.op("Mul", instance(net), np.float32(2)))))
    assert folded.count() == 2


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
@pytest.mark.parametrize("attrs", [{}, {"axis": -1}, {"axis": 2}], ids=str)
def test_layer_normalization_takes_an_affine_along_the_last_axis(attrs, bias):
    net = Net()
    operands = [net.positive(C)] + ([net.draw(C)] if bias else [])
    y = net.op("LayerNormalization", net.input("B", 3, C), *operands, **attrs)
    y = net.op("Add", net.op("Mul", y, net.draw(C)), net.draw(C))
    assert fold(net.build(net.op("Tanh", y))).count() == 2


@pytest.mark.parametrize("kind", ["Mul", "Add"])
def test_layer_normalization_gets_a_bias_from_a_shift_alone(kind):
    net = Net()
    y = net.op("LayerNormalization", net.input("B", 3, C), net.positive(C))
    folded = fold(net.build(net.op("Tanh", net.op(kind, y, net.draw(C)))))
    assert folded.count() == 2
    assert len(folded.node("LayerNormalization").input) == (3 if kind == "Add" else 2)


def test_a_vector_runs_along_the_last_axis_whatever_is_normalised():
    net = Net()
    y = net.op("LayerNormalization", net.input("B", C, 1, C), net.positive(C), net.draw(C), axis=-2)
    y = net.op("Add", net.op("Mul", y, net.draw(C)), net.draw(C))
    assert fold(net.build(net.op("Tanh", y))).count() == 2


@pytest.mark.parametrize("uniform", [True, False])
def test_layer_normalization_of_a_tensor_of_unknown_rank_takes_a_uniform_affine_alone(uniform):
    net = Net()
    y = net.op("LayerNormalization", net.unknown_rank(net.input(2, C), [2, C]), net.positive(C), name="norm")
    y = net.op("Mul", y, np.float32(2)) if uniform else net.exact_bn(y, net.positive(C), net.draw(C))
    net.output(net.op("Tanh", y), shape=[None, None])
    folded = fold(net.build(), feeds=net.feeds)
    if uniform:
        assert folded.count("Mul") == 0
    else:
        assert_stays(folded, "unknown-rank", "norm (LayerNormalization)")


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


def test_mean_and_deviation_of_a_layer_normalization_do_not_depend_on_its_scale():
    net = Net()
    y, *others = net.op("LayerNormalization", net.input("B", 3, C), net.positive(C), outputs=3)
    net.output(*others, shape=["B", 3, 1])
    y = net.op("Add", net.op("Mul", y, net.draw(C)), net.draw(C))
    assert fold(net.build(net.op("Tanh", y))).count() == 2


# -- a shift that is taken away again ----------------------------------------------------------------


def shifted(net: Net, *shape: int) -> str:
    """Something that a shift cannot go back into, and the shift."""
    return net.op("Add", net.op("Tanh", net.input(2, 3, C)), net.draw(*shape))


def normalised(net: Net, x: str, kind: str) -> str:
    parameters = {"InstanceNormalization": 3, "GroupNormalization": 3, "LayerNormalization": C}
    operands = [net.positive(parameters[kind]), net.draw(parameters[kind])] if kind in parameters else []
    extra = {"GroupNormalization": {"num_groups": 1}, "MeanVarianceNormalization": {"axes": [-1]}}.get(kind, {})
    y = net.op(kind, x, *operands, name="norm", **extra)
    net.output(y, shape=[2, 3, C])
    return y


CANCELLED = {
    "InstanceNormalization": [(1,), (3, 1), (2, 1, 1)],
    "GroupNormalization": [(1,), (2, 1, 1)],
    "LayerNormalization": [(1,), (3, 1), (2, 1, 1)],
    "MeanVarianceNormalization": [(1,), (3, 1), (2, 1, 1)],
    "Softmax": [(1,), (3, 1), (2, 1, 1)],
    "LogSoftmax": [(1,), (3, 1), (2, 1, 1)],
}
KEPT = {
    "InstanceNormalization": [(C,)],
    "GroupNormalization": [(C,), (3, 1)],
    "LayerNormalization": [(C,)],
    "MeanVarianceNormalization": [(C,)],
    "Softmax": [(C,)],
    "LogSoftmax": [(C,)],
}


@pytest.mark.parametrize(("kind", "shape"), [(kind, shape) for kind, shapes in CANCELLED.items() for shape in shapes])
def test_a_shift_that_is_the_same_along_the_axes_goes(kind, shape):
    net = Net(opset=21)
    normalised(net, shifted(net, *shape), kind)
    folded = fold(net.build())
    assert folded.count() == 2
    step = folded.plan.steps[0]
    assert (step.type, step.kind, step.into) == ("Add", FoldKind.CANCELLED, ("norm",))


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


@pytest.mark.parametrize("kind", ["LayerNormalization", "Softmax"])
@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("uniform", [True, False])
def test_of_a_tensor_of_unknown_rank_a_uniform_shift_alone_goes(kind, axis, uniform):
    net = Net()
    x = net.op("Tanh", net.unknown_rank(net.input(2, C), [2, C]))
    x = net.op("Add", x, np.float32(0.5)) if uniform else net.exact_bn(x, np.ones(C), net.draw(C))
    y = net.op(kind, x, *([net.positive(C)] if kind == "LayerNormalization" else []), axis=axis, name="norm")
    net.output(y, shape=[None, None])
    folded = fold(net.build(), feeds=net.feeds)
    assert folded.count() == (3 if uniform else 4)


@pytest.mark.parametrize("kind", ["LayerNormalization", "Softmax"])
@pytest.mark.parametrize("axis", [0, -3])
def test_the_first_axis(kind, axis):
    net = Net()
    y = net.op(kind, shifted(net, 2, 1, 1), *([net.positive(C)] if kind == "LayerNormalization" else []), axis=axis)
    assert not fold(net.build(y)).plan.steps


def test_a_shift_that_varies_along_several_axes_stays():
    net = Net()
    normalised(net, shifted(net, 3, C), "InstanceNormalization")
    assert_stays(fold(net.build()), "several-axes", "norm (InstanceNormalization)")


@pytest.mark.parametrize(
    ("opset", "shape", "stays"), [(11, (C,), 1), (11, (2, 1, 1), 0), (13, (C,), 0), (13, (3, 1), 1)]
)
def test_softmax_of_old_takes_all_axes_from_its_own_on_as_one(opset, shape, stays):
    net = Net(opset=opset)
    y = net.op("Softmax", shifted(net, *shape), axis=1)
    assert fold(net.build(y)).count("Add") == stays


@pytest.mark.parametrize(
    ("opset", "shape", "stays"), [(11, (2, 1, 1), 0), (11, (3, 1), 1), (13, (3, 1), 0), (13, (C,), 1)]
)
def test_the_axis_of_softmax_by_default(opset, shape, stays):
    net = Net(opset=opset)
    y = net.op("Softmax", shifted(net, *shape))
    assert fold(net.build(y)).count("Add") == stays


def test_a_normalization_whose_scale_goes_back_and_whose_shift_is_cancelled():
    net = Net()
    x = net.op("Relu", net.op("Conv", net.input("N", 3, 6, 6), net.draw(C, 3, 3, 3)))
    x = net.exact_bn(x, net.positive(C), net.draw(C))
    y = net.op("InstanceNormalization", x, net.positive(C), net.draw(C))
    assert fold(net.build(y)).count() == 3


@pytest.mark.parametrize(("shift", "left"), [([1, 1, -2, -2], 0), ([1, 2, -2, -2], 1), ([1, -2, 1, -2], 1)])
def test_a_shift_that_is_the_same_within_each_group_goes(shift, left):
    net = Net(opset=21)
    x = net.op("Add", net.op("Tanh", net.input(2, 4, C)), np.array(shift, np.float32).reshape(4, 1))
    net.output(net.op("GroupNormalization", x, net.positive(4), net.draw(4), num_groups=2), shape=[2, 4, C])
    assert fold(net.build()).count("Add") == left


# -- RMSNormalization ----------------------------------------------------------------------------------


def rms(net: Net, x: str, **attrs) -> str:
    return net.op("RMSNormalization", x, net.positive(C), name="norm", **attrs)


def test_rms_normalization_takes_a_scale_that_follows():
    net = Net(opset=23)
    y = net.op("Mul", rms(net, net.input("B", 3, C)), net.draw(C))
    assert fold(net.build(net.op("Tanh", y))).count() == 2


def test_rms_normalization_has_no_bias_and_takes_no_shift_away():
    net = Net(opset=23)
    y = net.op("Add", rms(net, net.input("B", 3, C)), net.draw(C))
    assert_stays(fold(net.build(net.op("Tanh", y))), "no-bias", "norm (RMSNormalization)")
    net = Net(opset=23)
    y = rms(net, net.op("Add", net.op("Tanh", net.input("B", 3, C)), np.float32(2)))
    assert_stays(fold(net.build(net.op("Tanh", y))), "normalised", "norm (RMSNormalization)")
