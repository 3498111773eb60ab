"""What rearranges axes: an affine passes, its vectors renamed, repeated or permuted."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import Net, assert_gone, assert_stays, fold, ints
from one_operator import lifted, node_of, sunk
from operator_nets import ALONG, UNIFORM, C, conv

from bnfold.affine import Affine
from bnfold.graph import Tensor
from bnfold.operators.axes import regroup

# -- Transpose ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("perm", [[0, 2, 3, 1], [1, 0, 2, 3], [3, 1, 2, 0], None])
def test_a_transpose_renames_the_axis_backward(perm):
    net = Net()
    y = net.op("Transpose", conv(net), **({} if perm is None else {"perm": perm}))
    axis = (perm or [3, 2, 1, 0]).index(1)
    constant = net.draw(*[C if place == axis else 1 for place in range(4)])
    assert fold(net.build(net.op("Tanh", net.op("Add", net.op("Mul", y, constant), constant)))).count() == 3


def test_a_transpose_renames_the_axis_forward():
    net = Net()
    x = net.op("Tanh", net.input("N", 4, 5, C))
    x = net.op("Add", net.op("Mul", x, net.draw(C)), net.draw(C))
    y = net.op("Conv", net.op("Transpose", x, perm=[0, 3, 1, 2]), net.draw(2, C, 1, 1))
    assert fold(net.build(y)).count() == 3


def test_a_transpose_without_perm_of_unknown_rank_refuses():
    net = Net()
    x = net.unknown_rank(net.input("N", C), (-1, C))
    y = net.op("Transpose", net.bn(net.op("Tanh", x), C), name="turn")
    folded = fold(net.build(net.op("Reshape", net.op("MatMul", net.draw(2, C), y), ints(-1))), feeds=net.feeds)
    assert_stays(folded, "unknown-rank", "turn (Transpose)")


@pytest.mark.parametrize(("perm", "found"), [([1, 0], 0), ([0], "rank")])
def test_a_transpose_of_fewer_axes_than_the_affine_needs_refuses(perm, found):
    node = node_of("Transpose", None, perm=perm)
    for crossed in (lifted(node, ALONG), sunk(node, ALONG)):
        assert (crossed if isinstance(crossed, str) else crossed[0].axis) == found


@pytest.mark.parametrize("kind", ["Reshape", "Squeeze"])
def test_an_affine_on_what_is_not_the_data_stays(kind):
    assert sunk(node_of(kind, (2, C), (1,)), UNIFORM, 1) == "parameter"


@pytest.mark.parametrize("kind", ["Transpose", "Reshape", "Squeeze", "Unsqueeze", "DepthToSpace"])
def test_a_uniform_affine_passes_whatever_is_not_known(kind):
    node = node_of(kind, None, (1,))
    assert lifted(node, UNIFORM) == {0: UNIFORM}
    assert sunk(node, UNIFORM) == {0: UNIFORM}


# -- Reshape and Flatten -----------------------------------------------------------------------------


def test_levit_matmul_reshape_batchnorm_reshape_back():
    net = Net()
    y = net.op("MatMul", net.input("B", 5, 3), net.draw(3, C))
    flat = net.bn(net.op("Reshape", y, ints(-1, C)), C)
    folded = fold(net.build(net.op("HardSwish", net.op("Reshape", flat, ints(-1, 5, C)))))
    assert folded.count("BatchNormalization", "Mul") == 0
    assert folded.count("Add") == 1


def test_levit_with_the_shape_of_the_tensor_itself():
    net = Net()
    y = net.op("MatMul", net.input("B", "T", 3), net.draw(3, C))
    flat = net.bn(net.op("Flatten", y, axis=2), C)
    back = net.op("Reshape", flat, net.op("Shape", y))
    assert fold(net.build(net.op("HardSwish", back))).count("BatchNormalization", "Mul") == 0


@pytest.mark.parametrize("how", ["flatten", "reshape", "zero", "two steps"])
def test_batchnorm_flatten_dense_repeats_the_vectors(how):
    net = Net()
    x = net.bn(net.op("Tanh", net.input("N", C, 2, 3)), C)
    if how == "flatten":
        x = net.op("Flatten", x)
    elif how == "reshape":
        x = net.op("Reshape", x, ints(-1, C * 6))
    elif how == "zero":
        x = net.op("Reshape", x, ints(0, -1))
    else:
        x = net.op("Reshape", net.op("Reshape", x, ints(0, C * 2, 3)), ints(0, C * 6))
    assert fold(net.build(net.op("Gemm", x, net.draw(C * 6, 2)))).count("BatchNormalization") == 0


def test_an_affine_behind_flatten_goes_back_where_it_is_the_same_for_a_whole_channel():
    net = Net()
    y = net.op("Flatten", conv(net, size=2))
    for values, left in ((np.repeat(net.draw(C), 4), 0), (net.draw(C * 4), 1)):
        fresh = Net()
        y = fresh.op("Flatten", conv(fresh, size=2))
        folded = fold(fresh.build(fresh.op("Tanh", fresh.op("Mul", y, values))))
        assert folded.count("Mul") == left


def test_a_channels_last_flatten_tiles_the_vectors():
    net = Net()
    x = net.op("Tanh", net.input("N", 2, 3, C))
    x = net.op("Flatten", net.op("Add", net.op("Mul", x, net.draw(C)), net.draw(C)))
    assert fold(net.build(net.op("Gemm", x, net.draw(C * 6, 2)))).count() == 3


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_flatten_at_any_axis(axis):
    net = Net()
    x = net.op("Flatten", net.bn(net.op("Tanh", net.input(2, C, 3)), C), axis=axis)
    width = {0: 2 * C * 3, 1: C * 3, 2: 3, -1: 3}[axis]
    folded = fold(net.build(net.op("Gemm", x, net.draw(width, 2))))
    # At axis 2 the channels are rows of the matrix.
    assert folded.count("BatchNormalization") == (0 if axis in (0, 1) else 1)


def test_a_split_channel_axis_is_followed_until_it_is_whole_again():
    """A channel shuffle permutes the vectors."""
    net = Net()
    x = net.bn(net.op("Tanh", net.input("N", C, 4, 4)), C)
    x = net.op("Transpose", net.op("Reshape", x, ints(0, 2, 3, 4, 4)), perm=[0, 2, 1, 3, 4])
    x = net.op("Reshape", x, ints(0, C, 4, 4))
    assert fold(net.build(net.op("Conv", x, net.draw(2, C, 1, 1)))).count("BatchNormalization") == 0


def test_a_channel_shuffle_lifts_an_affine():
    net = Net()
    y = net.op("Reshape", conv(net), ints(0, 3, 2, 4, 4))
    y = net.op("Reshape", net.op("Transpose", y, perm=[0, 2, 1, 3, 4]), ints(0, C, 4, 4))
    assert fold(net.build(net.op("Tanh", net.bn(y, C)))).count("BatchNormalization") == 0


def test_an_affine_over_two_axes_passes_a_relu_as_a_scale():
    net = Net()
    y = net.op("Relu", net.op("Reshape", conv(net), ints(0, 3, 2, 16)))
    y = net.op("Reshape", net.op("Transpose", y, perm=[0, 2, 1, 3]), ints(0, C, 16))
    assert fold(net.build(net.op("Tanh", net.op("Mul", y, net.positive(C, 1))))).count("Mul") == 0


def test_an_affine_over_two_axes_stays_where_an_operator_knows_one_axis_only():
    net = Net()
    y = net.op("Reshape", conv(net), ints(0, 3, 2, 16))
    y = net.op("ReduceMean", y, axes=[3], keepdims=1, name="mean")
    folded = fold(net.build(net.op("Tanh", net.op("Mul", y, net.draw(3, 2, 1)))))
    assert_stays(folded, "several-axes", "mean (ReduceMean)")


def test_an_affine_over_two_axes_is_not_taken_for_one_over_the_first():
    net = Net()
    first = net.op("Reshape", conv(net), ints(0, 2, 3, 16))
    second = net.op("Reshape", conv(net), ints(0, 2, 3, 16))
    scaled = [
        net.op("Mul", net.op("Tanh", part), np.full((2, 3, 1), 1.0, np.float32) * net.draw(2, 3, 1))
        for part in (first, second)
    ]
    y = net.op("Reshape", net.op("Add", *scaled), ints(0, C, 4, 4))
    assert fold(net.build(net.op("Conv", y, net.draw(2, C, 1, 1)))).count("Mul") == 1


def test_a_shift_over_two_axes_sinks_through_a_sum():
    net = Net()
    first = net.op("Reshape", conv(net), ints(0, 2, 3, 16))
    x = net.op("Add", net.op("Tanh", first), net.draw(2, 3, 1))
    y = net.op("Reshape", net.op("Add", x, net.op("Exp", first)), ints(0, C, 4, 4))
    assert fold(net.build(net.op("Conv", y, net.draw(2, C, 1, 1)))).count("Add") == 1


@pytest.mark.parametrize(
    ("source", "target", "code"),
    [
        (("N", 4, 3), (0, 3, 4), "reshape"),
        ((2, 4, 3), (2, 3, 4), "reshape"),
        ((2, 4, 3), (2, 2, 6), "several-axes"),
        ((2, 4, 3), (3, 8), "reshape"),
    ],
)
def test_a_reshape_that_mixes_the_channels_refuses(source, target, code):
    net = Net()
    x = net.bn(net.op("Tanh", net.input(*source)), 4)
    y = net.op("MatMul", net.op("Reshape", x, ints(*target), name="mix"), net.draw(target[-1], 2))
    assert_stays(fold(net.build(y)), code)


def test_a_reshape_between_unknown_shapes_refuses():
    net = Net()
    x = net.bn(net.op("Tanh", net.input("N", C, "H")), C)
    y = net.op("Reshape", x, net.input(2, name="target", dtype=np.int64), name="free")
    folded = fold(net.build(net.op("MatMul", y, net.draw(C, 2))), feeds={"target": ints(-1, C)})
    assert not folded.plan.steps
    assert "free (Reshape)" in folded.sentences


def test_a_uniform_affine_passes_any_reshape():
    net = Net()
    x = net.op("Mul", net.op("Tanh", net.input("N", C, "H")), np.float32(3))
    y = net.op("Reshape", x, net.input(2, name="target", dtype=np.int64))
    folded = fold(net.build(net.op("MatMul", y, net.draw(C, 2))), feeds={"target": ints(-1, C)})
    assert folded.count("Mul") == 0


def test_a_batch_size_folded_into_rows_is_followed():
    net = Net()
    y = net.op("Reshape", net.op("MatMul", net.input(2, 5, 3), net.draw(3, C)), ints(10, C))
    assert fold(net.build(net.op("Tanh", net.bn(y, C)))).count("BatchNormalization", "Mul") == 0


SYMBOLS = {"N": 3, "T": 5, "thrice": 3, "channels": 6, None: 7}
REGROUPED = {
    "nothing changes": (("N", 6, "T"), ("N", 6, "T"), [1]),
    "unknown, but at its place": ((None, 6, 4), (None, 6, 4), [1]),
    "split": (("N", 6, 4), ("N", 2, 3, 4), [1]),
    "split behind a symbol": (("T", 6), ("T", 3, 2), [1]),
    "merged": (("N", 6, 4), ("N", 24), [1]),
    "merged, inner": (("N", 4, 6), ("N", 24), [2]),
    "merged beside ones": (("N", 1, 6, 1, 4, 1), ("N", 24), [2]),
    "split into ones too": (("N", 6), ("N", 1, 2, 1, 3, 1), [1]),
    "several axes to one": (("N", 2, 3, 4), ("N", 6, 4), [1, 2]),
    "several axes, merged in part": (("N", 2, 3, 4), ("N", 2, 12), [1, 2]),
    "split and merged": (("N", 6, 4), ("N", 2, 12), [1]),
    "an outer axis": ((2, 6, 4), (12, 4), [0]),
    "the outer axes": ((2, 6, 4), (12, 2, 2), [0, 1]),
    "an axis in front of symbols": ((6, "N", 4), (6, "N", 2, 2), [0]),
    "between symbols": (("N", 6, "T", 4), ("N", 6, "T", 2, 2), [1]),
    "behind what is unknown": ((None, 6, 4), (None, 3, 4, 6, 4), [1]),
    "more symbols in front": (("N", "T", 6), (None, 6), [2]),
    "both sides of a symbol": ((6, "N", 4), (6, "N", 4), [0, 2]),
    "one axis alone": ((6,), (2, 3), [0]),
    "beside an axis that is known in part": (("T", 2, 6), (10, 6), [2]),
    "the outer part of a target axis": ((2, 6), (4, 3), [0]),
    "the only unknown size of the target": ((2, 3, 4), ("channels", 4), [1]),
    "split in part": (("N", 6, 4), ("N", "thrice", 8), [1]),
    "the only size that is unknown": (("N", 6, 8, 8), ("N", "channels", 2, 4, 2, 4), [1]),
    "the only unknown size of the source": ((6, 4, "thrice", 2), (6, 12, 2), [0, 3]),
}


def regrouped(source: tuple, target: tuple, axes: list[int]) -> tuple[Affine, Affine | None]:
    rng = np.random.default_rng(0)
    sizes = [source[axis] for axis in axes]
    affine = Affine.over(axes, rng.normal(size=sizes), rng.normal(size=sizes))
    return affine, regroup(affine, source, target)


@pytest.mark.parametrize("case", REGROUPED)
def test_a_reshape_moves_every_scale_and_shift_with_its_element(case):
    source, target, axes = REGROUPED[case]
    affine, moved = regrouped(source, target, axes)
    assert moved is not None
    before = [SYMBOLS.get(size, size) for size in source]
    after = [SYMBOLS.get(size, size) for size in target]
    if case == "more symbols in front":
        after[0] = before[0] * before[1]
    if case == "behind what is unknown":
        before[0] = 12 * after[0]
    for old, new in zip(affine.broadcastable(len(source)), moved.broadcastable(len(target)), strict=True):
        np.testing.assert_array_equal(np.broadcast_to(old, before).reshape(after), np.broadcast_to(new, after))


NOT_REGROUPED = {
    "unknown sizes on both sides": ((None, 6, None), (None, 6, None), [1]),
    "a symbol behind": (("N", 6, "T"), ("T", 6, "N"), [1]),
    "no common factor": (("N", 4, 3), ("N", 3, 4), [1]),
    "no common factor of the last": (("N", 4, 3), ("N", 3, 4), [2]),
    "into two unknown sizes": (("N", 6, 4), ("N", "T", 8, None), [1]),
    "into an unknown size that is none": (("N", 6, 4), ("N", "T", 16), [1]),
    "beside an unknown size on both sides": (("N", 6, 4, "T"), ("N", None, 8, 5), [1]),
    "merged with what is unknown": (("N", 6), (None,), [1]),
    "a part of a target axis": ((6, 6), (4, 9), [1]),
    "a source axis beyond what is known": (("N", 6, 4), ("T", 4), [1]),
    "beside nothing": ((3, 6, 0), (6, 3, 0), [1]),
}


@pytest.mark.parametrize("case", NOT_REGROUPED)
def test_a_reshape_that_cannot_be_followed(case):
    assert regrouped(*NOT_REGROUPED[case])[1] is None


def test_equal_values_beside_an_axis_that_goes_are_dropped():
    affine = Affine.over([1], np.tile([1.0, 2.0], 3), np.zeros(6))
    moved = regroup(affine, ("N", 6), ("N", 3, 2))
    assert moved.axis == 2
    assert moved.scale.tolist() == [1.0, 2.0]


def reshape(source: tuple | None, wanted: np.ndarray | tuple, target: tuple | None, **attrs):
    node = node_of("Reshape", source, wanted, **attrs)
    node.graph.declare(Tensor("out_0", np.dtype(np.float32), target))
    return node


@pytest.mark.parametrize(
    ("source", "wanted", "target", "found"),
    [
        (("N", C, 4), ints(0, 2, 3, 4), None, ((1, 2), (2, 3))),
        (("N", C, 4), ints(0, 0, -1), None, ((1, C),)),
        (("N", C, "T"), ints(0, 0, -1), ("N", C, "T"), ((1, C),)),
        (("N", C, "T"), ints(0, 0, -1), None, ((1, C),)),
        (("N", C, "T"), ints(-1, C, 0), ("N", C), "reshape"),
        (("N", C, 4), (3,), ("N", 2, 3, 4), ((1, 2), (2, 3))),
        (("N", C, 4), (3,), None, "unknown-shape"),
        ((None, "C", 4), ints(0, 0, 2, 2), None, "reshape"),
        (("N", "C", 4), ints(0, 0, 4), None, ((1, C),)),
        (("N", "C", 4), ints(-1, 2, 3, 4), None, ((1, 2), (2, 3))),
        (("N", "C", 4), ints(0, 2, 3, 4), None, ((1, 2), (2, 3))),
        (None, ints(0, 2, 3, 4), ("N", 2, 3, 4), "unknown-shape"),
    ],
)
def test_what_a_reshape_says_itself_completes_its_shape(source, wanted, target, found):
    crossed = sunk(reshape(source, wanted, target), ALONG)
    assert (crossed if isinstance(crossed, str) else crossed[0].axes) == found


@pytest.mark.parametrize(("source", "found"), [(("N", 2, 3, 4), ((1, 2), (2, 3))), (None, "unknown-shape")])
def test_a_reshape_lifts_into_the_shape_of_its_input(source, found):
    crossed = lifted(reshape(source, ints(0, C, 4), None), ALONG)
    assert (crossed if isinstance(crossed, str) else crossed[0].axes) == found


@pytest.mark.parametrize(("allowzero", "found"), [(0, ((1, C),)), (1, "reshape")])
def test_a_zero_in_a_shape_may_be_a_size(allowzero, found):
    crossed = sunk(reshape((0, C), ints(C, 0), None, allowzero=allowzero), ALONG)
    assert (crossed if isinstance(crossed, str) else crossed[0].axes) == found


def test_a_size_of_zero_in_front_of_the_channels_stays_in_front():
    assert sunk(reshape((0, C, "T"), ints(0, C, 3), None, allowzero=1), ALONG)[0].same_as(ALONG)


def test_a_zero_that_copies_no_axis_is_an_unknown_size():
    assert sunk(reshape((2, C), ints(2, C, 0), None), ALONG)[0].same_as(ALONG)


# -- Squeeze and Unsqueeze ---------------------------------------------------------------------------


@pytest.mark.parametrize("opset", [11, 17])
def test_squeeze_and_unsqueeze_rename_the_axis_backward(opset):
    def axes(kind: str, x: str, *values: int) -> str:
        return net.op(kind, x, axes=list(values)) if opset < 13 else net.op(kind, x, ints(*values))

    net = Net(opset=opset)
    y = axes("Squeeze", net.op("Conv", net.input("N", 3, 1, 5), net.draw(C, 3, 1, 1)), 2)
    y = net.op("Mul", y, net.draw(C, 1))
    y = axes("Unsqueeze", y, 1, -1)
    y = net.op("Add", y, net.draw(C, 1, 1))
    assert fold(net.build(net.op("Tanh", y))).count("Mul", "Add") == 0


def test_squeeze_and_unsqueeze_rename_the_axis_forward():
    net = Net()
    x = net.op("Unsqueeze", net.bn(net.op("Tanh", net.input("N", C)), C), ints(0, 3))
    y = net.op("Squeeze", x, ints(0))
    assert fold(net.build(net.op("Conv", y, net.draw(2, C, 1)))).count("BatchNormalization") == 0


def test_squeeze_of_all_axes_of_size_one():
    net = Net()
    y = net.op("Squeeze", net.op("Conv", net.input(2, 3, 1, 5), net.draw(C, 3, 1, 1)))
    assert fold(net.build(net.op("Tanh", net.bn(y, C)))).count("BatchNormalization") == 0


def test_squeeze_of_unknown_axes_refuses():
    net = Net()
    y = net.op("Squeeze", net.op("Conv", net.input("N", 3, 1, 5), net.draw(C, 3, 1, 1)), name="thin")
    folded = fold(net.build(net.op("Reshape", net.op("Tanh", net.bn(y, C)), ints(-1))))
    assert_stays(folded, "dynamic-axes", "thin (Squeeze)")


def test_an_affine_along_a_squeezed_axis_is_uniform():
    net = Net()
    y = net.op("Conv", net.input("N", 3, 5), net.draw(1, 3, 1))
    y = net.op("Squeeze", net.bn(y, 1), ints(1))
    assert fold(net.build(y)).count("BatchNormalization") == 0


THIN = Affine.of([1.0, 2.0, 3.0], 0.5, 1)


@pytest.mark.parametrize(
    ("kind", "source", "axes", "below", "above"),
    [
        ("Squeeze", (1, 3, 1), ints(0), 1, 0),
        ("Squeeze", (1, 3, 1), ints(-1), 1, 1),
        ("Squeeze", (1, 3, 1), None, 1, 0),
        ("Squeeze", ("N", 3, 1), None, 1, "dynamic-axes"),
        ("Squeeze", None, None, 1, "dynamic-axes"),
        ("Squeeze", (1, 3, 1), (1,), 1, "dynamic-axes"),
        ("Squeeze", None, ints(0), 1, "dynamic-axes"),
        ("Squeeze", (1, 3, 1), ints(1), 1, "squeezed-axis"),
        ("Unsqueeze", (2, 3), ints(0), 1, 2),
        ("Unsqueeze", (2, 3), ints(1, -1), 1, 2),
        ("Unsqueeze", (2, 3), ints(-1), 1, 1),
        ("Unsqueeze", (2, 3), (1,), 1, "dynamic-axes"),
        ("Unsqueeze", None, ints(0), 1, "dynamic-axes"),
    ],
)
def test_axes_of_size_one_rename_the_others(kind, source, axes, below, above):
    node = node_of(kind, source, *([] if axes is None else [axes]))
    crossed = sunk(node, THIN.on_axis(below))
    assert (crossed if isinstance(crossed, str) else crossed[0].axis) == above
    if isinstance(above, int):
        assert lifted(node, THIN.on_axis(above))[0].same_as(THIN.on_axis(below))


@pytest.mark.parametrize("opset", [11, 17])
def test_an_unsqueeze_names_its_axes_in_the_attribute_or_the_input(opset):
    node = node_of("Unsqueeze", (2, 3), axes=[0]) if opset < 13 else node_of("Unsqueeze", (2, 3), ints(0))
    assert sunk(node, THIN)[0].axis == 2


# -- DepthToSpace and SpaceToDepth -------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space_repeats_the_vectors_backward(mode):
    net = Net()
    y = net.op("DepthToSpace", conv(net, 8), blocksize=2, mode=mode)
    assert fold(net.build(net.op("Tanh", net.bn(y, 2)))).count() == 3


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
@pytest.mark.parametrize("even", [True, False])
def test_depth_to_space_passes_forward_what_a_block_carries_alike(mode, even):
    net = Net()
    scale, shift = net.positive(2), net.draw(2)
    arrange = np.tile if mode == "DCR" else np.repeat
    vectors = [arrange(scale, 4), arrange(shift, 4)] if even else [net.positive(8), net.draw(8)]
    x = net.exact_bn(net.op("Tanh", net.input("N", 8, 3, 3)), *vectors)
    y = net.op("DepthToSpace", x, blocksize=2, mode=mode, name="spread")
    folded = fold(net.build(net.op("Conv", y, net.draw(3, 2, 1, 1))))
    if even:
        assert_gone(folded)
    else:
        assert_stays(folded, "not-per-channel", "spread (DepthToSpace)")


def test_space_to_depth_repeats_the_vectors_forward():
    net = Net()
    x = net.bn(net.op("Tanh", net.input("N", 2, 4, 4)), 2)
    y = net.op("SpaceToDepth", x, blocksize=2)
    assert fold(net.build(net.op("Conv", y, net.draw(3, 8, 1, 1)))).count("BatchNormalization") == 0


@pytest.mark.parametrize("even", [True, False])
def test_space_to_depth_passes_backward_what_a_block_carries_alike(even):
    net = Net()
    y = net.op("SpaceToDepth", conv(net, 2), blocksize=2, name="gather")
    vectors = [np.tile(net.positive(2), 4), np.tile(net.draw(2), 4)] if even else [net.positive(8), net.draw(8)]
    folded = fold(net.build(net.op("Tanh", net.exact_bn(y, *vectors))))
    if even:
        assert_gone(folded)
    else:
        assert_stays(folded, "not-per-channel", "gather (SpaceToDepth)")


@pytest.mark.parametrize("kind", ["DepthToSpace", "SpaceToDepth"])
def test_block_moves_refuse_an_affine_along_space(kind):
    net = Net()
    y = net.op(kind, conv(net, 8), blocksize=2, name="move")
    width = 8 if kind == "DepthToSpace" else 2
    folded = fold(net.build(net.op("Tanh", net.op("Mul", y, net.draw(width)))))
    assert_stays(folded, "spatial-axis", "move")


def test_block_moves_pass_an_affine_along_the_batch():
    net = Net()
    x = net.op("Transpose", net.op("Conv", net.input(8, 3, 4, 4), net.draw(2, 3, 1, 1)), perm=[1, 0, 2, 3])
    y = net.op("DepthToSpace", x, blocksize=2)
    assert fold(net.build(net.op("Tanh", net.op("Mul", y, net.draw(2, 1, 1, 1))))).count("Mul") == 0


@pytest.mark.parametrize("kind", ["DepthToSpace", "SpaceToDepth"])
def test_block_moves_of_two_axes_or_of_uneven_channels_refuse(kind):
    node = node_of(kind, (1, 6, 4, 4), blocksize=2)
    grid = Affine.over([1, 2], np.arange(24.0).reshape(6, 4), np.zeros((6, 4)))
    gathers = sunk if kind == "DepthToSpace" else lifted
    assert {lifted(node, grid), sunk(node, grid)} == {"spatial-axis"}
    assert gathers(node, ALONG) == "size-mismatch"


def test_a_block_whose_channels_all_carry_one_map_leaves_a_uniform_one():
    assert sunk(node_of("DepthToSpace", (1, 8, 4, 4), blocksize=2), Affine.of(np.full(8, 2.0), 1.0, 1))[0].axis is None


@pytest.mark.parametrize(("length", "passes"), [(1 << 20, True), (1 << 21, False)])
def test_no_vector_gets_longer_than_memory_allows(length, passes):
    """A file may claim a tensor of any size."""
    affine = Affine.of(np.arange(1.0, 17.0), 0.0, 1)
    reshape = node_of("Reshape", (1, 16, length), np.array([1, 16 * length]))
    reshape.graph.declare(Tensor("out_0", np.dtype(np.float32), (1, 16 * length)))
    assert (sunk(reshape, affine) != "reshape") == passes


def test_no_block_is_larger_than_memory_allows():
    affine = Affine.of(np.arange(1.0, 17.0), 0.0, 1)
    assert lifted(node_of("DepthToSpace", (1, 16, 1, 1), blocksize=1 << 11), affine) == "too-many"
    assert lifted(node_of("DepthToSpace", (1, 64, 1, 1), blocksize=2), affine) != "too-many"
