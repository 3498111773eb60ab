"""Identities let an affine pass, piecewise linear activations a pure positive scale, others nothing."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import Net, assert_gone, assert_stays, fold, fold_unrun

from bnfold.folding import fold_graph
from bnfold.formats import load

C = 4


def conv(net: Net) -> str:
    return net.op("Conv", net.input("N", 3, 6, 6), net.draw(C, 3, 3, 3))


def behind(net: Net, y: str, scale=None, shift=None) -> str:
    """An affine behind ``y`` that has nowhere else to go."""
    return net.op(
        "Tanh", net.exact_bn(y, net.positive(C) if scale is None else scale, net.draw(C) if shift is None else shift)
    )


# -- what everything passes --------------------------------------------------------------------------


def test_an_affine_passes_an_identity():
    net = Net()
    assert fold(net.build(behind(net, net.op("Identity", conv(net))))).count("BatchNormalization") == 0


@pytest.mark.parametrize(
    "attrs", [{}, {"ratio": 0.3}, {"ratio": 0.3, "training_mode": False}], ids=["bare", "ratio", "mode"]
)
def test_an_affine_passes_a_dropout_at_inference(attrs):
    net = Net()
    operands = [np.float32(attrs["ratio"])] if attrs else []
    operands += [np.array(False)] if "training_mode" in attrs else []
    y = net.op("Dropout", conv(net), *operands)
    assert fold(net.build(behind(net, y))).count("BatchNormalization") == 0


@pytest.mark.parametrize("opset", [7, 10, 11])
def test_an_affine_passes_a_dropout_of_older_opsets(opset):
    net = Net(opset=opset)
    y = net.op("Dropout", conv(net), ratio=0.4)
    assert fold(net.build(behind(net, y))).count("BatchNormalization") == 0


def test_an_affine_passes_a_dropout_whose_mask_is_an_output():
    net = Net()
    y, mask = net.op("Dropout", conv(net), outputs=2)
    net.output(mask, shape=["N", C, 4, 4], dtype=bool)
    assert fold(net.build(behind(net, y))).count("BatchNormalization") == 0


@pytest.mark.parametrize(("attrs", "left"), [({}, 1), ({"is_test": 0}, 1), ({"is_test": 1}, 0)])
def test_the_oldest_dropouts_say_whether_they_are_in_training(attrs, left):
    net = Net(opset=6)
    y = net.op("Dropout", conv(net), name="drop", **attrs)
    folded = fold_unrun(net.build(net.op("Tanh", net.bn(y, C, is_test=1))))
    assert folded.count("BatchNormalization") == left
    assert ("training-mode" in folded.codes) == bool(left)


@pytest.mark.parametrize(("mode", "merged"), [(False, True), (True, False)])
def test_a_dropout_is_a_branch_of_a_sum_at_inference_alone(mode, merged):
    net = Net()
    x = net.op("Relu", net.input("N", C, 6, 6))
    dropped = net.op("Dropout", x, np.float32(0.5), np.array(mode))
    y = net.op("Add", net.op("Conv", x, net.draw(C, C, 1, 1)), dropped)
    folded = fold_unrun(net.build(net.op("Relu", y)))
    assert folded.count("Add") == (0 if merged else 1)


def test_an_affine_over_two_axes_passes_an_activation():
    net = Net()
    y = net.op("Relu", net.op("Reshape", conv(net), np.array([0, 2, 2, 16])))
    y = net.op("Mul", y, net.positive(2, 2, 1))
    assert_gone(fold(net.build(net.op("Tanh", y))))


def test_an_affine_behind_the_mask_of_a_dropout_stays():
    """Before opset 10 masks were numbers."""
    net = Net(opset=7)
    _, mask = net.op("Dropout", conv(net), outputs=2, name="drop")
    net.output(behind(net, mask), shape=["N", C, 4, 4])
    assert_stays(fold_unrun(net.build()), "unknown-operator", "drop (Dropout)")


@pytest.mark.parametrize("mode", ["constant", "input"])
def test_a_dropout_in_training_stops_everything(mode):
    net = Net()
    switch = np.array(True) if mode == "constant" else net.input(name="switch", dtype=bool)
    y = net.op("Dropout", conv(net), np.float32(0.5), switch, name="drop")
    _, plan = fold_graph(load(net.build(behind(net, y))).graph)
    assert not plan.steps
    assert plan.remaining[0].backward.code == "training-mode"
    assert "drop (Dropout)" in plan.remaining[0].backward.sentence


def test_an_affine_passes_a_cast_between_floats():
    net = Net()
    y = net.op("Cast", net.op("Cast", conv(net), to=11), to=1)
    assert fold(net.build(behind(net, y))).count("BatchNormalization") == 0


def test_an_affine_passes_a_cast_to_bfloat16():
    net = Net()
    y = net.op("Cast", net.op("Cast", conv(net), to=16), to=1)
    y = net.op("Relu", net.exact_bn(y, net.positive(C), net.draw(C)))
    assert_gone(fold_unrun(net.build(net.op("Cast", net.op("Cast", y, to=16), to=1))))


def test_an_affine_does_not_pass_a_cast_from_what_is_not_known():
    net = Net()
    net.domains["com.example"] = 1
    y = net.op("Cast", net.op("Mystery", conv(net), domain="com.example"), to=1, name="cast")
    net.output(behind(net, y), shape=["N", C, 4, 4])
    plan = fold_graph(load(net.build()).graph)[1]
    assert not plan.steps
    assert plan.remaining[0].backward.code == "cast"


def test_an_affine_does_not_pass_a_cast_from_integers():
    net = Net()
    y = net.op("Cast", net.op("Cast", conv(net), to=6), to=1, name="back")
    assert_stays(fold(net.build(behind(net, y))), "cast", "back (Cast)")


# -- activations -------------------------------------------------------------------------------------

HOMOGENEOUS = {
    "Relu": {},
    "LeakyRelu": {"alpha": 0.3},
    "Abs": {},
}


@pytest.mark.parametrize("kind", HOMOGENEOUS)
def test_a_positive_scale_passes_a_piecewise_linear_activation(kind):
    net = Net()
    y = net.op(kind, conv(net), **HOMOGENEOUS[kind])
    assert fold(net.build(net.op("Tanh", net.op("Mul", y, net.positive(C, 1, 1))))).count("Mul") == 0


def test_a_positive_scale_passes_a_prelu():
    net = Net()
    y = net.op("PRelu", conv(net), net.draw(C, 1, 1))
    assert fold(net.build(net.op("Tanh", net.op("Mul", y, net.positive(C, 1, 1))))).count("Mul") == 0


def test_an_affine_on_the_slope_of_a_prelu_stays():
    net = Net()
    slope = net.op("Mul", net.op("Tanh", net.input(C, 1, 1)), net.positive(C, 1, 1))
    y = net.op("PRelu", conv(net), slope, name="act")
    assert_stays(fold(net.build(net.op("Tanh", y))), "parameter", "act (PRelu)")


def test_a_zero_scale_passes_a_relu():
    net = Net()
    y = net.op("Relu", conv(net))
    scale = np.array([1, 0, 2, 0], np.float32).reshape(C, 1, 1)
    assert fold(net.build(net.op("Tanh", net.op("Mul", y, scale)))).count("Mul") == 0


@pytest.mark.parametrize("kind", ["Relu", "LeakyRelu"])
def test_a_negative_scale_does_not_pass_a_relu(kind):
    net = Net()
    y = net.op(kind, conv(net), name="act")
    folded = fold(net.build(net.op("Tanh", net.op("Mul", y, np.array([1, 1, -1, 1], np.float32).reshape(C, 1, 1)))))
    assert_stays(folded, "negative-scale", f"act ({kind})")


def test_a_batchnorm_behind_a_relu_is_not_folded_as_if_the_relu_were_not_there():
    net = Net()
    folded = fold(net.build(net.op("Tanh", net.bn(net.op("Relu", conv(net), name="relu"), C))))
    assert_stays(folded, "nonlinear", "relu (Relu)", "no shift passes")


def test_a_positive_scale_sinks_through_a_relu():
    net = Net()
    x = net.op("Mul", net.op("Tanh", net.input("N", C)), net.positive(C))
    assert fold(net.build(net.op("Gemm", net.op("Relu", x), net.draw(C, 2)))).count("Mul") == 0


@pytest.mark.parametrize(("low", "left"), [(0.5, 0), (0.0, 0), (-0.5, 1)])
def test_a_split_before_a_relu_needs_every_scale_above_zero(low, left):
    """s x + t = s (x + t/s): the shift into the bias of the one operand, the scale behind the ReLU.

    A channel of scale 0 goes into the weights behind, of a negative one the sign is left.
    """
    net = Net()
    joined = net.op("Add", net.op("Tanh", net.input("N", C)), net.op("Gemm", net.input("N", 3), net.draw(3, C)))
    y = net.op("Relu", net.exact_bn(joined, np.array([1.0, low, 2.0, 1.0]), net.draw(C)))
    folded = fold(net.build(net.op("Gemm", y, net.draw(C, 2))))
    assert folded.count("BatchNormalization", "Mul") == left
    assert folded.plan.steps[0].kind == ("split" if low > 0 else "cheaper" if left else "gauge")


CLIPS = {
    "at zero": (0.0, None, True),
    "at zero and infinity": (0.0, np.inf, True),
    "ReLU6": (0.0, 6.0, False),
    "below zero": (-1.0, None, False),
    "above alone": (None, 6.0, False),
}


@pytest.mark.parametrize("opset", [7, 11])
@pytest.mark.parametrize("case", CLIPS)
def test_a_clip_is_a_relu_only_from_zero_upward(case, opset):
    low, high, passes = CLIPS[case]
    net = Net(opset=opset)
    bounds = {"min": low, "max": high}
    y = conv(net)
    if opset < 11:
        y = net.op(
            "Clip", y, name="clip", **{k: float(v) for k, v in bounds.items() if v is not None and np.isfinite(v)}
        )
    else:
        y = net.op("Clip", y, *("" if v is None else np.float32(v) for v in (low, high)), name="clip")
    folded = fold(net.build(net.op("Tanh", net.op("Mul", y, net.positive(C, 1, 1)))))
    assert folded.count("Mul") == (0 if passes else 1)
    if not passes:
        assert "clip (Clip)" in folded.sentences


LARGEST = float(np.finfo(np.float32).max)


@pytest.mark.parametrize(("low", "high", "left"), [(0.0, LARGEST, 0), (LARGEST, LARGEST, 1), (0.0, 3e38, 1)])
def test_the_largest_number_was_no_bound_in_older_opsets(low, high, left):
    net = Net(opset=10)
    y = net.op("Clip", conv(net), min=low, max=high, name="clip")
    assert fold(net.build(net.op("Tanh", net.op("Mul", y, net.positive(C, 1, 1))))).count("Mul") == left


@pytest.mark.parametrize("low", [[0.0], [0.0, 0.0]])
def test_a_bound_of_a_clip_is_one_number(low):
    net = Net()
    y = net.op("Clip", conv(net), np.array(low, np.float32), name="clip")
    plan = fold_graph(load(net.build(net.op("Tanh", net.op("Mul", y, net.positive(C, 1, 1))))).graph)[1]
    assert bool(plan.steps) == (len(low) == 1)


def test_a_clip_with_a_bound_computed_at_run_time_stops_everything():
    net = Net()
    y = net.op("Clip", conv(net), net.input(name="low"), name="clip")
    assert_stays(fold(net.build(net.op("Tanh", net.op("Mul", y, net.positive(C, 1, 1))))), "nonlinear", "clip (Clip)")


NONLINEAR = [
    "Sigmoid",
    "Tanh",
    "Elu",
    "Selu",
    "Softplus",
    "Softsign",
    "HardSigmoid",
    "HardSwish",
    "Softmax",
    "Exp",
    "Erf",
]


@pytest.mark.parametrize("direction", ["backward", "forward"])
@pytest.mark.parametrize("kind", NONLINEAR)
def test_nothing_passes_a_nonlinear_operator(kind, direction):
    net = Net()
    if direction == "backward":
        model = net.build(behind(net, net.op(kind, conv(net), name="act")))
    else:
        x = net.exact_bn(net.op("Tanh", net.input("N", C, 4, 4)), net.positive(C), net.draw(C))
        model = net.build(net.op("Conv", net.op(kind, x, name="act"), net.draw(2, C, 1, 1)))
    assert_stays(fold(model), "nonlinear", f"act ({kind})")


@pytest.mark.parametrize("direction", ["backward", "forward"])
def test_nothing_passes_an_unknown_operator(direction):
    net = Net()
    if direction == "backward":
        model = net.build(behind(net, net.op("LRN", conv(net), size=3, name="mystery")))
    else:
        x = net.exact_bn(net.op("Tanh", net.input("N", C, 4, 4)), net.positive(C), net.draw(C))
        model = net.build(net.op("Conv", net.op("LRN", x, size=3, name="mystery"), net.draw(2, C, 1, 1)))
    assert_stays(fold(model), "unknown-operator", "mystery (LRN)")


def test_nothing_passes_an_operator_of_a_foreign_domain():
    net = Net()
    net.domains["com.microsoft"] = 1
    y = net.op("Gelu", conv(net), domain="com.microsoft", name="foreign")
    y = net.exact_bn(y, net.positive(C), net.draw(C))
    net.output(y, shape=["N", C, 4, 4])
    assert_stays(fold(net.build()), "unknown-operator", "foreign (Gelu)")


def test_quantisation_of_activations_stops_everything():
    net = Net()
    y = net.op("QuantizeLinear", conv(net), np.float32(0.02), np.uint8(128))
    y = net.op("DequantizeLinear", y, np.float32(0.02), np.uint8(128), name="dequantize")
    assert_stays(fold(net.build(behind(net, y))), "quantized", "dequantize (DequantizeLinear)")


def test_a_shape_reads_no_values():
    net = Net()
    y = conv(net)
    scaled = net.bn(y, C)
    size = net.op("Concat", net.op("Shape", y, end=1), np.array([-1]), axis=0)
    folded = fold(net.build(net.op("Reshape", net.op("Tanh", scaled), size)))
    assert folded.count("BatchNormalization") == 0


def test_a_batchnorm_goes_forward_past_a_shape():
    net = Net()
    x = net.exact_bn(net.op("Tanh", net.input("N", C, 1, 1)), net.positive(C), net.draw(C))
    size = net.op("Concat", net.op("Shape", x, end=1), np.array([C]), axis=0)
    folded = fold(net.build(net.op("Gemm", net.op("Reshape", x, size), net.draw(C, 2))))
    assert folded.count("BatchNormalization") == 0


def test_a_tensor_that_others_are_cast_like_is_not_seen_by_them():
    """As PyTorch's newer exporter writes a convolution without a bias: with one of zeros, cast like the data."""
    net = Net(opset=18)
    x = net.input("N", 3, 6, 6)
    scaled = net.bn(conv(net), C)
    zeros = net.op("Expand", net.op("CastLike", net.const(0.0, dtype=np.float64), scaled), np.array([5]))
    y = net.op("Conv", net.op("Tanh", scaled), net.draw(5, C, 3, 3), zeros)
    folded = fold(net.build(net.op("Tanh", net.bn(y, 5)), net.op("Tanh", net.op("CastLike", x, scaled))))
    assert folded.count("BatchNormalization") == 0


