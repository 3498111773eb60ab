"""Convolutions as values: sums and chains of random ones, against arithmetic written out tap by tap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from math import ceil

import numpy as np
import onnx
import pytest
from helpers import Net, run
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from bnfold.affine import Affine
from bnfold.formats import load
from bnfold.graph import ModelGraph, Op, Tensor
from bnfold.operators import Node, facts_of
from bnfold.operators.convolution import (
    Convolution,
    add,
    add_plain,
    chain,
    per_channel,
    same_padding,
)
from bnfold.operators.keras import KERAS
from bnfold.operators.onnx import ONNX
from bnfold.operators.pointwise import of_affine

FLOAT = np.dtype(np.float32)


def convolution(
    shape: Sequence[int],
    *,
    groups: int = 1,
    strides: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    begins: Sequence[int] | None = None,
    ends: Sequence[int] | None = None,
    sizes: Sequence[int | None] | None = None,
    bias: bool = True,
    seed: int = 0,
    dtype: np.dtype = FLOAT,
) -> Convolution:
    """A convolution of random weights; ``shape`` is [out, in / groups, *kernel]."""
    random = np.random.default_rng(seed)
    spatial = len(shape) - 2
    weight = random.normal(size=tuple(shape))
    dilations = tuple(dilations or (1,) * spatial)
    begins, ends = tuple(begins or (0,) * spatial), tuple(ends or (0,) * spatial)
    slack = tuple(b + e - d * (k - 1) for b, e, d, k in zip(begins, ends, dilations, shape[2:], strict=True))
    return Convolution(
        shape=tuple(shape), load=lambda: weight, groups=groups,
        bias=random.normal(size=shape[0]) if bias else np.zeros(shape[0]),
        strides=tuple(strides or (1,) * spatial), dilations=dilations, begins=begins, slack=slack,
        sizes=tuple(sizes or (None,) * spatial), dtype=dtype, macs=float(np.prod(shape)),
    )  # fmt: skip


def apply(conv: Convolution, x: np.ndarray) -> np.ndarray:
    """What a convolution makes of an image [in, *space], one tap after the other."""
    spatial = x.ndim - 1
    padded = np.pad(x, [(0, 0), *zip(conv.begins, conv.ends, strict=True)])
    weight = conv.load()
    assert weight.shape == conv.shape
    reach = [d * (k - 1) for d, k in zip(conv.dilations, conv.kernel, strict=True)]
    out = [(size - r - 1) // stride + 1 for size, r, stride in zip(padded.shape[1:], reach, conv.strides, strict=True)]
    assert min(out) > 0
    result = np.tile(conv.bias.reshape(-1, *[1] * spatial), (1, *out))
    rows, within = conv.shape[0] // conv.groups, conv.shape[1]
    for tap in product(*(range(size) for size in conv.kernel)):
        places = [
            slice(t * d, t * d + (n - 1) * s + 1, s)
            for t, d, n, s in zip(tap, conv.dilations, out, conv.strides, strict=True)
        ]
        seen = padded[(slice(None), *places)]
        for group in range(conv.groups):
            mine, theirs = slice(group * rows, (group + 1) * rows), slice(group * within, (group + 1) * within)
            result[mine] += np.tensordot(weight[(mine, slice(None), *tap)], seen[theirs], axes=1)
    return result


def convolution_of(graph: ModelGraph, op: Op) -> Convolution | None:
    """An operator of a graph as a value."""
    return facts_of(op).convolution(Node(graph, op))


def unchecked(net: Net) -> onnx.ModelProto:
    """A model as it may stand in a subgraph, where the checker does not look at shapes."""
    return onnx.helper.make_model(net.graph(), opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


def image(channels: int, *size: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(channels, *size))


# -- drawing -----------------------------------------------------------------------------------------

CHANNELS = (6, 12)
GROUPS = (1, 2, 3, 6)


@st.composite
def aligned(draw, spatial: int, strides: tuple[int, ...], slack: tuple[int, ...]) -> Convolution:
    """A convolution of 6 to 12 channels, padded at random but so that its output has the size the others' have."""
    kernel, dilations, begins, ends = [], [], [], []
    for dim in range(spatial):
        size, dilation = draw(st.integers(1, 4)), draw(st.integers(1, 3))
        total = slack[dim] + dilation * (size - 1)
        begin = draw(st.integers(0, total))
        kernel.append(size)
        dilations.append(dilation)
        begins.append(begin)
        ends.append(total - begin)
    groups = draw(st.sampled_from(GROUPS))
    inside, out = CHANNELS
    return convolution(
        (out, inside // groups, *kernel), groups=groups, strides=strides, dilations=dilations, begins=begins, ends=ends,
        bias=draw(st.booleans()), seed=draw(st.integers(0, 1000)),
    )  # fmt: skip


@st.composite
def parallel(draw) -> list[Convolution]:
    """Two or three convolutions whose outputs have one size, for every size of the input."""
    spatial = draw(st.integers(1, 2))
    strides = tuple(draw(st.integers(1, 3)) for _ in range(spatial))
    slack = tuple(draw(st.integers(0, 2)) for _ in range(spatial))
    return draw(st.lists(aligned(spatial, strides, slack), min_size=2, max_size=3))


# -- sums --------------------------------------------------------------------------------------------


@settings(max_examples=250)
@given(parallel(), st.integers(5, 9))
def test_a_sum_computes_what_its_parts_do_together(parts, size):
    total = add(parts)
    if total is None:
        return
    x = image(CHANNELS[0], *[size + dim for dim in range(len(parts[0].kernel))])
    np.testing.assert_allclose(apply(total, x), sum(apply(part, x) for part in parts), rtol=1e-10, atol=1e-10)
    assert total.own_macs == total.macs <= sum(part.macs for part in parts)


@settings(max_examples=100)
@given(parallel())
def test_a_sum_that_is_refused_would_be_dearer(parts):
    """Every tap of every part, in one kernel of the common groups, on the coarsest grid that has them all."""
    places = [{place for part in parts for place in part.positions(dim)} for dim in range(len(parts[0].kernel))]
    taps = 1
    for offsets in places:
        step = np.gcd.reduce([offset - min(offsets) for offset in offsets]) or 1
        taps *= (max(offsets) - min(offsets)) // int(step) + 1
    groups = int(np.gcd.reduce([part.groups for part in parts]))
    cost = taps * CHANNELS[1] * CHANNELS[0] // groups
    # A kernel that starts behind the border would need padding of less than nothing.
    outside = any(min(offsets) > 0 for offsets in places)
    ends = [max(offsets) for offsets in places]
    behind = any(part_slack + end < 0 for part_slack, end in zip(parts[0].slack, ends, strict=True))
    dear = cost > sum(part.macs for part in parts)
    assert (add(parts) is None) == (dear or outside or behind)


def test_the_order_of_the_parts_does_not_matter():
    parts = [
        convolution((6, 6, 3, 3), begins=(1, 1), ends=(1, 1)),
        convolution((6, 2, 1, 3), groups=3, begins=(0, 1), ends=(0, 1), seed=1),
        per_channel(Affine.of(np.arange(6.0), np.ones(6), 1), 6, 2, FLOAT, 0.0),
    ]
    x = image(6, 5, 6)
    first, last = add(parts), add(parts[::-1])
    assert first is not None
    assert last is not None
    assert first.shape == last.shape
    np.testing.assert_allclose(apply(first, x), apply(last, x), rtol=1e-12)


DIFFERENT = {
    "strides": {"strides": (2, 1)},
    "channels": {"shape": (8, 6, 3, 3)},
    "dtype": {"dtype": np.dtype(np.float16)},
    "rank": {"shape": (6, 6, 3), "begins": (1,), "ends": (1,)},
    "output size": {"ends": (2, 1)},
}


@pytest.mark.parametrize("changes", DIFFERENT.values(), ids=DIFFERENT)
def test_convolutions_that_differ_have_no_sum(changes):
    usual = {"shape": (6, 6, 3, 3), "begins": (1, 1), "ends": (1, 1)}
    assert add([convolution(**usual), convolution(**usual)]) is not None
    assert add([convolution(**usual), convolution(**{**usual, **changes})]) is None


def test_channels_on_different_axes_have_no_sum():
    maps = [per_channel(Affine.of(np.ones(4) * 2, 0.0, axis), 4, 2, FLOAT, 4.0, axis) for axis in (1, 3)]
    assert add_plain(maps) is None
    assert add([replace(maps[0], plain=None), replace(maps[1], plain=None)]) is None


@pytest.mark.parametrize(
    ("stride", "size", "found"), [(2, 8, True), (2, 7, False), (2, None, False), (3, 8, True), (3, 7, False)]
)
def test_a_known_size_makes_paddings_agree(stride, size, found):
    parts = [
        convolution((6, 6, 3), strides=(stride,), begins=(1,), ends=(end,), sizes=(size,), seed=end) for end in (1, 0)
    ]
    total = add(parts)
    assert (total is not None) == found
    if total is not None:
        x = image(6, 8)
        np.testing.assert_allclose(apply(total, x), apply(parts[0], x) + apply(parts[1], x), rtol=1e-12)
        assert total.sizes == (8,)


def test_a_kernel_that_starts_behind_the_border_has_no_sum():
    """It would need padding of less than nothing."""
    parts = [convolution((6, 6, 2), begins=(-1,), ends=(1,), seed=seed) for seed in range(2)]
    assert add(parts) is None
    assert add([*parts, convolution((6, 6, 3), begins=(0,), ends=(1,))]) is not None


def test_one_part_that_knows_the_size_is_enough():
    parts = [
        convolution((6, 6, 3), strides=(2,), begins=(1,), ends=(1,)),
        convolution((6, 6, 3), strides=(2,), begins=(1,), ends=(0,), sizes=(8,)),
    ]
    assert add(parts) is not None
    assert add(parts[::-1]) is not None


def test_maps_of_single_channels_add_up_to_one():
    scale, shift = np.arange(4.0), np.ones(4)
    maps = [Affine.of(scale, shift, 1), Affine.of(2.0, 0.5, None), Affine.identity()]
    total = add_plain([per_channel(affine, 4, 2, FLOAT, 0.0) for affine in maps])
    assert total is not None
    np.testing.assert_array_equal(total.scale, scale + 3.0)
    np.testing.assert_array_equal(total.shift, shift + 0.5)
    assert total.axis == 1
    assert add_plain([per_channel(maps[0], 4, 2, FLOAT, 0.0), convolution((4, 4, 1, 1))]) is None


CHANNELS_OF = Affine.of(np.arange(4.0), np.ones(4), 1)
OF_AFFINES = {
    "a map of channels": (ONNX, (2, 4, 5), FLOAT, CHANNELS_OF, None, 1),
    "a map of all": (ONNX, (2, 4, 5), FLOAT, Affine.of(2.0, 1.0, None), None, 1),
    "a map of all in Keras": (KERAS, (2, 5, 4), FLOAT, Affine.of(2.0, 1.0, None), None, 2),
    "a map of all, on a given axis": (KERAS, (2, 4, 5), FLOAT, Affine.of(2.0, 1.0, None), 1, 1),
    "a map of rows": (ONNX, (2, 5, 4), FLOAT, Affine.of(np.arange(4.0), np.ones(4), 2), None, 2),
    "vectors": (ONNX, (2, 4), FLOAT, CHANNELS_OF, None, None),
    "unknown rank": (ONNX, None, FLOAT, CHANNELS_OF, None, None),
    "unknown size": (ONNX, (2, "C", 5), FLOAT, CHANNELS_OF, None, None),
    "unknown type": (ONNX, (2, 4, 5), None, CHANNELS_OF, None, None),
    "several axes": (ONNX, (2, 4, 5), FLOAT, Affine.over((1, 2), image(4, 5), np.ones((4, 5))), None, None),
}


@pytest.mark.parametrize(("dialect", "shape", "dtype", "affine", "given", "axis"), OF_AFFINES.values(), ids=OF_AFFINES)
def test_which_maps_are_convolutions(dialect, shape, dtype, affine, given, axis):
    graph = ModelGraph(dialect=dialect)
    graph.put(Op("op", "Any", ("x",), ("y",)))
    graph.declare(Tensor("y", dtype, shape))
    found = of_affine(Node(graph, graph.op("op")), affine, 3.0, given)
    assert (None if found is None else found.channel_axis) == axis
    if found is not None:
        assert found.shape == (4, 1, 1)
        assert found.channels == (4, 4)
        assert found.macs == 12.0
        assert found.plain is affine
        x = image(4, 5)
        scale, shift = (np.broadcast_to(vector, 4).reshape(4, 1) for vector in (affine.scale, affine.shift))
        np.testing.assert_allclose(apply(found, x), scale * x + shift)


# -- chains ------------------------------------------------------------------------------------------


@st.composite
def rows(draw) -> tuple[Convolution, Convolution]:
    """Two convolutions in a row, one of them of a single tap more often than not."""
    spatial = draw(st.integers(1, 2))
    inside, middle, out = (draw(st.sampled_from(CHANNELS)) for _ in range(3))

    def one(channels: int, filters: int, *, pointwise: bool) -> Convolution:
        sizes = [1 if pointwise else draw(st.integers(1, 3)) for _ in range(spatial)]
        groups = draw(st.sampled_from(GROUPS))
        padding = [(0, 0) if pointwise else (draw(st.integers(0, 2)), draw(st.integers(0, 2))) for _ in range(spatial)]
        return convolution(
            (filters, channels // groups, *sizes), groups=groups,
            strides=[1 if pointwise else draw(st.integers(1, 2)) for _ in range(spatial)],
            dilations=[draw(st.integers(1, 2)) for _ in range(spatial)],
            begins=[pad[0] for pad in padding], ends=[pad[1] for pad in padding],
            bias=draw(st.booleans()), seed=draw(st.integers(0, 1000)),
        )  # fmt: skip

    which = draw(st.integers(0, 3))
    return one(inside, middle, pointwise=which in (0, 2)), one(middle, out, pointwise=which in (1, 2))


@settings(max_examples=250)
@given(rows(), st.integers(7, 9))
def test_a_chain_computes_what_its_parts_do_in_a_row(pair, size):
    first, second = pair
    whole = chain(first, second)
    if whole is None:
        lost = first.is_pointwise and not second.is_pointwise and first.bias.any() and second.is_padded
        assert lost or not (first.is_pointwise or second.is_pointwise)
        return
    x = image(first.channels[0], *[size + dim for dim in range(len(first.kernel))])
    np.testing.assert_allclose(apply(whole, x), apply(second, apply(first, x)), rtol=1e-9, atol=1e-9)


def test_a_chain_costs_what_its_parts_do():
    first = convolution((12, 6, 1, 1))
    second = convolution((6, 12, 3, 3), strides=(2, 2), bias=False)
    whole = chain(first, second)
    assert whole is not None
    # The first one runs at four times as many positions.
    assert whole.macs == 4 * 72 + 648
    assert whole.own_macs == 6 * 6 * 9


def test_a_chain_of_maps_of_single_channels_is_one():
    first, second = Affine.of(np.arange(4.0), np.ones(4), 1), Affine.of(2.0, 0.5, None)
    whole = chain(*(per_channel(affine, 4, 2, FLOAT, 4.0) for affine in (first, second)))
    assert whole is not None
    assert whole.plain is not None
    assert whole.plain.same_as(first.then(second))


@pytest.mark.parametrize("order", [1, -1])
def test_a_map_of_single_channels_takes_the_type_of_the_weights_beside_it(order):
    plain = per_channel(Affine.of(2.0, 0.0, None), 6, 2, FLOAT, 6.0)
    whole = chain(*[plain, convolution((6, 6, 3, 3), dtype=np.dtype(np.float16))][::order])
    assert whole is not None
    assert whole.dtype == np.float16


POINTWISE = {
    "one tap": ({}, True),
    "two taps": ({"shape": (6, 6, 1, 2)}, False),
    "a stride": ({"strides": (1, 2)}, False),
    "padding": ({"begins": (0, 1)}, False),
    "padding behind": ({"ends": (1, 0)}, False),
    "moved by one": ({"begins": (1, 0), "ends": (-1, 0)}, False),
}


@pytest.mark.parametrize(("options", "pointwise"), POINTWISE.values(), ids=POINTWISE)
def test_what_is_pointwise(options, pointwise):
    assert convolution(**{"shape": (6, 6, 1, 1), **options}).is_pointwise == pointwise


def test_parts_that_do_not_fit_have_no_chain():
    assert chain(convolution((6, 6, 1, 1)), convolution((6, 12, 3, 3))) is None
    assert chain(convolution((6, 6, 1)), convolution((6, 6, 1, 1))) is None
    assert chain(convolution((6, 6, 1, 1)), convolution((6, 6, 1, 1), dtype=np.dtype(np.float16))) is None
    assert chain(convolution((6, 6, 3, 3)), convolution((6, 6, 3, 3))) is None
    assert chain(convolution((6, 6, 1, 1)), replace(convolution((6, 6, 1, 1)), channel_axis=3)) is None


def test_the_bias_of_a_chain_needs_no_dense_weight():
    """Depthwise, with as many channels as a large network has: without groups the weight would fill the memory."""
    count = 2048
    first = per_channel(Affine.of(np.ones(count), np.ones(count), 1), count, 2, FLOAT, 0.0)
    second = convolution((count, 1, 3, 3), groups=count)
    whole = chain(first, second)
    assert whole is not None
    assert whole.shape == (count, 1, 3, 3)
    np.testing.assert_allclose(whole.bias, second.bias + second.load().sum(axis=(1, 2, 3)))


# -- padding and writing -----------------------------------------------------------------------------


@pytest.mark.parametrize("lower", [False, True])
@given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 4), st.integers(1, 3))
def test_same_padding_makes_as_many_positions_as_strides_fit(lower, size, taps, stride, dilation):
    padding = same_padding([size], [taps], [stride], [dilation], lower=lower)
    assert padding is not None
    (begin,), (end,) = padding
    reach = dilation * (taps - 1)
    positions = (size + begin + end - reach - 1) // stride + 1
    assert positions == ceil(size / stride) or (begin, end) == (0, 0)
    assert (begin - end if lower else end - begin) in (0, 1)


