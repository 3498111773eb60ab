"""Weights behind a DequantizeLinear: their scale vector takes the affine in, the integers stay."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from helpers import Net, assert_stays, fold, fold_unrun
from onnx import numpy_helper

from bnfold.affine import Affine
from bnfold.formats import load
from bnfold.operators import Node, facts_of
from bnfold.operators.answers import NewOp
from bnfold.operators.weights import PlainWeight, QuantizedWeight, weight_of
from bnfold.refusal import Refusal

C = 4


def quantized(net: Net, values: np.ndarray, scale: np.ndarray, *, zero=None, axis: int = 0) -> str:
    operands = [net.const(values, dtype=values.dtype), net.const(scale, dtype=np.float32)]
    operands += [] if zero is None else [net.const(zero, dtype=values.dtype)]
    return net.op("DequantizeLinear", *operands, name="dequantize", **({"axis": axis} if net.opset >= 13 else {}))


def integers(net: Net, *shape: int, low: int = -100, high: int = 100, dtype=np.int8) -> np.ndarray:
    return net.rng.integers(low, high, shape).astype(dtype)


def conv(net: Net, weight: str, *, inside: int = 3, group: int = 1, bias: bool = True) -> str:
    return net.op("Conv", net.input("N", inside, 5, 5), weight, *([net.draw(C)] if bias else []), group=group)


def weights_after(folded) -> tuple[np.ndarray, np.ndarray]:
    """(integers, scale) of the only DequantizeLinear after folding."""
    node = folded.node("DequantizeLinear")
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in folded.after.graph.initializer}
    return tensors[node.input[0]], tensors[node.input[1]]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("per_channel", [True, False])
def test_a_positive_scale_goes_into_the_scale_vector(per_channel, bias):
    net = Net()
    values = integers(net, C, 3, 3, 3)
    weight = quantized(net, values, 0.01 * net.positive(C) if per_channel else np.float32(0.01))
    folded = fold(net.build(net.exact_bn(conv(net, weight, bias=bias), net.positive(C), net.draw(C))))
    assert folded.count() == 2
    after, scale = weights_after(folded)
    np.testing.assert_array_equal(after, values)
    assert scale.shape == (C,)


def test_a_negative_scale_flips_the_integers():
    net = Net()
    values = integers(net, C, 3, 3, 3)
    scale = np.array([1.0, -0.5, 2.0, -3.0])
    folded = fold(
        net.build(net.exact_bn(conv(net, quantized(net, values, 0.01 * net.positive(C))), scale, net.draw(C)))
    )
    assert folded.count() == 2
    after, vector = weights_after(folded)
    np.testing.assert_array_equal(after, values * np.sign(scale).astype(np.int8).reshape(C, 1, 1, 1))
    assert (vector > 0).all()


@pytest.mark.parametrize("channel", [0, 1])
def test_minus_128_cannot_be_flipped(channel):
    net = Net()
    values = integers(net, C, 3, 3, 3)
    values[channel, 0, 0, 0] = -128
    weight = quantized(net, values, 0.01 * net.positive(C))
    folded = fold(net.build(net.exact_bn(conv(net, weight), np.array([1.0, -0.5, 2.0, 1.0]), net.draw(C))))
    if channel == 0:
        assert folded.count() == 2
    else:
        assert_stays(folded, "integer-overflow", "dequantize (DequantizeLinear)", "int8")


@pytest.mark.parametrize(("value", "folds"), [(5, True), (4, False), (255, True), (0, False)])
def test_unsigned_integers_flip_about_their_zero_point(value, folds):
    """The mirror image of 4 about 130 is 256, one too many."""
    net = Net()
    values = integers(net, C, 3, 3, 3, low=60, high=200, dtype=np.uint8)
    values[1, 0, 0, 0] = value
    zero = np.array([128, 130, 128, 120], np.uint8)
    weight = quantized(net, values, 0.01 * net.positive(C), zero=zero)
    folded = fold(net.build(net.exact_bn(conv(net, weight), np.array([1.0, -0.5, 2.0, 1.0]), net.draw(C))))
    if folds:
        assert folded.count() == 2
    else:
        assert_stays(folded, "integer-overflow", "dequantize (DequantizeLinear)", "uint8")


@pytest.mark.parametrize(("value", "folds"), [(200, True), (201, False)])
def test_mirror_images_are_not_negative(value, folds):
    net = Net()
    values = integers(net, C, 3, 3, 3, low=60, high=140, dtype=np.uint8)
    values[1, 0, 0, 0] = value
    weight = quantized(net, values, np.float32(0.01), zero=np.uint8(100))
    folded = fold(net.build(net.exact_bn(conv(net, weight), np.array([1.0, -0.5, 2.0, 1.0]), net.draw(C))))
    assert folded.count() == (2 if folds else 3)


def test_one_zero_point_for_all_channels():
    net = Net()
    values = integers(net, C, 3, 3, 3, low=60, high=200, dtype=np.uint8)
    weight = quantized(net, values, np.float32(0.01), zero=np.uint8(130))
    folded = fold(net.build(net.exact_bn(conv(net, weight), np.array([1.0, -0.5, 2.0, 1.0]), net.draw(C))))
    assert folded.count() == 2


def test_a_zero_scale_refuses():
    net = Net()
    weight = quantized(net, integers(net, C, 3, 3, 3), 0.01 * net.positive(C))
    folded = fold(net.build(net.exact_bn(conv(net, weight), np.array([1.0, 0.0, 2.0, 1.0]), net.draw(C))))
    assert_stays(folded, "zero-scale", "dequantize (DequantizeLinear)")


def test_a_quantisation_scale_that_would_vanish_refuses():
    net = Net()
    weight = quantized(net, integers(net, C, 3, 3, 3), 1e-20 * net.positive(C))
    folded = fold(net.build(net.exact_bn(conv(net, weight), np.full(4, 1e-20), net.draw(C))))
    assert_stays(folded, "overflow", "vanish")


def test_a_uniform_scale_leaves_one_scale_for_all():
    net = Net()
    folded = fold(
        net.build(net.op("Mul", conv(net, quantized(net, integers(net, C, 3, 3, 3), np.float32(0.01))), np.float32(-2)))
    )
    assert folded.count() == 2
    assert weights_after(folded)[1].shape == ()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_uniform_scale_leaves_scale_and_zero_point_alike(channels):
    net = Net()
    values = integers(net, channels, 3, 3, 3, low=60, high=140, dtype=np.uint8)
    weight = quantized(net, values, np.float32(0.01), zero=np.uint8(100))
    y = net.op("Conv", net.input("N", 3, 5, 5), weight)
    folded = fold(net.build(net.op("Mul", y, np.full((channels, 1, 1), 3.0, np.float32))))
    assert folded.count() == 2
    node = folded.node("DequantizeLinear")
    assert [folded.constant(name).shape for name in node.input[1:]] == [(), ()]


def test_a_uniform_scale_keeps_a_scale_for_each_channel():
    net = Net()
    weight = quantized(net, integers(net, 3, C), 0.01 * net.positive(C), axis=1)
    x = net.op("Tanh", net.input("N", 3))
    folded = fold(net.build(net.op("MatMul", net.op("Mul", x, np.float32(3.0)), weight)))
    assert folded.count("Mul") == 0
    assert weights_after(folded)[1].shape == (C,)


def test_before_opset_13_only_one_scale_for_all_is_taken_in():
    for opset, uniform in ((12, True), (12, False), (13, False)):
        net = Net(opset=opset)
        y = conv(net, quantized(net, integers(net, C, 3, 3, 3), np.float32(0.01)))
        y = net.op("Mul", y, np.float32(2)) if uniform else net.op("Mul", y, net.positive(C, 1, 1))
        folded = fold(net.build(y))
        if uniform or opset == 13:
            assert folded.count() == 2
        else:
            assert_stays(folded, "old-opset", "opset 13")


def test_scales_along_another_axis_than_the_affines_refuse():
    net = Net()
    weight = quantized(net, integers(net, C, 3, 3, 3), 0.01 * net.positive(3), axis=1)
    folded = fold(net.build(net.exact_bn(conv(net, weight), net.positive(C), net.draw(C))))
    assert_stays(folded, "quantized-axis", "dequantize (DequantizeLinear)")


@pytest.mark.parametrize("per_channel", [True, False])
def test_an_affine_that_precedes_goes_into_one_scale_for_all_alone(per_channel):
    net = Net()
    weight = quantized(net, integers(net, C, 3, 3, 3), 0.01 * net.positive(C) if per_channel else np.float32(0.01))
    x = net.exact_bn(net.op("Tanh", net.input("N", 3, 5, 5)), net.positive(3), net.draw(3))
    folded = fold(net.build(net.op("Conv", x, weight)))
    if per_channel:
        assert_stays(folded, "quantized-axis", "dequantize (DequantizeLinear)")
    else:
        assert folded.count() == 3


def test_a_grouped_weight_refuses_scales_of_two_axes():
    net = Net()
    weight = quantized(net, integers(net, C, 2, 3, 3), np.float32(0.01))
    x = net.exact_bn(net.op("Tanh", net.input("N", 4, 5, 5)), net.positive(4), net.draw(4))
    folded = fold(net.build(net.op("Conv", x, weight, group=2)))
    assert_stays(folded, "quantized-axis", "dequantize (DequantizeLinear)")


ROWS_AND_TAPS = {
    "one scale": ((C, 3, 2, 2), None, 0),
    "a scale of each output": ((C, 3, 2, 2), C, 0),
    "a scale of each input": ((C, 3, 2, 2), 3, 1),
    "a scale of each tap": ((C, 3, 2, 2), 2, -1),
    "read in several pieces": ((C, 3, 90, 90), C, 0),
    "one scale, read in several pieces": ((C, 3, 90, 90), None, 0),
}


@pytest.mark.parametrize("zero", [True, False])
@pytest.mark.parametrize(("shape", "length", "axis"), ROWS_AND_TAPS.values(), ids=ROWS_AND_TAPS)
def test_a_shift_that_precedes_is_multiplied_by_what_the_integers_stand_for(shape, length, axis, zero):
    net = Net()
    values = integers(net, *shape, low=0, high=250, dtype=np.uint8)
    scale = 0.01 * (net.positive(length) if length else net.positive())
    points = net.rng.integers(50, 200, scale.shape).astype(np.uint8) if zero else None
    weight = quantized(net, values, scale, zero=points, axis=axis)
    x = net.op("Tanh", net.input("N", 3, shape[2] + 1, shape[2] + 1))
    folded = fold(net.build(net.op("Conv", net.op("Add", x, net.draw(3, 1, 1)), weight, net.draw(C))))
    assert folded.count("Add") == 0
    np.testing.assert_array_equal(weights_after(folded)[0], values)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_scale_goes_into_scales_along_its_own_axis(axis):
    """A MatMul's weight counts its inputs along axis 0, its outputs along axis 1."""
    net = Net()
    weight = quantized(net, integers(net, 3, C), 0.01 * net.positive(3 if axis == 0 else C), axis=axis - 2)
    x = net.op("Tanh", net.input("N", 3))
    x = net.op("Mul", x, net.draw(3)) if axis == 0 else x
    y = net.op("MatMul", x, weight)
    y = net.op("Mul", y, net.draw(C)) if axis == 1 else y
    folded = fold(net.build(net.op("Relu", y)))
    assert folded.count("Mul") == 0