@pytest.mark.parametrize(("slot", "left"), [(0, 1), (1, 0)])
def test_a_cast_like_sees_the_values_of_its_first_input_alone(slot, left):
    net = Net(opset=18)
    y, other = conv(net), net.input("N", 2)
    seen = net.op("CastLike", *((y, other) if slot == 0 else (other, y)), name="cast")
    folded = fold(net.build(behind(net, y), net.op("Sigmoid", seen)))
    assert folded.count("BatchNormalization") == left
    assert ("observed" in folded.codes) == bool(left)


@pytest.mark.parametrize(("dtype", "stays"), [(np.float32, 0), (np.int64, 1)])
def test_an_affine_passes_a_cast_like_a_float(dtype, stays):
    net = Net(opset=18)
    y = net.op("CastLike", conv(net), net.input("N", dtype=dtype), name="cast")
    y = net.op("Cast", y, to=1, name="back")
    folded = fold(net.build(behind(net, y)))
    assert folded.count("BatchNormalization") == stays


@pytest.mark.parametrize("kind", ["EyeLike", "Size"])
def test_what_is_only_asked_for_its_size_is_not_seen(kind):
    net = Net()
    y = net.op("Flatten", net.op("GlobalAveragePool", conv(net)))
    other = net.op("Cast", net.op(kind, y), to=1)
    folded = fold(net.build(net.op("Tanh", net.bn(y, C)), other))
    assert folded.count("BatchNormalization") == 0