def test_same_padding_of_an_unknown_size():
    assert same_padding([None], [4], [1], [1]) == ((1,), (2,))
    assert same_padding([None], [4], [1], [1], lower=True) == ((2,), (1,))
    assert same_padding([None], [4], [2], [1]) is None


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


LAYERS = {
    "valid": ({}, "valid"),
    "same": ({"begins": (1, 1), "ends": (1, 1)}, "same"),
    "even same": ({"shape": (4, 4, 2, 2), "ends": (1, 1)}, "same"),
    "same of dilated taps": ({"dilations": (2, 2), "begins": (2, 2), "ends": (2, 2)}, "same"),
    "same with a stride": ({"strides": (2, 2), "begins": (0, 1), "ends": (1, 1), "sizes": (8, 7)}, "same"),
    "more zeros than the stride reaches": (
        {"strides": (2, 2), "begins": (0, 0), "ends": (2, 1), "sizes": (8, 8)}, "same",
    ),
    "a stride over an open size": ({"strides": (2, 2), "begins": (0, 0), "ends": (1, 1)}, None),
    "begins elsewhere": ({"begins": (2, 1), "ends": (0, 1)}, None),
    "more positions": ({"begins": (1, 1), "ends": (2, 1)}, None),
    "fewer positions": ({"strides": (2, 2), "begins": (0, 0), "ends": (1, 0), "sizes": (8, 8)}, None),
    "even, with the zeros before": ({"shape": (4, 4, 2, 2), "begins": (1, 1)}, None),
    "strides and dilations": ({"strides": (2, 2), "dilations": (2, 2)}, None),
}  # fmt: skip


@pytest.mark.parametrize(("options", "padding"), LAYERS.values(), ids=LAYERS)
def test_what_keras_calls_the_padding(options, padding):
    conv = convolution(**{"shape": (4, 4, 3, 3), **options})
    new = KERAS.convolution("x", replace(conv, channel_axis=3), "made")
    assert (None if new is None else new.attributes["padding"]) == padding


@pytest.mark.parametrize(
    ("shape", "groups", "kind"),
    [
        ((4, 4, 3, 3), 1, "Conv2D"),
        ((4, 2, 3, 3), 2, "Conv2D"),
        ((8, 1, 3, 3), 4, "DepthwiseConv2D"),
        ((4, 1, 3), 4, "DepthwiseConv1D"),
        ((4, 1, 3, 3, 3), 4, "Conv3D"),
        ((4, 1, 3, 3), 1, "Conv2D"),
    ],
)
def test_which_layer_keras_has_for_it(shape, groups, kind):
    new = KERAS.convolution("x", replace(convolution(shape, groups=groups), channel_axis=len(shape) - 1), "made")
    assert new is not None
    assert new.type == kind