def test_one_scale_becomes_one_of_each_input():
    net = Net()
    weight = quantized(net, integers(net, 3, C), np.float32(0.01))
    x = net.op("Mul", net.op("Tanh", net.input("N", 3)), net.draw(3))
    folded = fold(net.build(net.op("MatMul", x, weight)))
    assert folded.count("Mul") == 0
    assert weights_after(folded)[1].shape == (3,)


@pytest.mark.parametrize("kind", ["MatMul", "Gemm"])
def test_dense_layers_take_it_too(kind):
    net = Net()
    weight = quantized(net, integers(net, 3, C), 0.01 * net.positive(C), axis=-1)
    y = net.op(kind, net.input("N", 3), weight)
    folded = fold(net.build(net.op("Mul", y, net.positive(C))))
    assert folded.count() == 2


def test_a_quantised_bias_becomes_a_float_one():
    net = Net()
    weight = quantized(net, integers(net, C, 3, 3, 3), 0.01 * net.positive(C))
    bias = net.op("DequantizeLinear", integers(net, C, low=-1000, high=1000, dtype=np.int32), np.float32(1e-3))
    y = net.op("Conv", net.input("N", 3, 5, 5), weight, bias)
    folded = fold(net.build(net.exact_bn(y, net.positive(C), net.draw(C))))
    assert folded.count() == 2


