"""Pooling and reductions: what passes an average, a maximum, a sum, a norm."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import Net, assert_stays, fold

C = 4


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def conv(net: Net) -> str:
    return net.op("Conv", net.input("N", 3, 6, 6), net.draw(C, 3, 1, 1))


def affine(net: Net, y: str, sign: float = 1.0, shift: bool = True) -> str:
    """A BatchNormalization whose scales have that sign."""
    return net.exact_bn(y, sign * net.positive(C), net.draw(C) if shift else np.zeros(C))


def backward(net: Net, y: str, **kinds) -> str:
    return net.op("Tanh", affine(net, y, **kinds))


def forward(net: Net, pool, **kinds) -> str:
    x = affine(net, net.op("Tanh", net.input("N", C, 6, 6)), **kinds)
    return net.op("Conv", pool(x), net.draw(2, C, 1, 1))


WINDOW = {"kernel_shape": [2, 2]}
AVERAGES = {
    "plain": WINDOW,
    "padded, not counted": {**WINDOW, "pads": [1, 1, 1, 1]},
    "counted, not padded": {**WINDOW, "count_include_pad": 1},
    "same": {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER"},
    "ceil": {**WINDOW, "strides": [4, 4], "ceil_mode": 1},
}


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("direction", ["backward", "forward"])
@pytest.mark.parametrize("attrs", AVERAGES.values(), ids=AVERAGES)
def test_everything_passes_an_average(attrs, direction, sign):
    net = Net()
    if direction == "backward":
        y = backward(net, net.op("AveragePool", conv(net), **attrs), sign=sign)
    else:
        y = forward(net, lambda x: net.op("AveragePool", x, **attrs), sign=sign)
    assert fold(net.build(y)).count() == 3


@pytest.mark.parametrize("direction", ["backward", "forward"])
@pytest.mark.parametrize(
    "attrs", [{**WINDOW, "pads": [0, 0, 1, 1]}, {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER"}]
)
def test_a_shift_does_not_pass_an_average_that_counts_its_padding(attrs, direction):
    net = Net()
    attrs = {**attrs, "count_include_pad": 1, "name": "pool"}
    if direction == "backward":
        y = backward(net, net.op("AveragePool", conv(net), **attrs))
    else:
        y = forward(net, lambda x: net.op("AveragePool", x, **attrs))
    assert_stays(fold(net.build(y)), "padding-counted", "pool (AveragePool)")


def test_a_scale_passes_an_average_that_counts_its_padding():
    net = Net()
    y = net.op("AveragePool", conv(net), **WINDOW, pads=[1, 1, 1, 1], count_include_pad=1)
    assert fold(net.build(backward(net, y, shift=False))).count() == 3


@pytest.mark.parametrize("kind", ["GlobalAveragePool", "ReduceMean"])
def test_batchnorm_global_average_dense_folds_forward(kind):
    net = Net()
    x = affine(net, net.op("Tanh", net.input("N", C, 6, 6)), sign=-1.0)
    if kind == "ReduceMean":
        y = net.op("ReduceMean", x, axes=[2, 3], keepdims=0)
    else:
        y = net.op("Flatten", net.op("GlobalAveragePool", x))
    assert fold(net.build(net.op("Gemm", y, net.draw(C, 2)))).count("BatchNormalization") == 0


def test_batchnorm_behind_a_global_average_folds_backward():
    net = Net()
    assert fold(net.build(backward(net, net.op("GlobalAveragePool", conv(net)), sign=-1.0))).count() == 3


# -- maxima ------------------------------------------------------------------------------------------

MAXIMA = {
    "MaxPool": {**WINDOW, "pads": [1, 1, 1, 1]},
    "GlobalMaxPool": {},
    "ReduceMax": {"axes": [2, 3]},
    "ReduceMin": {"axes": [2, 3]},
}


@pytest.mark.parametrize("direction", ["backward", "forward"])
@pytest.mark.parametrize("kind", MAXIMA)
def test_an_affine_of_positive_scales_passes_a_maximum(kind, direction):
    net = Net()
    if direction == "backward":
        y = backward(net, net.op(kind, conv(net), **MAXIMA[kind]))
    else:
        y = forward(net, lambda x: net.op(kind, x, **MAXIMA[kind]))
    assert fold(net.build(y)).count() == 3


@pytest.mark.parametrize("direction", ["backward", "forward"])
@pytest.mark.parametrize("kind", MAXIMA)
def test_a_negative_scale_does_not_pass_a_maximum(kind, direction):
    net = Net()
    attrs = {**MAXIMA[kind], "name": "pool"}
    if direction == "backward":
        y = backward(net, net.op(kind, conv(net), **attrs), sign=-1.0)
    else:
        y = forward(net, lambda x: net.op(kind, x, **attrs), sign=-1.0)
    assert_stays(fold(net.build(y)), "negative-scale", f"pool ({kind})")


def test_one_negative_scale_is_enough_to_refuse():
    net = Net()
    y = net.op("MaxPool", conv(net), **WINDOW, name="pool")
    folded = fold(net.build(net.op("Tanh", net.exact_bn(y, [1.0, 1.0, -1e-3, 1.0], net.draw(C)))))
    assert_stays(folded, "negative-scale", "pool (MaxPool)")


def test_a_zero_scale_passes_a_maximum():
    net = Net()
    y = net.op("MaxPool", conv(net), **WINDOW)
    assert fold(net.build(net.op("Tanh", net.exact_bn(y, [1.0, 0.0, 2.0, 0.0], net.draw(C))))).count() == 3


def test_a_zero_scale_does_not_pass_a_maximum_whose_indices_are_used():
    net = Net()
    y, indices = net.op("MaxPool", conv(net), **WINDOW, outputs=2, name="pool")
    net.output(indices, dtype=np.int64)
    folded = fold(net.build(net.op("Tanh", net.exact_bn(y, [1.0, 0.0, 2.0, 1.0], net.draw(C)))))
    assert_stays(folded, "indices", "pool (MaxPool)")


def test_batchnorm_maxpool_conv_folds_forward():
    net = Net()
    y = forward(net, lambda x: net.op("MaxPool", x, **WINDOW))
    assert fold(net.build(y)).count("BatchNormalization") == 0


@pytest.mark.parametrize("kind", ["AveragePool", "MaxPool"])
def test_an_affine_along_a_pooled_axis_stays(kind):
    net = Net()
    y = net.op(kind, conv(net), **WINDOW, name="pool")
    assert_stays(fold(net.build(net.op("Tanh", net.op("Mul", y, net.positive(5))))), "pooled-axis", f"pool ({kind})")


@pytest.mark.parametrize("kind", ["LpPool", "GlobalLpPool"])
def test_a_scale_passes_a_norm_and_a_shift_does_not(kind):
    attrs = WINDOW if kind == "LpPool" else {}
    net = Net()
    assert fold(net.build(backward(net, net.op(kind, conv(net), **attrs), shift=False))).count() == 3
    net = Net()
    y = backward(net, net.op(kind, conv(net), **attrs, name="norm"))
    assert_stays(fold(net.build(y)), "nonlinear", f"norm ({kind})")


# -- reductions --------------------------------------------------------------------------------------


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("kind", ["ReduceMean", "ReduceSum"])
def test_a_reduction_over_other_axes_passes_an_affine_backward(kind, keepdims):
    net = Net()
    axes = {"axes": [2, -1]} if kind == "ReduceMean" else {}
    y = net.op(kind, conv(net), *([] if axes else [ints(2, -1)]), keepdims=keepdims, **axes)
    assert fold(net.build(backward(net, y, sign=-1.0))).count() == 3


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("kind", ["ReduceMean", "ReduceSum"])
def test_a_reduction_in_front_of_the_channels_renames_their_axis(kind, keepdims):
    net = Net()
    x = net.op("Add", net.op("Mul", net.op("Tanh", net.input("N", 5, C)), net.draw(C)), net.draw(C))
    axes = {"axes": [1]} if kind == "ReduceMean" else {}
    y = net.op(kind, x, *([] if axes else [ints(1)]), keepdims=keepdims, **axes)
    folded = fold(net.build(net.op("MatMul", y, net.draw(C, 2))))
    assert folded.count("Mul") == 0


def test_a_shift_does_not_pass_a_sum_over_an_unknown_number():
    net = Net()
    x = affine(net, net.op("Tanh", net.input("N", C, "T")))
    y = net.op("ReduceSum", x, ints(2), keepdims=0, name="sum")
    assert_stays(fold(net.build(net.op("Gemm", y, net.draw(C, 2)))), "unknown-shape", "sum (ReduceSum)")


def test_a_scale_passes_a_sum_over_an_unknown_number():
    net = Net()
    x = net.op("Mul", net.op("Tanh", net.input("N", C, "T")), net.draw(C, 1))
    y = net.op("ReduceSum", x, ints(2), keepdims=0)
    assert fold(net.build(net.op("Gemm", y, net.draw(C, 2)))).count("Mul") == 0


@pytest.mark.parametrize("direction", ["backward", "forward"])
def test_a_reduction_over_the_affines_axis_refuses(direction):
    net = Net()
    if direction == "forward":
        x = affine(net, net.op("Tanh", net.input("N", C, 6)))
        y = net.op("MatMul", net.op("ReduceMean", x, axes=[1], keepdims=0, name="mean"), net.draw(6, 2))
        assert_stays(fold(net.build(y)), "reduced-axis", "mean (ReduceMean)")
    else:
        y = net.op("ReduceMean", net.op("Conv", net.input("N", 3, 6), net.draw(C, 3, 1)), axes=[2], keepdims=0)
        assert fold(net.build(backward(net, y))).count() == 3


def test_a_reduction_over_all_axes_passes_a_uniform_affine():
    net = Net()
    y = net.op("ReduceMean", net.op("Conv", net.input("N", 3, 6), net.draw(C, 3, 1)), keepdims=0)
    y = net.op("Add", net.op("Mul", y, np.float32(-2)), np.float32(3))
    assert fold(net.build(net.op("Tanh", y))).count() == 3


def test_a_sum_over_all_axes_divides_the_shift():
    net = Net()
    y = net.op("ReduceSum", net.op("Conv", net.input(2, 3, 6), net.draw(C, 3, 1)), keepdims=0)
    assert fold(net.build(net.op("Tanh", net.op("Add", y, np.float32(3))))).count() == 3


def test_a_reduction_that_reduces_nothing_passes_everything():
    net = Net(opset=18)
    y = net.op("ReduceMean", conv(net), noop_with_empty_axes=1)
    assert fold(net.build(backward(net, y, sign=-1.0))).count() == 3


def test_a_reduction_over_axes_chosen_at_run_time_refuses():
    net = Net()
    x = affine(net, net.op("Tanh", net.input("N", C, 6)))
    y = net.op("ReduceSum", x, net.input(1, name="axes", dtype=np.int64), name="sum")
    folded = fold(net.build(net.op("Reshape", y, ints(-1))), feeds={"axes": ints(2)})
    assert_stays(folded, "dynamic-axes", "sum (ReduceSum)")


@pytest.mark.parametrize("kind", ["ReduceL1", "ReduceL2"])
def test_a_reduced_norm_passes_a_positive_scale_alone(kind):
    for kinds, code in (({"shift": False}, ""), ({}, "nonlinear"), ({"shift": False, "sign": -1.0}, "negative-scale")):
        net = Net()
        y = backward(net, net.op(kind, conv(net), axes=[2, 3], name="norm"), **kinds)
        folded = fold(net.build(y))
        if code:
            assert code in folded.codes, folded.sentences
            assert "norm" in folded.sentences
        else:
            assert folded.count() == 3
