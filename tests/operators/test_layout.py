"""What rearranges axes: an affine passes, its vectors renamed, repeated or permuted."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import Net, assert_gone, assert_stays, fold

C = 6


def conv(net: Net, channels: int = C, size: int = 4) -> str:
    return net.op("Conv", net.input("N", 3, size, size), net.draw(channels, 3, 1, 1))


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


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
    assert fold(net.build(net.op("Conv", y, net.draw(2, C, 1, 1)))).count("Mul") == 2


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
