"""The algebra of per-channel affine maps, against numpy on whole tensors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnfold.affine import Affine, concatenate

RANK, SIZE = 3, 4
VALUES = st.floats(-4, 4, allow_nan=False, width=32)


def apply(affine: Affine, x: np.ndarray) -> np.ndarray:
    scale, shift = affine.broadcastable(x.ndim)
    return scale * x + shift


@st.composite
def affines(draw, axis=None) -> Affine:
    axis = draw(st.sampled_from([None, 0, 1, 2])) if axis is None else axis
    size = 1 if axis is None else SIZE
    vector = st.lists(VALUES, min_size=size, max_size=size)
    return Affine.of(draw(vector), draw(vector), axis)


def tensor() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(SIZE,) * RANK)


@given(affines(), affines())
def test_then_is_one_after_the_other(first, second):
    if not first.composes(second):
        with pytest.raises(ValueError, match="do not compose"):
            first.then(second)
        return
    x = tensor()
    np.testing.assert_allclose(apply(first.then(second), x), apply(second, apply(first, x)), atol=1e-9)


@given(affines())
def test_scale_part_then_shift_part_is_the_whole(affine):
    x = tensor()
    again = affine.scale_part().then(affine.shift_part())
    np.testing.assert_array_equal(apply(again, x), apply(affine, x))
    assert affine.scale_part().is_scale
    assert affine.shift_part().is_shift


@given(affines())
def test_the_inverse_undoes(affine):
    if not affine.scale.all():
        with pytest.raises(ValueError, match="zero scale"):
            affine.inverse()
        return
    if np.abs(affine.scale).min() > 1e-3:
        x = tensor()
        np.testing.assert_allclose(apply(affine.inverse(), apply(affine, x)), x, atol=1e-6)


def test_a_scalar_is_repeated_to_the_other_vectors_length():
    affine = Affine.of(2.0, [1.0, 2.0, 3.0], 1)
    assert affine.scale.tolist() == [2.0, 2.0, 2.0]
    assert affine.size == 3


@pytest.mark.parametrize(
    ("scale", "shift", "axis", "message"),
    [
        (np.ones(2), np.ones(3), 0, "one length"),
        (np.ones(2), np.ones(2), None, "uniform"),
        (np.ones(2), np.ones(2), -1, "from the left"),
        (np.ones((2, 2)), np.ones((2, 2)), 0, "one length"),
    ],
)
def test_malformed_maps_are_refused(scale, shift, axis, message):
    with pytest.raises(ValueError, match=message):
        Affine(scale, shift, axis)


def test_a_matrix_is_no_vector():
    with pytest.raises(ValueError, match="one dimension"):
        Affine.of(np.ones((2, 2)), 0.0, 1)


# -- over several axes -------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", [(0, 1), (1, 2), (0, 2), (2, 0), (2, 1), (0, 1, 2), (2, 0, 1)])
def test_over_keeps_the_axes_that_vary(axes):
    rng = np.random.default_rng(1)
    arrays = rng.normal(size=(2, *[SIZE] * len(axes)))
    affine = Affine.over(axes, *arrays)
    shape = [SIZE if axis in axes else 1 for axis in range(RANK)]
    order = np.argsort(axes)
    scale, shift = (array.transpose(order).reshape(shape) for array in arrays)
    x = tensor()
    np.testing.assert_array_equal(apply(affine, x), scale * x + shift)
    assert affine.axes == tuple((axis, SIZE) for axis in sorted(axes))


def test_over_drops_axes_along_which_nothing_varies():
    values = np.random.default_rng(2).normal(size=(SIZE, 1)) * np.ones((1, SIZE))
    affine = Affine.over((0, 2), values, 0.0 * values)
    assert affine.axis == 0
    assert not affine.grid
    assert affine.size == SIZE
    assert Affine.over((0, 2), np.full((SIZE, SIZE), 2.0), np.zeros((SIZE, SIZE))).axis is None
    assert Affine.over((0, 2), values[:, :1], values[:, :1]).axes == ((0, SIZE),)


def test_over_keeps_an_axis_along_which_the_shift_alone_varies():
    affine = Affine.over((1,), np.ones(3), np.array([0.0, 0.0, 1.0]))
    assert affine.axis == 1
    assert affine.is_shift


def test_over_wants_a_dimension_for_each_axis():
    with pytest.raises(ValueError, match="2-dimensional arrays for 1 axes"):
        Affine.over((1,), np.ones((2, 2)), np.ones((2, 2)))


@pytest.mark.parametrize("axes", [(), (1,), (0, 2)])
def test_arrays_is_the_inverse_of_over(axes):
    values = np.random.default_rng(3).normal(size=(2, *[SIZE] * len(axes)))
    affine = Affine.over(axes, *values)
    back = affine.arrays()
    assert back[0] == axes
    np.testing.assert_array_equal(back[1], values[0])
    np.testing.assert_array_equal(back[2], values[1])


def test_a_map_over_several_axes_composes_with_its_like_and_with_uniform_ones_alone():
    values = np.random.default_rng(4).normal(size=(SIZE, SIZE))
    grid = Affine.over((0, 1), values, values)
    assert grid.composes(grid)
    assert grid.composes(Affine.of(2.0, 1.0, None))
    assert not grid.composes(Affine.over((0, 2), values, values))
    assert not grid.composes(Affine.of(values[0], values[0], 0))


def test_a_uniform_map_composes_with_any():
    uniform, vector = Affine.of(2.0, 1.0, None), along(1)
    for first, second in ((uniform, vector), (vector, uniform), (uniform, uniform)):
        assert first.composes(second)
        np.testing.assert_array_equal(first.then(second).scale, first.scale * second.scale)


@pytest.mark.parametrize("other", [Affine.of(np.ones(SIZE - 1), 0.0, 1), Affine.of([2.0], 0.0, 1)], ids=repr)
def test_maps_with_other_numbers_of_channels_do_not_compose(other):
    affine = Affine.of(np.arange(SIZE), 0.0, 1)
    for first, second in ((affine, other), (other, affine)):
        assert not first.composes(second)
        with pytest.raises(ValueError, match="do not compose"):
            first.then(second)


def test_a_map_over_several_axes_cannot_be_put_on_one():
    values = np.random.default_rng(5).normal(size=(2, 3))
    with pytest.raises(ValueError, match="several axes"):
        Affine.over((0, 1), values, values).on_axis(1)


@pytest.mark.parametrize("axes", [(), (0,), (0, 1)])
def test_more_axes_in_front_move_all_of_them(axes):
    values = np.random.default_rng(6).normal(size=(SIZE,) * len(axes))
    moved = Affine.over(axes, values, values).shifted_axes(2)
    assert moved.axes == tuple((axis + 2, SIZE) for axis in axes)
    assert moved.shifted_axes(-2).same_as(Affine.over(axes, values, values))


# -- selecting and repeating -------------------------------------------------------------------------


def along(axis: int | None = 0) -> Affine:
    rng = np.random.default_rng(7)
    return Affine.of(rng.normal(size=SIZE), rng.normal(size=SIZE), axis)


def test_take_repeat_and_tile_are_numpys():
    affine = along()
    np.testing.assert_array_equal(affine.take(np.array([2, 0, -1])).scale, affine.scale[[2, 0, 3]])
    np.testing.assert_array_equal(affine.take(slice(1, 3)).shift, affine.shift[1:3])
    np.testing.assert_array_equal(affine.repeat(3).scale, np.repeat(affine.scale, 3))
    np.testing.assert_array_equal(affine.tile(3).shift, np.tile(affine.shift, 3))


def test_a_uniform_map_is_the_same_wherever_it_is():
    uniform = Affine.of(2.0, 1.0, None)
    for same in (uniform.take(np.array([5])), uniform.repeat(3), uniform.tile(3), uniform.on_axis(2)):
        assert same.same_as(uniform)
    assert uniform.axes == ()


def test_expand_repeats_one_channel_and_keeps_the_right_number():
    one = Affine.of([2.0], [1.0], 1)
    assert one.expand(3).scale.tolist() == [2.0, 2.0, 2.0]
    assert along(1).expand(SIZE).same_as(along(1))
    with pytest.raises(ValueError, match="do not expand"):
        along(1).expand(SIZE + 1)


def test_concatenation_is_numpys():
    parts = [Affine.of([1.0, 2.0], [3.0, 4.0], 1), Affine.of(5.0, 6.0, None), Affine.of([7.0], [8.0], 1)]
    whole = concatenate(dict(enumerate(parts)), [2, 2, 1], 1)
    assert whole.scale.tolist() == [1.0, 2.0, 5.0, 5.0, 7.0]
    assert whole.shift.tolist() == [3.0, 4.0, 6.0, 6.0, 8.0]
    assert concatenate({2: parts[2]}, [2, 2, 1], 1).scale.tolist() == [1.0, 1.0, 1.0, 1.0, 7.0]
    with pytest.raises(ValueError, match="another axis"):
        concatenate({0: Affine.of([1.0, 2.0], [3.0, 4.0], 0)}, [2], 1)
    with pytest.raises(ValueError, match="2 channels for a part of 3"):
        concatenate({0: Affine.of([1.0, 2.0], [3.0, 4.0], 1)}, [3], 1)


# -- questions ---------------------------------------------------------------------------------------


def test_what_a_map_says_of_itself():
    assert Affine.identity().is_identity
    assert Affine.of([1.0, 1.0], 0.0, 1).is_identity
    assert not Affine.of(1.0, [0.0, 1.0], 1).is_identity
    assert not Affine.of([1.0, 2.0], 0.0, 1).is_identity
    assert Affine.of([2.0], 1.0, 1).is_uniform
    assert Affine.of([2.0, 2.0], 1.0, 1).is_uniform
    assert not Affine.of([2.0, 1.0], 1.0, 1).is_uniform
    assert not Affine.of([2.0, 2.0], [1.0, 0.0], 1).is_uniform
    assert Affine.of([2.0, 2.0], 1.0, 1).as_uniform().axis is None
    assert not Affine.of([np.inf], 0.0, None).is_finite
    assert not Affine.of([1.0], [np.nan], None).is_finite
    with pytest.raises(ValueError, match="differs between channels"):
        along().as_uniform()


def test_sameness_is_exact_but_for_rounding():
    """Three maps composed in either order are the same map, and one of float32 is not that of float64."""
    affine = along()
    assert affine.same_as(along())
    assert not affine.same_as(along(1))
    one, two, three = (Affine.of(affine.scale * f, affine.shift, 0) for f in (0.3, 1.7, 0.9))
    left, right = one.then(two).then(three), one.then(two.then(three))
    assert not np.array_equal(left.scale, right.scale)
    assert left.same_as(right)
    assert not affine.same_as(Affine.of(affine.scale * (1 + 1e-12), affine.shift, 0))
    assert not affine.same_as(Affine.of(affine.scale, affine.shift * (1 + 1e-12), 0))
    assert not affine.same_as(Affine.of(affine.scale, affine.shift.astype(np.float32), 0))
    assert not Affine.of(0.0, 0.0, None).same_as(Affine.of(0.0, 1e-300, None))


def test_a_broadcastable_map_has_ones_on_other_axes():
    scale, shift = along(1).broadcastable(3)
    assert scale.shape == shift.shape == (1, SIZE, 1)
    assert Affine.identity().broadcastable(0)[0].shape == ()


def test_a_map_prints_its_beginning():
    assert repr(Affine.of(2.0, 1.0, None)).startswith("Affine(1 channels, axis=None")


def test_a_scale_that_is_one_but_for_rounding_is_a_shift():
    scale = 1.0 / np.array([3.0, 49.0]) * np.array([3.0, 49.0])
    assert (scale != 1.0).any()
    assert Affine.of(scale, 3.0, 0).is_shift
    assert not Affine.of([1.0, 1.0 + 1e-12], 3.0, 0).is_shift
    assert not Affine.of([1.5, 1.0], 3.0, 0).is_shift