@pytest.mark.parametrize("bias", [np.ones(C, np.int8), np.float32(1.0)], ids=["integers", "a single number"])
def test_only_a_vector_of_floats_is_a_bias(bias):
    net = Net()
    y = net.op("Conv", net.input("N", 3, 5, 5), net.draw(C, 3, 3, 3), bias, name="conv")
    net.output(y, shape=("N", C, 3, 3))
    opsets = [onnx.helper.make_opsetid("", 17)]
    graph = load(onnx.helper.make_model(net.graph(), opset_imports=opsets, ir_version=8)).graph
    op = graph.op("conv")
    answer = facts_of(op).absorb_output(Node(graph, op), Affine.of(2.0, 0.0, None))
    assert isinstance(answer, Refusal)
    assert answer.code == "dynamic-bias"


def test_a_positive_scale_needs_no_integers():
    """They may be larger than all the rest of the model: they stay where they are."""
    net = Net()
    net.output(net.op("MatMul", net.input(2, 3), quantized(net, integers(net, 3, C), np.float32(0.1)), name="dense"))
    graph = load(net.build()).graph
    op = graph.op("dense")
    weight = weight_of(Node(graph, op), 1)
    assert isinstance(weight, QuantizedWeight)
    positive = weight.scaled(np.full((1, C), 2.0))
    assert isinstance(positive, NewOp)
    assert positive.inputs[0] is weight.integers
    negative = weight.scaled(np.full((1, C), -2.0))
    assert isinstance(negative, NewOp)
    assert negative.inputs[0] is not weight.integers