# -- Trilu and CumSum ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "shape", "passes"),
    [
        (lambda net, x: net.op("Trilu", x), (4, 1, 1), True),
        (lambda net, x: net.op("Trilu", x, upper=0), (5,), True),
        (lambda net, x: net.op("CumSum", x, np.array(2)), (4, 1, 1), True),
        (lambda net, x: net.op("CumSum", x, np.array(-1), reverse=1), (5, 1), True),
        (lambda net, x: net.op("CumSum", x, np.array(-1), exclusive=1), (5,), False),
        (lambda net, x: net.op("CumSum", x, np.array(2)), (5, 1), False),
    ],
)
@pytest.mark.parametrize("kind", ["Mul", "Add"])
def test_a_scale_passes_a_triangle_and_a_running_sum(build, shape, passes, kind):
    net = Net()
    x = net.op("Conv", net.input("N", 3, 5, 5), net.draw(4, 3, 1, 1))
    if shape[0] == 5:  # along rows or columns only another such operator can take it
        x = net.op("Mul", net.op("Relu", x), net.positive(*shape))
    y = net.op(kind, build(net, x), net.draw(*shape))
    before = len(net.nodes)
    folded = fold(net.build(net.op("Tanh", y)))
    assert folded.count() == before + 1 - (passes and kind == "Mul")


def test_a_running_sum_along_an_axis_chosen_at_run_time_passes_a_number_alone():
    for values, left in ((np.float32(2), 0), (np.array([[[1]], [[2]], [[3]], [[4]]], np.float32), 1)):
        net = Net()
        net.feeds["axis"] = np.array(2)
        x = net.op("Conv", net.input("N", 3, 5, 5), net.draw(4, 3, 1, 1))
        y = net.op("CumSum", x, net.input(name="axis", dtype=np.int64))
        assert fold(net.build(net.op("Tanh", net.op("Mul", y, values)))).count("Mul") == left
