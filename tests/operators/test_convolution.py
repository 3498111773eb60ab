"""Convolutions as values: sums and chains of random ones, against arithmetic written out tap by tap."""

from __future__ import annotations

from dataclasses import replace
from math import ceil

import numpy as np
import pytest
from convolutions import FLOAT, apply, convolution, image
from hypothesis import given, settings
from hypothesis import strategies as st

from bnfold.affine import Affine
from bnfold.operators.convolution import (
    Convolution,
    add,
    add_plain,
    chain,
    per_channel,
    same_padding,
)

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
