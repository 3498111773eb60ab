"""Pad and Resize: operators that invent or interpolate elements."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import Net, assert_gone, assert_stays, fold, ints

from bnfold.folding import fold_graph
from bnfold.formats import load

C = 4


def conv(net: Net) -> str:
    return net.op("Conv", net.input("N", 3, 6, 6), net.draw(C, 3, 1, 1))


def pad(net: Net, x: str, value: float | None = None, *, pads=(0, 0, 1, 2, 0, 0, 2, 1), **attrs) -> str:
    if net.opset < 11:
        extra = {} if value is None else {"value": float(value)}
        return net.op("Pad", x, pads=list(pads), name="pad", **extra, **attrs)
    operands = [ints(*pads)] + ([] if value is None else [net.const(np.asarray(value, net.dtype))])
    return net.op("Pad", x, *operands, name="pad", **attrs)


# -- Pad ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opset", [10, 11, 18])
@pytest.mark.parametrize("value", [None, 0.0, -1.5])
def test_a_constant_border_changes_with_a_uniform_affine_that_follows(value, opset):
    net = Net(opset=opset)
    y = net.op("Sub", net.op("Mul", pad(net, conv(net), value), np.float32(-2)), np.float32(3))
    assert fold(net.build(net.op("Tanh", y))).count() == 3


@pytest.mark.parametrize("opset", [10, 17])
def test_a_constant_border_changes_with_a_uniform_affine_that_precedes(opset):
    net = Net(opset=opset)
    x = net.op("Add", net.op("Mul", net.op("Tanh", net.input("N", C, 6, 6)), np.float32(-2)), np.float32(3))
    assert fold(net.build(net.op("Conv", pad(net, x, 0.5), net.draw(2, C, 3, 3)))).count() == 3


def test_a_border_of_zeros_stays_with_a_vector_of_scales():
    net = Net()
    y = net.op("Mul", pad(net, conv(net)), net.draw(C, 1, 1))
    folded = fold(net.build(net.op("Tanh", y)))
    assert folded.count() == 3
    assert len(folded.node("Pad").input) == 2


@pytest.mark.parametrize("mean", [0.3, -1.7, 12.1])
def test_a_border_goes_with_a_batchnorm_whose_channels_share_one_mean(mean):
    """t/s is -mean for every channel, up to the rounding of float64."""
    net = Net()
    x = net.op("Tanh", net.input("N", C, 6, 6))
    vectors = [net.positive(C), np.zeros(C, np.float32), np.full(C, mean, np.float32), net.positive(C)]
    y = pad(net, net.op("BatchNormalization", x, *vectors))
    folded = fold(net.build(net.op("Conv", y, net.draw(2, C, 3, 3))))
    assert folded.count() == 3
    assert folded.constant(folded.node("Pad").input[2]) == pytest.approx(mean, rel=1e-6)


def test_a_border_that_would_differ_by_channel_refuses():
    net = Net()
    y = pad(net, net.bn(net.op("Tanh", net.input("N", C, 6, 6)), C))
    assert_stays(fold(net.build(net.op("Conv", y, net.draw(2, C, 3, 3)))), "uneven-border", "pad (Pad)")
    net = Net()
    folded = fold(net.build(net.op("Tanh", net.bn(pad(net, conv(net), 1.0), C))))
    assert_stays(folded, "uneven-border", "pad (Pad)")


def test_borders_that_nearly_agree_are_not_taken_for_equal():
    net = Net()
    x = net.exact_bn(net.op("Tanh", net.input("N", C, 6, 6)), np.ones(C), [1.0, 1.0, 1.0, 1.0001])
    folded = fold(net.build(net.op("Conv", pad(net, x), net.draw(2, C, 3, 3))))
    assert "uneven-border" in folded.codes


def test_a_zero_scale_does_not_sink_through_a_constant_border():
    net = Net()
    x = net.op("Mul", net.op("Tanh", net.input("N", C, 6, 6)), np.float32(0))
    folded = fold(net.build(net.op("Conv", pad(net, x, 1.0), net.draw(2, C, 3, 3))))
    assert_stays(folded, "zero-scale", "pad (Pad)")


@pytest.mark.parametrize("direction", ["backward", "forward"])
def test_padding_with_minus_infinity_before_a_maximum(direction):
    net = Net()
    if direction == "backward":
        y = net.op("MaxPool", pad(net, conv(net), -np.inf), kernel_shape=[3, 3])
        y = net.op("Tanh", net.bn(y, C))
    else:
        x = net.bn(net.op("Tanh", net.input("N", C, 6, 6)), C)
        y = net.op("MaxPool", pad(net, x, -np.inf), kernel_shape=[4, 4])
        y = net.op("Conv", y, net.draw(2, C, 1, 1))
    assert fold(net.build(y)).count("BatchNormalization") == 0


@pytest.mark.parametrize("mode", ["reflect", "edge", "wrap"])
@pytest.mark.parametrize("direction", ["backward", "forward"])
def test_a_mirrored_or_repeated_border_passes_all(mode, direction):
    net = Net(opset=19 if mode == "wrap" else 17)
    if direction == "backward":
        y = net.op("Tanh", net.bn(pad(net, conv(net), mode=mode), C))
    else:
        x = net.bn(net.op("Tanh", net.input("N", C, 6, 6)), C)
        y = net.op("Conv", pad(net, x, mode=mode), net.draw(2, C, 1, 1))
    assert fold(net.build(y)).count("BatchNormalization") == 0


@pytest.mark.parametrize(("before", "behind"), [(1, 1), (2, 0), (0, 2)])
@pytest.mark.parametrize("mode", ["constant", "edge"])
def test_padded_channels_refuse(mode, before, behind):
    net = Net()
    y = pad(
        net,
        net.op("Mul", net.op("Tanh", net.input("N", C, 6, 6)), net.draw(C, 1, 1)),
        pads=[0, before, 0, 0, 0, behind, 0, 0],
        mode=mode,
    )
    assert_stays(fold(net.build(net.op("Conv", y, net.draw(2, C + 2, 1, 1)))), "padded-channels", "pad (Pad)")


@pytest.mark.parametrize(
    ("axes", "pads", "more"),
    [
        ([-1, 2], [1, 0, 1, 0], 0),
        ([1, 2], [1, 0, 1, 0], 2),
        ([1, 2], [0, 1, 0, 1], 0),
        ([-3, 2], [1, 0, 0, 0], 1),
        ([2, 1], [0, 0, 0, 1], 1),
        ([0, 3], [0, 1, 0, 0], 0),
    ],
)
def test_the_axes_input_of_pad_is_read(axes, pads, more):
    net = Net(opset=18)
    x = net.op("Mul", net.op("Tanh", net.input("N", C, 6, 6)), net.draw(C, 1, 1))
    y = net.op("Pad", x, ints(*pads), "", ints(*axes), name="pad")
    folded = fold(net.build(net.op("Conv", y, net.draw(2, C + more, 1, 1))))
    if more:
        assert_stays(folded, "padded-channels", "pad (Pad)")
    else:
        assert_gone(folded)


def test_an_affine_along_a_padded_batch_stays():
    net = Net(opset=18)
    x = net.op("Mul", net.op("Tanh", net.input(5, C, 6, 6)), net.draw(5, 1, 1, 1))
    y = net.op("Pad", x, ints(1, 0), "", ints(0), name="pad")
    y = net.op("Conv", net.op("Transpose", y, perm=[1, 0, 2, 3]), net.draw(2, 6, 1, 1))
    assert_stays(fold(net.build(y)), "padded-channels", "pad (Pad)")


@pytest.mark.parametrize("what", ["axes", "rank"])
def test_padding_along_axes_that_are_not_known_refuses(what):
    net = Net(opset=18)
    x, axes = net.op("Tanh", net.input("N", C, 6, 6)), ints(2, 3)
    if what == "axes":
        axes = net.input(2, name="axes", dtype=np.int64)
        net.feeds["axes"] = ints(2, 3)
    else:
        x = net.unknown_rank(x, (-1, C, 6, 6))
    y = net.op("Pad", net.op("Mul", net.bn(x, C), np.float32(2)), ints(1, 1, 1, 1), "", axes, name="pad")
    folded = fold(net.build(net.op("Reshape", y, ints(-1))), feeds=net.feeds)
    assert folded.count("BatchNormalization") == 1
    assert "dynamic-axes" in folded.codes, folded.sentences


def test_a_zero_scale_goes_back_through_a_constant_border():
    net = Net()
    scale = np.array([1, 0, 2, 0], np.float32).reshape(C, 1, 1)
    assert_gone(fold(net.build(net.op("Tanh", net.op("Mul", pad(net, conv(net)), scale)))))


def test_a_border_that_would_be_no_number_refuses():
    """Zero times infinity."""
    net = Net()
    y = net.op("Mul", pad(net, conv(net), np.inf), np.float32(0))
    plan = fold_graph(load(net.build(net.op("Tanh", y))).graph)[1]
    assert not plan.steps
    assert plan.remaining[0].backward.code == "uneven-border"


@pytest.mark.parametrize("value", [np.array(1), np.array([1.0, 2.0], np.float32)], ids=["integer", "two"])
def test_a_border_that_no_runtime_would_take_refuses(value):
    net = Net()
    y = net.op("Pad", conv(net), ints(0, 0, 1, 1, 0, 0, 1, 1), value, name="pad")
    plan = fold_graph(load(net.build(net.op("Tanh", net.op("Mul", y, np.float32(2))))).graph)[1]
    assert not plan.steps
    assert plan.remaining[0].backward.code == "dynamic-value"


def test_an_affine_on_the_value_of_a_border_stays():
    net = Net()
    value = net.op("Mul", net.op("Tanh", net.input(name="value")), np.float32(2))
    y = net.op("Pad", conv(net), ints(0, 0, 1, 1, 0, 0, 1, 1), value, name="pad")
    assert_stays(fold(net.build(net.op("Tanh", y))), "parameter", "pad (Pad)")


@pytest.mark.parametrize("what", ["value", "pads"])
def test_what_is_chosen_at_run_time_refuses(what):
    net = Net()
    x = net.bn(net.op("Tanh", net.input("N", C, 6, 6)), C)
    feeds = {"value": np.array(0.5, np.float32)} if what == "value" else {"pads": ints(0, 0, 1, 1, 0, 0, 1, 1)}
    if what == "value":
        y = net.op("Pad", x, ints(0, 0, 1, 1, 0, 0, 1, 1), net.input(name="value"), name="pad")
    else:
        y = net.op("Pad", x, net.input(8, name="pads", dtype=np.int64), name="pad")
    assert_stays(fold(net.build(net.op("Conv", y, net.draw(2, C, 3, 3))), feeds=feeds), f"dynamic-{what}", "pad (Pad)")


def test_a_border_that_would_overflow_refuses():
    net = Net(dtype=np.float16)
    x = net.op("Tanh", net.input("N", C, 6, 6))
    x = net.op("Add", net.op("Mul", x, np.float16(1e-4)), np.float16(10))
    folded = fold(net.build(net.op("Conv", pad(net, x), net.draw(2, C, 3, 3))))
    assert folded.count("Pad") == 1
    assert "fp16-overflow" in folded.codes


def test_a_padded_conv_folds_where_the_padding_is_an_operator_of_its_own():
    """The Conv refuses a shift for its own zeros, the Pad before it changes its constant."""
    for own in (True, False):
        net = Net()
        x = net.op("Add", net.op("Tanh", net.input("N", C, 6, 6)), np.float32(1.5))
        if own:
            y = net.op("Conv", x, net.draw(2, C, 3, 3), pads=[1] * 4)
        else:
            y = net.op("Conv", pad(net, x), net.draw(2, C, 3, 3))
        folded = fold(net.build(y))
        assert folded.count("Add") == int(own)


# -- Resize ------------------------------------------------------------------------------------------

MODES = {
    "nearest": {"mode": "nearest"},
    "linear": {"mode": "linear"},
    "linear corners": {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
    "linear asymmetric": {"mode": "linear", "coordinate_transformation_mode": "asymmetric"},
    "cubic": {"mode": "cubic"},
    "cubic exclude": {"mode": "cubic", "exclude_outside": 1},
}


@pytest.mark.parametrize("direction", ["backward", "forward"])
@pytest.mark.parametrize("attrs", MODES.values(), ids=MODES)
def test_interpolation_passes_all(attrs, direction):
    net = Net()
    scales = np.array([1, 1, 2, 1.5], np.float32)
    if direction == "backward":
        y = net.op("Tanh", net.bn(net.op("Resize", conv(net), "", scales, **attrs), C))
    else:
        x = net.bn(net.op("Tanh", net.input("N", C, 6, 6)), C)
        y = net.op("Conv", net.op("Resize", x, "", scales, **attrs), net.draw(2, C, 1, 1))
    # Interpolation adds up several roundings.
    assert fold(net.build(y), slack=4).count() == 3


def test_a_resize_to_sizes_passes_all():
    net = Net()
    y = net.op("Resize", conv(net), "", "", ints(2, C, 9, 11), mode="linear")
    net.inputs[0].type.tensor_type.shape.dim[0].dim_value = 2
    assert fold(net.build(net.op("Tanh", net.bn(y, C)))).count() == 3


def test_a_resize_of_some_axes_passes_all():
    net = Net(opset=18)
    y = net.op("Resize", conv(net), "", np.array([2, 3], np.float32), axes=[2, -1], mode="nearest")
    assert fold(net.build(net.op("Tanh", net.bn(y, C)))).count() == 3


@pytest.mark.parametrize(("kind", "opset"), [("Upsample", 7), ("Upsample", 9), ("Resize", 10)])
def test_the_older_forms_pass_all(kind, opset):
    net = Net(opset=opset)
    scales = np.array([1, 1, 2, 2], np.float32)
    y = net.op(kind, conv(net), scales=scales.tolist()) if opset < 9 else net.op(kind, conv(net), scales)
    assert fold(net.build(net.op("Tanh", net.bn(y, C)))).count() == 3


def test_a_resize_along_the_affines_axis_refuses():
    net = Net()
    y = net.op("Resize", conv(net), "", np.array([1, 1, 2, 2], np.float32), mode="nearest", name="up")
    folded = fold(net.build(net.op("Tanh", net.op("Mul", y, net.draw(12)))))
    assert_stays(folded, "resized-axis", "up (Resize)")


def test_a_resize_by_scales_chosen_at_run_time_refuses_a_vector():
    net = Net()
    x = net.bn(net.op("Tanh", net.input("N", C, 6, 6)), C)
    y = net.op("Resize", x, "", net.input(4, name="scales"), mode="nearest", name="up")
    folded = fold(net.build(net.op("ReduceMean", y)), feeds={"scales": np.array([1, 1, 2, 2], np.float32)})
    assert_stays(folded, "resized-axis", "up (Resize)")


def test_a_resize_by_scales_chosen_at_run_time_passes_a_uniform_affine():
    net = Net()
    y = net.op("Resize", conv(net), "", net.input(4, name="scales"), mode="nearest")
    y = net.op("Reshape", net.op("Tanh", net.op("Mul", y, np.float32(2))), ints(-1))
    assert_gone(fold(net.build(y), feeds={"scales": np.array([1, 1, 2, 2], np.float32)}))


def test_an_affine_on_the_scales_of_a_resize_stays():
    net = Net()
    scales = net.op("Mul", net.op("Abs", net.input(4, name="scales")), np.float32(2))
    y = net.op("Reshape", net.op("Resize", conv(net), "", scales, mode="nearest", name="up"), ints(-1))
    folded = fold(net.build(y), feeds={"scales": np.array([0.5, 0.5, 1, 1], np.float32)})
    assert folded.count("Mul") == 1


#: (opset, type, the inputs behind the data, attributes) that leave the channels of [?, C, 6, 6] as they are.
FOUR = np.array([1, 1, 2, 3], np.float32)
FORMS = {
    "Upsample 7": (7, "Upsample", [], {"scales": [1.0, 1.0, 2.0, 3.0]}),
    "Upsample 9": (9, "Upsample", [FOUR], {}),
    "Resize 10": (10, "Resize", [FOUR], {}),
    "Resize 11": (11, "Resize", [np.zeros(0, np.float32), FOUR], {}),
    "Resize 13": (13, "Resize", ["", FOUR], {}),
    "Resize 18, axes": (18, "Resize", ["", np.array([2, 1, 3], np.float32)], {"axes": [3, -3, 2]}),
}


@pytest.mark.parametrize("known", [True, False], ids=["shape", "rank alone"])
@pytest.mark.parametrize("form", FORMS)
def test_scales_of_one_leave_an_axis_as_it_is(form, known):
    opset, kind, more, attrs = FORMS[form]
    net = Net(opset=opset)
    x = net.input("N", 3, 6, 6)
    if not known:
        x = net.unknown_rank(x, (-1, 3, 6, 6))
        if "axes" in attrs:
            x = net.op("Reshape", x, ints(0, 3, 6, -1))
    y = net.op(kind, net.op("Conv", x, net.draw(C, 3, 1, 1)), *more, **attrs)
    y = net.op("Tanh", net.bn(y, C))
    net.output(y, shape=["N", C, "H", "W"])
    folded = fold(net.build(), feeds=net.feeds)
    assert folded.count("BatchNormalization", "Mul", "Add") == 0


@pytest.mark.parametrize(("axes", "stays"), [([2, 3], False), ([-3, 2], True), ([1, 2], True)])
def test_a_resize_of_some_axes_stops_what_runs_along_them(axes, stays):
    net = Net(opset=18)
    x = net.bn(net.op("Tanh", net.input("N", C, 6, 6)), C)
    y = net.op("Resize", x, "", np.array([2, 1], np.float32), axes=axes, name="up")
    folded = fold(net.build(net.op("Conv", y, net.draw(2, 2 * C if stays else C, 1, 1))))
    if stays:
        assert_stays(folded, "resized-axis", "up (Resize)")
    else:
        assert_gone(folded)


@pytest.mark.parametrize("size", [C, 2 * C])
def test_a_resize_to_sizes_passes_what_runs_along_an_axis_that_keeps_its_own(size):
    net = Net(opset=11)
    x = net.bn(net.op("Tanh", net.input(2, C, 6, 6)), C)
    none = np.zeros(0, np.float32)
    y = net.op("Resize", x, none, none, ints(2, size, 9, 9), mode="nearest", name="up")
    folded = fold(net.build(net.op("Conv", y, net.draw(2, size, 1, 1))))
    if size == C:
        assert_gone(folded)
    else:
        assert_stays(folded, "resized-axis", "up (Resize)")


def test_a_resize_to_sizes_passes_what_runs_along_the_batch():
    net = Net(opset=11)
    none = np.zeros(0, np.float32)
    x = net.op("Conv", net.input(2, 3, 6, 6), net.draw(C, 3, 1, 1))
    y = net.op("Transpose", net.op("Resize", x, none, none, ints(2, C, 9, 9), mode="nearest"), perm=[1, 0, 2, 3])
    folded = fold(net.build(net.op("Tanh", net.bn(y, 2))))
    assert_stays(folded, "other-axis", "Conv")


@pytest.mark.parametrize("direction", ["backward", "forward"])
@pytest.mark.parametrize("attrs", [{}, {"axes": [2, 3]}], ids=["all", "axes"])
def test_a_resize_of_unknown_rank_refuses_a_vector(attrs, direction):
    net = Net(opset=18)
    x = net.unknown_rank(net.op("Tanh", net.input("N", C, 6, 6)), (-1, C, 6, 6))
    scales = net.input(len(attrs.get("axes", range(4))), name="scales")
    y = net.op("Resize", net.bn(x, C) if direction == "forward" else x, "", scales, mode="nearest", name="up", **attrs)
    y = net.op("Reshape", net.op("Tanh", net.bn(y, C)) if direction == "backward" else y, ints(-1))
    net.feeds["scales"] = np.array([1, 1, 2, 2], np.float32)[-len(attrs.get("axes", range(4))) :]
    assert_stays(fold(net.build(y), feeds=net.feeds), "resized-axis", "up (Resize)")


def test_a_resize_that_extrapolates_refuses():
    net = Net()
    box = np.array([0, 0, -0.2, 0, 1, 1, 1.2, 1], np.float32)
    y = net.op(
        "Resize", conv(net), box, "", ints(2, C, 8, 8), mode="linear", name="crop",
        coordinate_transformation_mode="tf_crop_and_resize", extrapolation_value=5.0,
    )  # fmt: skip
    net.inputs[0].type.tensor_type.shape.dim[0].dim_value = 2
    assert_stays(fold(net.build(net.op("Tanh", net.bn(y, C)))), "extrapolation", "crop (Resize)")


# -- GridSample, CenterCropPad, RoiAlign ---------------------------------------------------------------


def grid_sample(net: Net, x: str, **attrs) -> str:
    # Some of the places lie outside of the image.
    return net.op("GridSample", x, net.rng.uniform(-1.5, 1.5, (2, 5, 5, 2)).astype(np.float32), **attrs)


def crop_pad(net: Net, x: str, *sizes: int, axes=(2, 3)) -> str:
    return net.op("CenterCropPad", x, ints(*sizes), axes=list(axes))


def roi_align(net: Net, x: str, **attrs) -> str:
    boxes = np.array([[1, 1, 5, 5], [-4, -4, 9, 9]], np.float32)
    return net.op("RoiAlign", x, boxes, ints(0, 1), output_height=3, output_width=3, **attrs)


SAMPLERS = {
    "the border repeated": (lambda net, x: grid_sample(net, x, padding_mode="border"), "any"),
    "the border mirrored": (lambda net, x: grid_sample(net, x, padding_mode="reflection"), "any"),
    "cubic, the border repeated": (lambda net, x: grid_sample(net, x, padding_mode="border", mode="cubic"), "any"),
    "zeros outside": (grid_sample, "scale"),
    "cropped": (lambda net, x: crop_pad(net, x, 4, 5), "any"),
    "left as it is": (lambda net, x: crop_pad(net, x, 6, 6), "any"),
    "padded": (lambda net, x: crop_pad(net, x, 5, 8), "scale"),
    "channels cropped": (lambda net, x: crop_pad(net, x, 3, axes=(1,)), "none"),
    "averages of regions": (roi_align, "scale"),
    "maxima of regions": (lambda net, x: roi_align(net, x, mode="max"), "positive"),
}


@pytest.mark.parametrize("kind", ["any", "scale", "positive"])
@pytest.mark.parametrize("case", SAMPLERS)
def test_what_samples_crops_and_pads_lets_through(case, kind):
    sample, passes = SAMPLERS[case]
    net = Net(opset=20)
    channels = 3 if case == "channels cropped" else C
    scale = net.positive(channels) if kind == "positive" else np.array([-1.5, 0.5, 2, -0.25][:channels], np.float32)
    shift = net.draw(channels) if kind == "any" else np.zeros(channels)
    y = sample(net, net.op("Conv", net.input(2, 3, 6, 6), net.draw(C, 3, 1, 1)))
    before = len(net.nodes)
    folded = fold(net.build(net.op("Tanh", net.exact_bn(y, scale, shift))))
    order = ["none", "positive", "scale", "any"]
    gone = order.index(passes) >= order.index(kind)
    assert folded.count() == (before + 1 if gone else before + 2), folded.sentences


@pytest.mark.parametrize("case", ["the border repeated", "cropped"])
def test_what_is_sampled_and_cropped_passes_forward(case):
    net = Net(opset=20)
    x = net.bn(net.op("Tanh", net.input(2, C, 6, 6)), C)
    folded = fold(net.build(net.op("Conv", SAMPLERS[case][0](net, x), net.draw(2, C, 1, 1))))
    assert_gone(folded)


def test_a_crop_to_a_size_chosen_at_run_time_refuses():
    net = Net(opset=20)
    net.feeds["size"] = ints(4, 4)
    cropped = net.op("CenterCropPad", conv(net), net.input(2, name="size", dtype=np.int64), axes=[2, 3])
    net.output(net.bn(cropped, C), shape=["N", C, "H", "W"])
    assert_stays(fold(net.build()), "dynamic-range")
