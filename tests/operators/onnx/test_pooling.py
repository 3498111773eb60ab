"""Pooling and reductions: what passes an average, a maximum, a sum, a norm."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import Net, assert_gone, assert_stays, fold, fold_unrun, ints

from bnfold.folding import fold_graph
from bnfold.formats import load
from bnfold.graph import ModelGraph, Op, Tensor
from bnfold.operators import Node, facts_of
from bnfold.operators.onnx import ONNX

C = 4


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


def test_a_shift_does_not_pass_an_average_whose_last_windows_reach_over_the_border():
    net = Net()
    attrs = {"kernel_shape": [2, 2], "strides": [4, 4], "ceil_mode": 1, "count_include_pad": 1, "name": "pool"}
    assert_stays(fold(net.build(backward(net, net.op("AveragePool", conv(net), **attrs)))), "padding-counted")


@pytest.mark.parametrize("kind", ["AveragePool", "GlobalAveragePool", "MaxPool", "GlobalMaxPool"])
def test_an_affine_that_is_the_same_everywhere_passes_a_pool(kind):
    net = Net()
    y = net.op(kind, conv(net), **({} if kind.startswith("Global") else WINDOW))
    y = net.op("Add", net.op("Mul", y, np.float32(2)), np.float32(3))
    assert fold(net.build(net.op("Tanh", y))).count() == 3


@pytest.mark.parametrize("kind", ["AveragePool", "MaxPool"])
def test_an_affine_along_the_batch_passes_a_pool(kind):
    net = Net()
    x = net.op("Transpose", net.op("Conv", net.input(5, 3, 6, 6), net.draw(C, 3, 1, 1)), perm=[1, 0, 2, 3])
    y = net.op("Mul", net.op(kind, x, **WINDOW), net.positive(C, 1, 1, 1))
    assert_gone(fold(net.build(net.op("Tanh", y))))


# -- means as convolutions ---------------------------------------------------------------------------

PAD = {"pads": [1, 0, 0, 1], "count_include_pad": 1}
MEANS = {
    "plain": WINDOW,
    "oblong": {"kernel_shape": [3, 2]},
    "strides": {**WINDOW, "strides": [2, 3]},
    "padded, counted": {**WINDOW, **PAD},
    "valid": {**WINDOW, "auto_pad": "VALID"},
    "dilations": {**WINDOW, **PAD, "dilations": [2, 1]},
}
#: Means that are no convolution, or none that is known.
OTHER_MEANS = {
    "ceil": {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
    "padded, not counted": {**WINDOW, "pads": [1, 0, 0, 1]},
    "same": {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER", "count_include_pad": 1},
}


def sum_of_means(attrs):
    """Two branches of a depthwise convolution of one tap and a mean: one convolution is cheaper than the four."""
    net = Net(opset=19)
    x = net.input("N", 5, 8, 6)
    branches = [net.op("Conv", x, net.draw(5, 1, 1, 1), group=5) for _ in range(2)]
    y = net.op("Add", *(net.op("AveragePool", branch, **attrs) for branch in branches))
    return fold(net.build(net.op("Relu", y)))


@pytest.mark.parametrize("attrs", MEANS.values(), ids=MEANS)
def test_a_mean_over_windows_is_a_depthwise_convolution(attrs):
    folded = sum_of_means(attrs)
    assert (folded.count("Conv"), folded.count("AveragePool")) == (1, 0)


@pytest.mark.parametrize("attrs", OTHER_MEANS.values(), ids=OTHER_MEANS)
def test_a_mean_over_unequal_windows_is_no_convolution(attrs):
    assert not sum_of_means(attrs).plan.steps


def test_means_of_unequal_reach_are_added_where_they_are_as_long():
    """Windows of 2 in steps of 2 are as many as every second position of an even size."""
    net = Net()
    x = net.op("Relu", net.input("N", 5, 8, 6))
    branch = net.op("AveragePool", x, kernel_shape=[1, 1], strides=[2, 2])
    y = net.op("Add", branch, net.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2]))
    assert fold(net.build(net.op("Relu", y))).count("AveragePool") == 0


@pytest.mark.parametrize(
    "data",
    [
        Tensor("x", None, (1, C, 8, 8)),
        Tensor("x", np.dtype(np.float32), (1, None, 8, 8)),
        Tensor("x", np.dtype(np.float32)),
    ],
    ids=["dtype", "channels", "shape"],
)
def test_a_mean_over_what_is_not_known_is_no_convolution(data):
    graph = ModelGraph(dialect=ONNX, opsets={"": 17})
    graph.inputs = [data]
    graph.put(Op("pool", "AveragePool", ("x",), ("y",), WINDOW))
    assert facts_of(graph.op("pool")).convolution(Node(graph, graph.op("pool"))) is None


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
    folded = fold(net.build(y))
    assert folded.count("BatchNormalization", "Mul") == 1  # sizes and shifts may go, signs do not
    assert "negative-scale" in folded.codes
    assert f"pool ({kind})" in folded.sentences


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


def test_a_positive_scale_passes_a_maximum_whose_indices_are_used():
    net = Net()
    y, indices = net.op("MaxPool", conv(net), **WINDOW, outputs=2)
    net.output(indices, dtype=np.int64)
    assert fold(net.build(net.op("Tanh", net.exact_bn(y, [1.0, 0.25, 2.0, 1.0], net.draw(C))))).count() == 3


def test_an_affine_behind_the_indices_of_a_maximum_stays():
    """No runtime takes such a model, but the checker does."""
    net = Net()
    _, indices = net.op("MaxPool", conv(net), **WINDOW, outputs=2, name="pool")
    net.output(net.bn(indices, C), shape=["N", C, 5, 5])
    plan = fold_graph(load(net.build()).graph)[1]
    assert plan.remaining[0].backward.code == "unknown-operator"


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


@pytest.mark.parametrize("attrs", [{}, {"keepdims": 0}, {"keepdims": 1}], ids=["default", "drop", "keep"])
@pytest.mark.parametrize("kind", ["ReduceMean", "ReduceSum", "ReduceMax"])
def test_a_reduction_in_front_of_the_channels_renames_their_axis(kind, attrs):
    for direction in ("forward", "backward"):
        net = Net()

        def reduced(x: str, net: Net = net) -> str:
            return net.op(kind, x, ints(1), **attrs) if kind == "ReduceSum" else net.op(kind, x, axes=[1], **attrs)

        if direction == "forward":
            x = net.op("Add", net.op("Mul", net.op("Tanh", net.input("N", 5, C)), net.positive(C)), net.draw(C))
            y = net.op("MatMul", reduced(x), net.draw(C, 2))
        else:
            y = reduced(net.op("MatMul", net.input("N", 5, 3), net.draw(3, C)))
            y = net.op("Tanh", net.op("Add", net.op("Mul", y, net.positive(C)), net.draw(C)))
        folded = fold(net.build(y))
        assert folded.count("Mul") == 0
        assert folded.count("Add") <= 1


@pytest.mark.parametrize("where", ["axes", "rank"])
def test_a_reduction_of_what_is_not_known_passes_a_uniform_affine_alone(where):
    for uniform in (True, False):
        net = Net(opset=18)
        x, axes = net.op("Tanh", net.input("N", C, 3, 3)), ints(2, 3)
        if where == "axes":
            axes = net.input(2, name="axes", dtype=np.int64)
            net.feeds["axes"] = ints(2, 3)
        else:
            x = net.unknown_rank(x, (-1, C, 3, 3))
        x = net.op("Mul", x, np.float32(2)) if uniform else net.bn(x, C)
        y = net.op("ReduceMean", x, axes, keepdims=1, name="mean")
        y = net.op("Reshape", net.op("Conv", y, net.draw(2, C, 1, 1)), ints(-1))
        folded = fold(net.build(y), feeds=net.feeds)
        if uniform:
            assert_gone(folded)
        else:
            assert_stays(folded, "dynamic-axes", "mean (ReduceMean)")


@pytest.mark.parametrize("direction", ["backward", "forward"])
def test_a_shift_does_not_pass_a_sum_over_nothing(direction):
    net = Net()
    if direction == "backward":
        y = net.op("ReduceSum", net.op("Conv", net.input(1, 3, 0), net.draw(C, 3, 1)), ints(2), name="sum")
        y = net.op("Tanh", net.op("Add", y, np.float32(3)))
    else:
        x = net.op("Add", net.op("Tanh", net.input(1, C, 0)), np.float32(3))
        y = net.op("Conv", net.op("ReduceSum", x, ints(2), name="sum"), net.draw(2, C, 1))
    plan = fold_graph(load(net.build(y)).graph)[1]
    assert not plan.steps
    refusal = plan.remaining[0].backward if direction == "backward" else plan.remaining[0].forward
    assert refusal.code == "empty"
    assert "sum (ReduceSum)" in refusal.sentence


def test_a_shift_sinks_through_a_sum_over_one_element():
    net = Net()
    x = net.op("Add", net.op("Tanh", net.input("N", C, 1)), net.draw(C, 1))
    y = net.op("Conv", net.op("ReduceSum", x, ints(2)), net.draw(2, C, 1))
    assert_gone(fold(net.build(y)))


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


def test_an_affine_on_the_axes_of_a_reduction_stays():
    """No runtime takes such axes, but the checker does."""
    net = Net()
    axes = net.op("Mul", net.op("Tanh", net.input(1, name="axes")), np.float32(2))
    net.output(net.op("ReduceSum", conv(net), axes, name="sum"), shape=["N", C, 6, 6])
    plan = fold_graph(load(net.build()).graph)[1]
    assert plan.remaining[0].forward.code == "unknown-operator"


@pytest.mark.parametrize(
    ("attrs", "size", "passes"),
    [
        ({"pads": [1, 1, 1, 1], "dilations": [4, 4]}, 3, False),
        ({"pads": [1, 1, 1, 1], "dilations": [4, 4]}, 4, True),
        ({"pads": [1, 1, 1, 1], "dilations": [1, 1]}, 1, True),
        ({"dilations": [4, 4]}, 5, True),
        ({"pads": [1, 1, 1, 1], "dilations": [4, 4]}, "S", False),
    ],
)
@pytest.mark.parametrize("direction", ["backward", "forward"])
@pytest.mark.parametrize("kind", ["AveragePool", "MaxPool"])
def test_a_window_in_the_padding_alone_is_no_average_and_no_maximum(kind, direction, attrs, size, passes):
    net = Net(opset=19)
    attrs = {"kernel_shape": [2, 2], "strides": [2, 2], **attrs}
    net.feeds["image"] = net.draw(2, C, 3 if size == "S" else size, 3 if size == "S" else size)
    x = net.input("N", C, size, size, name="image")
    if direction == "backward":
        y = net.op("AveragePool" if kind == "AveragePool" else kind, net.op("Conv", x, net.draw(C, C, 1, 1)), **attrs)
        y = net.op("Relu", affine(net, y))
    else:
        y = net.op(kind, affine(net, net.op("Relu", x)), **attrs)
        y = net.op("Conv", y, net.draw(2, C, 1, 1))
    assert fold_unrun(net.build(y)).count("BatchNormalization") == (not passes)