def test_a_weight_that_is_computed_from_constants_is_one():
    net = Net()
    weight = net.op("Transpose", net.draw(C, 3))
    graph = load(net.build(net.op("MatMul", net.input(2, 3), weight, name="dense"))).graph
    assert isinstance(weight_of(Node(graph, graph.op("dense")), 1), PlainWeight)


def test_a_weight_that_two_layers_share_is_copied():
    net = Net()
    weight = quantized(net, integers(net, C, 3, 3, 3), 0.01 * net.positive(C))
    x = net.input("N", 3, 5, 5)
    first, second = net.op("Conv", x, weight), net.op("Conv", x, weight)
    folded = fold(net.build(net.exact_bn(first, net.positive(C), net.draw(C)), net.op("Tanh", second)), branches=False)
    assert folded.count("DequantizeLinear") == 2
    assert folded.count("BatchNormalization") == 0


@pytest.mark.parametrize("slot", [0, 1, 2])
def test_a_quantisation_computed_at_run_time_refuses(slot):
    net = Net()
    operands = [integers(net, C, 3, 3, 3), np.float32(0.01), np.int8(0)]
    old = operands[slot]
    operands[slot] = net.input(*old.shape, name="fed", dtype=old.dtype)
    weight = net.op("DequantizeLinear", *operands, name="dequantize")
    folded = fold(net.build(net.exact_bn(conv(net, weight), net.positive(C), net.draw(C))))
    assert_stays(folded, "dynamic-weights", "dequantize (DequantizeLinear)")


def test_an_operator_of_another_domain_is_no_quantisation_of_weights():
    net = Net()
    net.domains["com.microsoft"] = 1
    weight = net.op("DequantizeLinear", integers(net, C, 3, 3, 3), np.float32(0.01), domain="com.microsoft")
    net.output(net.exact_bn(conv(net, weight), net.positive(C), net.draw(C)), shape=["N", C, 3, 3])
    assert_stays(fold(net.build()), "dynamic-weights")


@pytest.mark.parametrize("dtype", [ml_dtypes.int4, ml_dtypes.float8_e4m3fn])
def test_types_without_limits_refuse(dtype):
    net = Net(opset=21)
    weight = quantized(net, net.rng.integers(-7, 7, (C, 3, 3, 3)).astype(dtype), np.float32(0.01))
    folded = fold_unrun(net.build(net.exact_bn(conv(net, weight), net.positive(C), net.draw(C))))
    assert_stays(folded, "quantized-form", "dequantize (DequantizeLinear)", np.dtype(dtype).name)


@pytest.mark.parametrize(
    ("length", "points", "axis"), [(3, 3, 0), (C, C, 1), (C, C, 4), (C, 1, 0), (1, C, 0), (0, 0, 0), (C, C, -5)]
)
def test_a_quantisation_that_does_not_fit_refuses(length, points, axis):
    """No runtime takes such a model, but the checker lets it pass."""
    net = Net()
    zero = np.zeros(points, np.int8)
    weight = quantized(net, integers(net, C, 3, 3, 3), net.positive(length), zero=zero, axis=axis)
    folded = fold_unrun(net.build(net.exact_bn(conv(net, weight), net.positive(C), net.draw(C))))
    assert_stays(folded, "quantized-form", "dequantize (DequantizeLinear)", "does not fit its axis")


