"""Conv and ConvTranspose take an affine in, from behind and from ahead."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from convolutions import apply, convolution, image
from helpers import Net, assert_stays, fold, fold_unrun, run
from onnx.reference import ReferenceEvaluator

from bnfold.folding import fold_graph
from bnfold.formats import load
from bnfold.graph import ModelGraph, Op
from bnfold.operators import Node, facts_of, linear_bias
from bnfold.operators.convolution import Convolution
from bnfold.operators.onnx import ONNX

SIZE = 5


def spatial(dims: int) -> list[int]:
    return [SIZE + axis for axis in range(dims)]


def conv(net: Net, x: str, inside: int, outside: int, dims: int, *, kernel=3, group=1, bias=True, **attrs):
    weight = net.draw(outside, inside // group, *[kernel] * dims)
    operands = [weight, net.draw(outside)] if bias else [weight]
    return net.op("Conv", x, *operands, group=group, **attrs)


def conv_transpose(net: Net, x: str, inside: int, outside: int, dims: int, *, kernel=3, group=1, bias=True, **attrs):
    weight = net.draw(inside, outside // group, *[kernel] * dims)
    operands = [weight, net.draw(outside)] if bias else [weight]
    return net.op("ConvTranspose", x, *operands, group=group, **attrs)


CONVS = {
    "1d": (1, {}),
    "2d": (2, {}),
    "3d": (3, {}),
    "no bias": (2, {"bias": False}),
    "padded": (2, {"pads": [1, 0, 2, 1]}),
    "same": (2, {"auto_pad": "SAME_UPPER"}),
    "strides and dilations": (2, {"strides": [2, 1], "dilations": [1, 2]}),
    "groups": (2, {"group": 2}),
    "groups 1d no bias": (1, {"group": 3, "bias": False}),
}


@pytest.mark.parametrize(("dims", "attrs"), CONVS.values(), ids=CONVS)
def test_conv_takes_an_affine_that_follows(dims, attrs):
    net = Net()
    y = conv(net, net.input("N", 6, *spatial(dims)), 6, 12, dims, **attrs)
    folded = fold(net.build(net.bn(y, 12)))
    assert folded.count() == 1


@pytest.mark.parametrize("multiplier", [1, 2])
def test_a_depthwise_conv_takes_an_affine_that_follows(multiplier):
    net = Net()
    y = conv(net, net.input("N", 4, 6, 6), 4, 4 * multiplier, 2, group=4)
    assert fold(net.build(net.bn(y, 4 * multiplier))).count() == 1


TRANSPOSED = {
    "1d": (1, {}),
    "2d": (2, {}),
    "3d": (3, {"kernel": 2}),
    "no bias": (2, {"bias": False}),
    "groups": (2, {"group": 2}),
    "more groups": (2, {"group": 6, "bias": False}),
    "output padding": (2, {"group": 3, "strides": [2, 3], "output_padding": [1, 2], "pads": [1, 1, 0, 1]}),
}


@pytest.mark.parametrize(("dims", "attrs"), TRANSPOSED.values(), ids=TRANSPOSED)
def test_conv_transpose_takes_an_affine_that_follows(dims, attrs):
    net = Net()
    y = conv_transpose(net, net.input("N", 6, *spatial(dims)), 6, 12, dims, **attrs)
    assert fold(net.build(net.bn(y, 12))).count() == 1


def test_a_pure_scale_makes_no_bias():
    net = Net()
    y = conv(net, net.input("N", 3, 6, 6), 3, 4, 2, bias=False)
    folded = fold(net.build(net.op("Mul", y, net.positive(4, 1, 1))))
    assert len(folded.node("Conv").input) == 2


def test_a_pure_shift_leaves_the_weight_alone():
    net = Net()
    x = net.input("N", 3, 6, 6)
    y = net.op("Conv", x, net.const(net.draw(4, 3, 3, 3), "weight"))
    folded = fold(net.build(net.op("Add", y, net.draw(4, 1, 1))))
    assert folded.node("Conv").input[1] == "weight"


@pytest.mark.parametrize("scale", [0.0, -3.0, 1e12, [-1.0, 0.0, 2.0, 1e-6]])
def test_any_scale_folds_backward(scale):
    net = Net()
    y = conv(net, net.input("N", 3, 6, 6), 3, 4, 2)
    assert fold(net.build(net.exact_bn(y, np.full(4, scale), net.draw(4)))).count() == 1


def test_a_weight_computed_at_run_time_refuses():
    net = Net()
    y = net.op("Conv", net.input("N", 3, 6, 6), net.input(4, 3, 3, 3, name="kernel"))
    assert_stays(fold(net.build(net.bn(y, 4))), "dynamic-weights", "computed at run time")


def test_a_bias_computed_at_run_time_refuses():
    net = Net()
    y = net.op("Conv", net.input("N", 3, 6, 6), net.draw(4, 3, 3, 3), net.input(4, name="bias"))
    assert_stays(fold(net.build(net.bn(y, 4))), "dynamic-bias", "bias")


def test_an_affine_along_the_width_stays():
    """[C] on a 4-D tensor is the last axis, whatever the number of channels."""
    net = Net()
    y = conv(net, net.input("N", 3, 4, 6), 3, 4, 2)
    assert_stays(fold(net.build(net.op("Mul", y, net.positive(4)))), "other-axis", "axis 3")


KINDS = {"Conv": conv, "ConvTranspose": conv_transpose}


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_convolution_tells_of_itself(kind):
    net = Net()
    x = net.input("N", 4, 6, 6)
    biased, bare = (KINDS[kind](net, x, 4, 6, 2, bias=bias, name=f"bias {bias}") for bias in (True, False))
    graph = load(net.build(biased, bare)).graph
    bias = linear_bias(graph, graph.op("bias True"))
    assert bias is not None
    assert bias.shape == (6,)
    assert linear_bias(graph, graph.op("bias False")) is None


@pytest.mark.parametrize("kind", KINDS)
def test_the_weight_tells_rank_and_channels_where_the_input_is_of_unknown_rank(kind):
    net = Net()
    x = net.unknown_rank(net.input("N", 64), (-1, 4, 4, 4))
    y = net.op("Mul", KINDS[kind](net, x, 4, 6, 2), net.draw(6, 1, 1))
    folded = fold(net.build(net.op("Reshape", y, np.array([-1]))), feeds=net.feeds)
    assert folded.count("Mul") == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_computed_at_run_time_tells_nothing(kind):
    net = Net()
    x = net.unknown_rank(net.input("N", 64), (-1, 4, 4, 4))
    y = net.op(kind, x, net.op("Tanh", net.input(4, 4, 3, 3)))
    folded = fold(net.build(net.op("Reshape", net.op("Mul", y, net.draw(4, 1, 1)), np.array([-1]))), feeds=net.feeds)
    assert folded.count("Mul") == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_bias_of_another_length_refuses(kind):
    """The checker lets it pass; no runtime does."""
    net = Net()
    y = net.op(kind, net.input("N", 4, 6, 6), net.draw(4, 4, 3, 3), net.draw(1), name="first")
    assert_stays(fold_unrun(net.build(net.bn(y, 4))), "bias-shape", "first", "a bias of 1 values for 4 channels")


@pytest.mark.parametrize("kind", KINDS)
def test_a_scale_of_a_bias_computed_at_run_time_stays(kind):
    net = Net()
    x = net.input("N", 4, 6, 6)
    y = net.op(kind, x, net.draw(4, 4, 3, 3), net.op("Mul", net.op("Tanh", net.input(4)), net.positive(4)), name="sum")
    assert_stays(fold(net.build(y)), "dynamic-weights", "sum", "an input that is not its data")


# -- an affine that precedes -------------------------------------------------------------------------

AHEAD = {
    "1d": (1, {}),
    "2d": (2, {}),
    "3d": (3, {}),
    "no bias": (2, {"bias": False}),
    "groups": (2, {"group": 2}),
    "depthwise": (2, {"group": 6}),
    "strides and dilations": (2, {"strides": [2, 1], "dilations": [1, 2]}),
    "valid": (2, {"auto_pad": "VALID"}),
    "same with a kernel of one": (2, {"auto_pad": "SAME_UPPER", "kernel": 1, "strides": [2, 2]}),
}


@pytest.mark.parametrize(("dims", "attrs"), AHEAD.values(), ids=AHEAD)
def test_an_unpadded_conv_takes_an_affine_that_precedes(dims, attrs):
    net = Net()
    x = net.op("Relu", net.input("N", 6, *spatial(dims)))
    folded = fold(net.build(conv(net, net.bn(x, 6), 6, 12, dims, **attrs)))
    assert folded.count() == 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_scale_that_precedes_leaves_a_bias_computed_at_run_time_alone(kind):
    net = Net()
    x = net.op("Mul", net.op("Relu", net.input("N", 4, 6, 6)), net.draw(4, 1, 1))
    folded = fold(net.build(net.op(kind, x, net.draw(4, 4, 3, 3), net.op("Tanh", net.input(4)))))
    assert folded.count("Mul") == 0


@pytest.mark.parametrize("kind", KINDS)
def test_an_affine_along_the_width_that_precedes_stays(kind):
    net = Net()
    x = net.op("Mul", net.op("Tanh", net.input("N", 4, 6, 4)), net.positive(4))
    folded = fold(net.build(KINDS[kind](net, x, 4, 6, 2, name="first")))
    assert_stays(folded, "other-axis", "first", "axis 3")


@pytest.mark.parametrize("kind", KINDS)
def test_one_group_is_the_default(kind):
    net = Net()
    x = net.op("Relu", net.input("N", 4, 6, 6))
    assert fold(net.build(net.op("Tanh", net.bn(net.op(kind, net.bn(x, 4), net.draw(4, 4, 1, 1)), 4)))).count() == 3


@pytest.mark.parametrize(
    "attrs",
    [{"pads": [1, 1, 1, 1]}, {"auto_pad": "", "pads": [1] * 4}, {"pads": [0, 0, 0, 1]}, {"auto_pad": "SAME_LOWER"}],
)
def test_a_padded_conv_refuses_a_shift_that_precedes(attrs):
    net = Net()
    x = net.op("Relu", net.input("N", 6, 6, 6))
    folded = fold(net.build(conv(net, net.bn(x, 6), 6, 4, 2, name="first", **attrs)))
    assert_stays(folded, "zero-padding", "first (Conv)", "pads with zeros")


@pytest.mark.parametrize("group", [1, 3, 6])
def test_a_padded_conv_takes_a_scale_that_precedes(group):
    net = Net()
    x = net.op("Tanh", net.input("N", 6, 6, 6))
    folded = fold(net.build(conv(net, net.op("Mul", x, net.draw(6, 1, 1)), 6, 6, 2, group=group, pads=[1] * 4)))
    assert folded.count() == 2


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("attrs", [{}, {"strides": [2, 2], "output_padding": [1, 1]}, {"pads": [1, 1, 1, 1]}])
def test_conv_transpose_takes_a_scale_that_precedes(group, attrs):
    net = Net()
    x = net.op("Tanh", net.input("N", 4, 5, 6))
    y = conv_transpose(net, net.op("Mul", x, net.draw(4, 1, 1)), 4, 6, 2, group=group, **attrs)
    assert fold(net.build(y)).count() == 2


@pytest.mark.parametrize("group", [1, 2])
def test_a_pointwise_conv_transpose_takes_a_shift_that_precedes(group):
    net = Net()
    x = net.op("Tanh", net.input("N", 4, 5, 6))
    assert fold(net.build(conv_transpose(net, net.bn(x, 4), 4, 6, 2, kernel=1, group=group))).count() == 2


@pytest.mark.parametrize(
    "attrs",
    [
        {"kernel": 2},
        {"kernel": 1, "strides": [2, 1]},
        {"kernel": 1, "output_padding": [1, 0], "strides": [2, 2]},
        {"kernel": 1, "pads": [0, 1, 0, 0]},
        {"kernel": 1, "output_shape": [9, 11], "strides": [2, 2]},
        {"kernel": 1, "auto_pad": "SAME_UPPER", "strides": [2, 2]},
    ],
)
def test_conv_transpose_refuses_a_shift_where_positions_see_different_taps(attrs):
    net = Net()
    x = net.op("Tanh", net.input("N", 4, 5, 6))
    folded = fold(net.build(conv_transpose(net, net.bn(x, 4), 4, 6, 2, name="up", **attrs)))
    assert_stays(folded, "uneven-taps", "up (ConvTranspose)", "different taps")


@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("group", [0, -1, 4, 5])
def test_groups_that_do_not_share_the_weight_are_left_alone(kind, group):
    """No runtime runs this, but a file may hold it."""
    net = Net()
    y = net.bn(net.op(kind, net.input("N", 3, 5, 5), net.draw(3, 3, 3, 3), group=group, name="conv"), 3)
    net.output(net.op("Tanh", y), shape=["N", 3, "H", "W"])
    assert not fold_graph(load(net.build()).graph)[1].steps


# -- DeformConv ----------------------------------------------------------------------------------------


def deform(net: Net, x: str, channels: int, *, groups: int = 1, bias: bool = False) -> str:
    # Offsets of up to two pixels, some of which lead out of the image.
    offsets = net.rng.uniform(-2, 2, (2, 18, 3, 3)).astype(np.float32)
    extra = (net.draw(channels),) if bias else ()
    return net.op("DeformConv", x, net.draw(channels, 4 // groups, 3, 3), offsets, *extra, group=groups)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_deformable_convolution_takes_what_follows(groups, bias):
    net = Net(opset=22)
    y = net.bn(deform(net, net.input(2, 4, 5, 5), 6, groups=groups, bias=bias), 6)
    assert fold(net.build(net.op("Relu", y))).count() == 2


def test_a_deformable_convolution_takes_a_scale_before_it_and_no_shift():
    for shift, left in ((np.zeros(4), 0), (np.ones(4), 1)):
        net = Net(opset=22)
        x = net.exact_bn(net.op("Tanh", net.input(2, 4, 5, 5)), net.draw(4), shift)
        folded = fold(net.build(deform(net, x, 6, groups=2)))
        assert folded.count("BatchNormalization") == left
        assert ("zero-padding" in folded.codes) == bool(left)


# -- a convolution as a value, and the operator of one ------------------------------------------------


def convolution_of(graph: ModelGraph, op: Op) -> Convolution | None:
    """An operator of a graph as a value."""
    return facts_of(op).convolution(Node(graph, op))


def unchecked(net: Net) -> onnx.ModelProto:
    """A model as it may stand in a subgraph, where the checker does not look at shapes."""
    return onnx.helper.make_model(net.graph(), opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("spatial", [1, 2, 3])
def test_the_operator_computes_the_convolution(spatial, groups):
    conv = convolution(
        (12, 6 // groups, *[3, 2, 2][:spatial]), groups=groups, strides=[2, 1, 1][:spatial],
        dilations=[1, 2, 1][:spatial], begins=[1, 0, 2][:spatial], ends=[0, 2, 1][:spatial],
    )  # fmt: skip
    net = Net()
    x = net.input(1, 6, *[5, 6, 4][:spatial], name="x")
    new = ONNX.convolution(x, conv, "made")
    assert new is not None
    constants = [net.const(param.array(), param.name) for param in new.inputs[1:]]
    model = net.build(net.op(new.type, x, *constants, **new.attributes))
    data = image(6, *[5, 6, 4][:spatial]).astype(np.float32)
    (actual,) = run(model, {"x": data[None]})
    np.testing.assert_allclose(actual[0], apply(conv, data.astype(np.float64)), rtol=1e-4, atol=1e-5)
    (reference,) = ReferenceEvaluator(model).run(None, {"x": data[None]})
    np.testing.assert_allclose(actual, reference, rtol=1e-4, atol=1e-5)


IN_A_GRAPH = {
    "plain": ((4, 3, 3, 3), {}),
    "one axis": ((4, 3, 2), {"strides": [2], "pads": [1, 0]}),
    "three axes": ((4, 3, 1, 2, 3), {"strides": [1, 2, 1], "dilations": [1, 2, 2], "pads": [0, 1, 2, 1, 0, 1]}),
    "groups": ((6, 1, 3, 3), {"group": 3, "pads": [0, 1, 2, 0]}),
    "explicit": ((4, 3, 3, 3), {"auto_pad": "NOTSET", "pads": [0, 1, 2, 0]}),
    "explicit, by no name": ((4, 3, 3, 3), {"auto_pad": "", "pads": [0, 1, 2, 0]}),
    "valid": ((4, 3, 3, 3), {"auto_pad": "VALID", "strides": [2, 1]}),
    "same": ((4, 3, 2, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 3]}),
    "same, more zeros before": ((4, 3, 2, 4), {"auto_pad": "SAME_LOWER", "strides": [1, 3]}),
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("shape", "attrs"), IN_A_GRAPH.values(), ids=IN_A_GRAPH)
def test_a_conv_of_a_graph_as_a_value(shape, attrs, bias):
    sizes = (7, 6, 8)[: len(shape) - 2]
    net = Net()
    x = net.input("N", 3, *sizes, name="x")
    y = net.op("Conv", x, net.draw(*shape), *([net.draw(shape[0])] if bias else []), name="conv", **attrs)
    model = net.build(y)
    graph = load(model).graph
    conv = convolution_of(graph, graph.op("conv"))
    assert conv is not None
    assert (conv.sizes, conv.channel_axis, conv.plain) == (sizes, 1, None)
    assert conv.macs == np.prod(shape)
    data = image(3, *sizes).astype(np.float32)
    (expected,) = run(model, {"x": data[None]})
    np.testing.assert_allclose(apply(conv, data.astype(np.float64)), expected[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("slot", [1, 2])
def test_a_conv_that_is_computed_at_run_time_is_no_value(slot):
    net = Net()
    operands = [net.const(net.draw(4, 3, 3, 3)), net.const(net.draw(4))]
    operands[slot - 1] = net.op("Tanh", net.input(*((4, 3, 3, 3), (4,))[slot - 1]))
    graph = load(net.build(net.op("Conv", net.input("N", 3, 6, 6), *operands, name="conv"))).graph
    assert convolution_of(graph, graph.op("conv")) is None


MISFITS = {
    "none": ((4, 3, 3, 3), (4,), {"strides": [1, 1], "dilations": [1, 1], "pads": [0] * 4}, True),
    "strides": ((4, 3, 3, 3), (4,), {"strides": [1]}, False),
    "dilations": ((4, 3, 3, 3), (4,), {"dilations": [1]}, False),
    "pads": ((4, 3, 3, 3), (4,), {"pads": [0, 0]}, False),
    "bias": ((4, 3, 3, 3), (1,), {}, False),
    "groups": ((4, 3, 3, 3), (4,), {"group": 3}, False),
    "no taps": ((4, 3), (4,), {}, False),
    "one axis": ((4, 3, 1), (4,), {}, True),
}


@pytest.mark.parametrize(("weight", "bias", "attrs", "fits"), MISFITS.values(), ids=MISFITS)
def test_a_conv_whose_parts_do_not_fit_is_no_value(weight, bias, attrs, fits):
    net = Net()
    net.output(
        net.op("Conv", net.input("N", 3, 6, 6), net.draw(*weight), net.draw(*bias), name="conv", **attrs), shape=()
    )
    graph = load(unchecked(net)).graph
    assert (convolution_of(graph, graph.op("conv")) is not None) == fits


def test_a_conv_of_integers_is_no_value():
    net = Net(dtype=np.int8)
    net.output(net.op("Conv", net.input("N", 3, 6, 6), np.ones((4, 3, 3, 3), np.int8), name="conv"), shape=())
    graph = load(unchecked(net)).graph
    assert convolution_of(graph, graph.op("conv")) is None


@pytest.mark.parametrize(("stride", "found"), [(1, True), (2, False)])
def test_padding_to_the_same_size_needs_the_size_where_there_is_a_stride(stride, found):
    net = Net()
    x = net.input("N", 3, "H", "W")
    y = net.op("Conv", x, net.draw(4, 3, 3, 3), auto_pad="SAME_UPPER", strides=[stride, stride], name="conv")
    graph = load(net.build(y)).graph
    assert (convolution_of(graph, graph.op("conv")) is not None) == found


def test_a_bias_of_zeros_is_not_written():
    new = ONNX.convolution("x", convolution((4, 4, 3), bias=False), "made")
    assert new is not None
    assert len(new.inputs) == 2


def test_onnx_has_no_operator_for_other_channels_than_the_second_axis():
    assert ONNX.convolution("x", replace(convolution((4, 4, 3)), channel_axis=2), "made") is None