def test_no_integers_refuse():
    net = Net()
    y = conv(net, quantized(net, integers(net, 0, 3, 3, 3), np.float32(0.01)), bias=False)
    folded = fold_unrun(net.build(net.op("Mul", net.op("Mul", y, np.float32(2.0)), net.draw(1, 1, 1, 1))))
    assert "quantized-form" in folded.codes


def test_integers_are_no_weights():
    net = Net(dtype=np.int32)
    graph = load(net.build(net.op("MatMul", net.input(2, 3), np.ones((3, C), np.int32), name="dense"))).graph
    op = graph.op("dense")
    answer = facts_of(op).absorb_output(Node(graph, op), Affine.of(2.0, 0.0, None))
    assert isinstance(answer, Refusal)
    assert answer.code == "integer-weights"
    assert "int32" in answer.sentence


@pytest.mark.parametrize("frozen", [True, False])
def test_weights_that_the_caller_may_override_refuse_where_they_may_stay_so(frozen):
    net = Net()
    weight = net.const(net.draw(C, 3, 3, 3))
    net.input(C, 3, 3, 3, name=weight)
    model = net.build(net.exact_bn(conv(net, weight), net.positive(C), net.draw(C)))
    folded = fold_unrun(model, keep_overridable=not frozen)
    assert folded.count("BatchNormalization") == (0 if frozen else 1)
    assert ("overridable" in folded.codes) is not frozen


def test_weights_quantised_in_blocks_refuse():
    net = Net(opset=21)
    scale = 0.01 * net.positive(C, 2, 1, 1)
    weight = net.op("DequantizeLinear", integers(net, C, 4, 1, 1), scale, axis=1, block_size=2, name="dequantize")
    folded = fold(net.build(net.op("Mul", net.op("Conv", net.input("N", 4, 3, 3), weight), net.positive(C, 1, 1))))
    assert_stays(folded, "quantized-form", "dequantize (DequantizeLinear)")


def test_weights_quantised_in_blocks_refuse_where_there_are_as_many_blocks_as_channels():
    net = Net(opset=21)
    weight = net.op(
        "DequantizeLinear", integers(net, C, C), 0.01 * net.positive(1, C), axis=0, block_size=C, name="dequantize"
    )
    x = net.op("Mul", net.op("Tanh", net.input("N", C)), net.positive(C))
    folded = fold(net.build(net.op("MatMul", x, weight)))
    assert folded.count("Mul") == 1


def test_the_second_axis_has_the_scales_by_default():
    net = Net()
    weight = net.op("DequantizeLinear", integers(net, 3, C), 0.01 * net.positive(C))
    folded = fold(net.build(net.op("Mul", net.op("MatMul", net.input("N", 3), weight), net.positive(C))))
    assert folded.count("Mul") == 0


@pytest.mark.parametrize("shape", [(), (C,)])
def test_weights_without_an_axis_of_channels_refuse(shape):
    net = Net()
    net.output(net.op("Conv", net.input("N", 3, 5, 5), net.draw(*shape), name="conv"), shape=())
    opsets = [onnx.helper.make_opsetid("", 17)]
    graph = load(onnx.helper.make_model(net.graph(), opset_imports=opsets, ir_version=8)).graph
    op = graph.op("conv")
    answer = facts_of(op).absorb_output(Node(graph, op), Affine.of(2.0, 0.0, None))
    assert isinstance(answer, Refusal)
    assert answer.code == "vector-weight"


def test_integer_weights_without_a_scale_are_no_weights():
    net = Net()
    x = net.op("Cast", net.input("N", 3), to=6)
    y = net.op("MatMulInteger", net.op("Cast", x, to=2), integers(net, 3, C), name="integers")
    folded = fold(net.build(net.op("Mul", net.op("Cast", y, to=1), net.positive(C))))
    assert not folded.plan.steps


def test_weights_that_are_normalised_in_the_graph():
    """PyTorch's ``weight_norm``, exported as it is computed: g v / ‖v‖."""
    net = Net()
    v = net.const(net.draw(C, 3, 3, 3))
    norm = net.op("ReduceL2", v, axes=[1, 2, 3])
    weight = net.op("Mul", net.op("Div", v, norm), net.positive(C, 1, 1, 1))
    folded = fold(net.build(net.op("Tanh", net.bn(net.op("Conv", net.input("N", 3, 6, 6), weight), C))))
    assert folded.count() == 2
