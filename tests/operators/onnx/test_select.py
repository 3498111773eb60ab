"""What cuts tensors up or repeats them: an affine's vectors go with the entries."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import Net, assert_gone, assert_stays, fold, fold_unrun, ints
from one_operator import lifted, node_of, sunk
from operator_nets import ALONG, UNIFORM, C, ahead, conv

from bnfold.affine import Affine
from bnfold.graph import Tensor

#: Slice's ends that mean "as far as it goes", forward and backward.
FAR, BACK = np.iinfo(np.int64).max, np.iinfo(np.int64).min


# -- Split -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("opset", "sizes"), [(11, [2, 4]), (13, [2, 4]), (17, [2, 4]), (17, None), (18, None)])
def test_the_parts_of_a_split_carry_their_slices_forward(opset, sizes):
    net = Net(opset=opset)
    x = ahead(net)
    if opset < 13:
        parts = net.op("Split", x, axis=1, split=sizes, outputs=2)
    elif sizes:
        parts = net.op("Split", x, ints(*sizes), axis=1, outputs=2)
    else:
        parts = net.op("Split", x, axis=1, outputs=2, **({"num_outputs": 2} if opset >= 18 else {}))
    widths = sizes or [3, 3]
    y = [net.op("Conv", part, net.draw(2, width, 1, 1)) for part, width in zip(parts, widths, strict=True)]
    assert fold(net.build(*y)).count("BatchNormalization") == 0


@pytest.mark.parametrize("sizes", [[2, 4], [1, 2, 3]])
def test_a_split_lifts_what_all_its_outputs_carry(sizes):
    net = Net()
    parts = net.op("Split", conv(net), ints(*sizes), axis=1, outputs=len(sizes))
    y = [net.op("Tanh", net.bn(part, size)) for part, size in zip(parts, sizes, strict=True)]
    assert fold(net.build(*y)).count("BatchNormalization") == 0


def test_a_split_lifts_beside_an_output_that_nobody_reads():
    net = Net()
    first, _ = net.op("Split", conv(net), ints(2, 4), axis=1, outputs=2)
    assert fold(net.build(net.op("Tanh", net.bn(first, 2)))).count("BatchNormalization") == 0


def test_a_split_along_another_axis_lifts_one_map_for_all():
    net = Net()
    first, second = net.op("Split", conv(net), axis=2, outputs=2)
    scale, shift = net.draw(C, 1, 1), net.draw(C, 1, 1)
    y = [net.op("Tanh", net.op("Add", net.op("Mul", part, scale), shift)) for part in (first, second)]
    folded = fold(net.build(*y))
    assert folded.count("Split") == 1


def test_an_output_of_a_split_that_is_seen_elsewhere_keeps_its_part():
    net = Net()
    first, second = net.op("Split", conv(net), ints(2, 4), axis=1, outputs=2)
    folded = fold(net.build(net.op("Tanh", net.bn(first, 2)), net.op("Sigmoid", second)))
    assert folded.count("BatchNormalization") == 0


@pytest.mark.parametrize(
    ("split", "axis", "affine", "found"),
    [
        (None, -1, ALONG, "unknown-rank"),
        (None, 1, ALONG, "unknown-shape"),
        (ints(2, 4), 1, ALONG, {0: 2, 1: 4}),
        (ints(2, 3), 1, ALONG, "unknown-shape"),
        (ints(1, 2, 3), 1, ALONG, "unknown-shape"),
        (ints(2, 4), 0, ALONG, {0: C, 1: C}),
        (None, 2, UNIFORM, {0: 1, 1: 1}),
    ],
)
def test_a_split_of_unknown_rank_sinks_what_it_knows(split, axis, affine, found):
    node = node_of("Split", None, *([] if split is None else [split]), outputs=2, axis=axis)
    parts = sunk(node, affine)
    assert (parts if isinstance(parts, str) else {index: part.size for index, part in parts.items()}) == found


def test_a_split_of_unknown_rank_lifts_nothing_along_an_axis_that_counts_from_the_right():
    assert lifted(node_of("Split", None, outputs=2, axis=-1), ALONG) == "unknown-rank"


def test_a_split_that_does_not_say_lifts_along_the_batch():
    node = node_of("Split", (3, 2), ints(1, 2), outputs=2)
    node.graph.outputs = node.op.outputs
    assert lifted(node, Affine.of([2.0, 3.0], 0.0, 0), 1)[0].scale.tolist() == [1.0, 2.0, 3.0]


def test_an_affine_on_the_sizes_of_a_split_stays():
    assert sunk(node_of("Split", (2, C), (2,), outputs=2), UNIFORM, 1) == "unknown-rank"


def test_a_split_counts_from_the_right_and_along_the_batch_if_it_does_not_say():
    net = Net()
    parts = net.op("Split", ahead(net), ints(2, 4), axis=-3, outputs=2)
    y = [net.op("Conv", part, net.draw(2, width, 1, 1)) for part, width in zip(parts, (2, 4), strict=True)]
    assert fold(net.build(*y)).count("BatchNormalization") == 0
    net = Net()
    parts = net.op("Split", net.op("Mul", net.op("Tanh", net.input(3, 4)), net.draw(3, 1)), ints(1, 2), outputs=2)
    y = [net.op("MatMul", net.draw(2, height), part) for part, height in zip(parts, (1, 2), strict=True)]
    assert_gone(fold(net.build(*y)))


def test_a_part_of_a_split_may_be_empty():
    net = Net()
    nothing, everything = net.op("Split", ahead(net), ints(0, C), axis=1, outputs=2)
    net.output(nothing)
    y = net.op("Conv", everything, net.draw(2, C, 1, 1))
    assert fold(net.build(y)).count("BatchNormalization") == 0


@pytest.mark.parametrize("read", [1, 2])
def test_a_split_lifts_one_map_along_another_axis_where_nobody_reads_the_rest(read):
    net = Net()
    parts = net.op("Split", conv(net), ints(1, 1, 2), axis=2, outputs=3, name="cut")
    y = [net.op("Tanh", net.bn(part, C)) for part in parts[:read]]
    folded = fold(net.build(*y))
    if read == 1:
        assert folded.count("BatchNormalization") == 0
    else:
        assert_stays(folded, "unequal-parts", "cut (Split)")


# -- Slice and Gather --------------------------------------------------------------------------------

SLICES = {
    "range": (1, 4, 1),
    "step": (0, 6, 2),
    "open end": (2, FAR, 1),
    "from the end": (-2, FAR, 1),
    "backward": (-1, BACK, -1),
    "backward step": (4, 0, -2),
    "backward to the first": (4, -C, -1),
    "backward past the first": (4, -C - 1, -1),
    "forward from beyond": (-100, 2, 1),
    "backward from beyond": (100, -100, -1),
}


def taken(start: int, end: int, step: int) -> int:
    """The number of entries of C that a SLICES row takes, counted one by one."""
    here = min(start if start >= 0 else max(start + C, 0), C - 1)
    stop = -1 if end < -C else (end + C if end < 0 else min(end, C))
    count = 0
    while (here < stop) if step > 0 else (here > stop):
        here, count = here + step, count + 1
    return count


@pytest.mark.parametrize("case", SLICES)
def test_a_slice_of_the_channels_takes_a_slice_of_the_vectors(case):
    start, end, step = SLICES[case]
    net = Net()
    y = net.op("Slice", ahead(net), ints(start), ints(end), ints(1), ints(step))
    assert (
        fold(net.build(net.op("Conv", y, net.draw(2, taken(start, end, step), 1, 1)))).count("BatchNormalization") == 0
    )


@pytest.mark.parametrize("case", SLICES)
def test_a_slice_of_the_channels_lifts_into_the_entries_it_takes(case):
    start, end, step = SLICES[case]
    net = Net()
    y = net.op("Slice", conv(net), ints(start), ints(end), ints(-3), ints(step))
    assert fold(net.build(net.op("Tanh", net.bn(y, taken(start, end, step))))).count("BatchNormalization") == 0


@pytest.mark.parametrize("opset", [9, 17])
def test_a_slice_along_other_axes_passes_all(opset):
    net = Net(opset=opset)
    if opset < 10:
        y = net.op("Slice", conv(net), starts=[1, 0], ends=[3, 2], axes=[2, 3])
    else:
        y = net.op("Slice", conv(net), net.input(2, name="starts", dtype=np.int64), ints(4, 4), ints(2, 3))
    folded = fold(net.build(net.op("Tanh", net.bn(y, C))))
    assert folded.count("BatchNormalization") == 0


def test_a_slice_without_axes_starts_at_the_first():
    net = Net()
    y = net.op("Slice", conv(net), ints(0, 1), ints(1, 5))
    assert fold(net.build(net.op("Tanh", net.bn(y, 4)))).count("BatchNormalization") == 0


def test_a_slice_of_the_channels_by_a_range_chosen_at_run_time_refuses():
    net = Net()
    y = net.op("Slice", ahead(net), net.input(1, name="start", dtype=np.int64), ints(4), ints(1), name="cut")
    assert_stays(fold(net.build(net.op("ReduceMean", y))), "dynamic-range", "cut (Slice)")


def test_a_slice_by_a_range_chosen_at_run_time_passes_a_uniform_affine():
    net = Net()
    y = net.op("Slice", conv(net), net.input(1, name="start", dtype=np.int64), ints(4), ints(1))
    assert fold(net.build(net.op("Tanh", net.op("Mul", y, np.float32(2))))).count("Mul") == 0


@pytest.mark.parametrize("indices", [[3, 0, 5], [-1, -6], [2, 2, 2], [4]])
def test_a_gather_of_channels_takes_their_entries(indices):
    net = Net()
    y = net.op("Gather", ahead(net), ints(*indices), axis=1)
    assert fold(net.build(net.op("Conv", y, net.draw(2, len(indices), 1, 1)))).count("BatchNormalization") == 0


def test_a_gather_of_one_channel_leaves_a_uniform_affine():
    net = Net()
    y = net.op("Gather", ahead(net), np.array(2), axis=1)
    assert fold(net.build(net.op("MatMul", y, net.draw(4, 2)))).count("BatchNormalization") == 0


@pytest.mark.parametrize("indices", [[3, 0, 5], [-1, 0]])
def test_a_gather_of_channels_lifts_into_the_entries_it_takes(indices):
    net = Net()
    y = net.op("Gather", conv(net), ints(*indices), axis=1)
    assert fold(net.build(net.op("Tanh", net.bn(y, len(indices))))).count("BatchNormalization") == 0


@pytest.mark.parametrize("equal", [True, False])
def test_repeated_indices_lift_only_where_the_copies_carry_the_same(equal):
    net = Net()
    y = net.op("Gather", conv(net), ints(1, 3, 1), axis=1, name="pick")
    scale, shift = net.draw(3), net.draw(3)
    if equal:
        scale[2], shift[2] = scale[0], shift[0]
    folded = fold(net.build(net.op("Tanh", net.exact_bn(y, scale, shift))))
    if equal:
        assert_gone(folded)
    else:
        assert_stays(folded, "unequal-copies", "pick (Gather)")


def test_a_gather_along_another_axis_passes_all_and_moves_the_axis():
    net = Net()
    y = net.op("Gather", conv(net), net.input(2, 2, name="index", dtype=np.int64), axis=3)
    assert fold(net.build(net.op("Tanh", net.bn(y, C)))).count("BatchNormalization") == 0
    net = Net()
    y = net.op("Gather", ahead(net), net.input(2, 2, name="index", dtype=np.int64), axis=0)
    folded = fold(net.build(net.op("MatMul", net.op("Transpose", y, perm=[0, 1, 3, 4, 2]), net.draw(C, 2))))
    assert folded.count("BatchNormalization") == 0


def test_a_gather_of_channels_chosen_at_run_time_refuses():
    net = Net()
    y = net.op("Gather", ahead(net), net.input(3, name="index", dtype=np.int64), axis=1, name="pick")
    assert_stays(fold(net.build(net.op("Conv", y, net.draw(2, 3, 1, 1)))), "dynamic-indices", "pick (Gather)")


def test_a_gather_that_spreads_the_channels_over_two_axes_refuses():
    net = Net()
    y = net.op("Gather", ahead(net), ints(0, 1, 2, 3).reshape(2, 2), axis=1, name="pick")
    assert_stays(fold(net.build(net.op("MatMul", y, net.draw(4, 2)))), "not-per-channel", "pick (Gather)")


@pytest.mark.parametrize("direction", ["backward", "forward"])
@pytest.mark.parametrize("kind", ["Slice", "Gather"])
def test_a_uniform_affine_passes_what_takes_entries_chosen_at_run_time(kind, direction):
    net = Net()
    index = net.input(1, name="index", dtype=np.int64)
    more = [index, ints(FAR), ints(1)] if kind == "Slice" else [index]
    attrs = {} if kind == "Slice" else {"axis": 1}
    if direction == "backward":
        y = net.op("Tanh", net.op("Mul", net.op(kind, conv(net), *more, **attrs), np.float32(2)))
    else:
        x = net.op("Mul", net.op("Tanh", net.input("N", C, 4, 4)), np.float32(2))
        y = net.op("MatMul", net.op(kind, x, *more, **attrs), net.draw(4, 2))
    net.output(net.op("Reshape", y, ints(-1)))
    assert_gone(fold(net.build(), feeds={"index": ints(2)}))


@pytest.mark.parametrize("indices", [[0, C], [0, -C - 1]])
def test_entries_that_do_not_exist_refuse(indices):
    node = node_of("Gather", (2, C), ints(*indices), axis=1)
    assert sunk(node, ALONG) == "out-of-range"
    assert lifted(node, Affine.of([1.0, 2.0], 0.0, 1)) == "unknown-shape"


def test_the_first_and_the_last_entry_exist():
    node = node_of("Gather", (2, C), ints(-C, C - 1), axis=1)
    assert sunk(node, ALONG)[0].scale.tolist() == [1.0, C]
    assert lifted(node, Affine.of([2.0, 3.0], 0.0, 1))[0].scale.tolist() == [2.0, 1.0, 1.0, 1.0, 1.0, 3.0]


@pytest.mark.parametrize("kind", ["Slice", "Gather"])
def test_a_selection_of_an_unknown_or_another_size_refuses(kind):
    more = [ints(0), ints(2), ints(1)] if kind == "Slice" else [ints(0, 1)]
    attrs = {} if kind == "Slice" else {"axis": 1}
    code = "dynamic-range" if kind == "Slice" else "unknown-shape"
    two = Affine.of([1.0, 2.0], 0.0, 1)
    assert lifted(node_of(kind, (2, None), *more, **attrs), two) == code
    assert lifted(node_of(kind, (2, C), *more, **attrs), ALONG) == "unknown-shape"
    assert lifted(node_of(kind, (2, C), *more, **attrs), two)[0].size == C


@pytest.mark.parametrize("kind", ["Slice", "Gather", "Tile", "Expand"])
def test_an_affine_on_what_is_not_the_data_stays(kind):
    assert sunk(node_of(kind, (2, C), (1,)), UNIFORM, 1) == "parameter"


def test_a_selection_without_entries_leaves_nothing():
    node = node_of("Slice", (2, C), ints(3), ints(3), ints(1))
    assert sunk(node, ALONG)[0].size == 0


@pytest.mark.parametrize(
    ("slots", "direction", "found"),
    [
        ((ints(0), ints(2), ints(-1)), "sink", "unknown-rank"),
        ((ints(0), ints(2), ints(0)), "sink", True),
        ((ints(0), ints(2), ints(1)), "sink", "dynamic-range"),
        ((ints(0), ints(2), (1,)), "sink", "dynamic-axes"),
        ((ints(0), ints(2), (1,)), "lift", "dynamic-axes"),
        (((1,), ints(2)), "sink", "dynamic-axes"),
        ((ints(0), ints(2)), "sink", True),
    ],
)
def test_a_slice_of_unknown_rank_passes_what_it_does_not_cut(slots, direction, found):
    crossed = (sunk if direction == "sink" else lifted)(node_of("Slice", None, *slots), ALONG)
    assert (crossed if isinstance(crossed, str) else crossed[0].same_as(ALONG)) == found


@pytest.mark.parametrize("which", [0, 1, 2, 3])
def test_a_slice_of_the_channels_needs_its_whole_range(which):
    slots = [ints(0), ints(4), ints(1), ints(2)]
    assert sunk(node_of("Slice", (2, C), *slots), ALONG)[0].scale.tolist() == [1.0, 3.0]
    slots[which] = (1,)
    assert sunk(node_of("Slice", (2, C), *slots), ALONG) == ("dynamic-axes" if which == 2 else "dynamic-range")


def test_a_slice_in_steps_of_nothing_refuses():
    assert sunk(node_of("Slice", (2, C), ints(0), ints(4), ints(1), ints(0)), ALONG) == "dynamic-range"


@pytest.mark.parametrize("opset", [9, 17])
def test_a_slice_names_its_channels_in_the_attribute_or_the_input(opset):
    if opset < 10:
        node = node_of("Slice", (2, C), opset=opset, starts=[1], ends=[3], axes=[1])
    else:
        node = node_of("Slice", (2, C), ints(1), ints(3), ints(1))
    assert sunk(node, ALONG)[0].scale.tolist() == [2.0, 3.0]


@pytest.mark.parametrize(
    ("shape", "depth", "axis", "along", "down"),
    [
        ((2, C, 4), (3,), 0, 1, 1),
        ((2, C, 4), (), 0, 1, 0),
        ((2, C, 4), (3, 2), 0, 1, 2),
        ((2, C, 4), (3, 2), 2, 1, 1),
        ((2, C, 4), (3, 2), -1, 1, 1),
        (None, (3, 2), 2, 1, 1),
        (None, (3, 2), -1, 1, "not-per-channel"),
        ((2, C, 4), None, 0, 1, "not-per-channel"),
    ],
)
def test_a_gather_along_another_axis_puts_the_axes_of_its_indices_in_place_of_it(shape, depth, axis, along, down):
    node = node_of("Gather", shape, depth, axis=axis)
    affine = ALONG.on_axis(along)
    found = sunk(node, affine)
    assert (found if isinstance(found, str) else found[0].axis) == down
    if isinstance(down, int):
        assert lifted(node, affine.on_axis(down))[0].axis == along
    else:
        assert lifted(node, affine) == "new-axis"


def test_an_affine_on_an_axis_that_a_gather_makes_is_not_lifted():
    node = node_of("Gather", (5, C), (3, 4))
    assert [lifted(node, ALONG.on_axis(axis)) for axis in (0, 1)] == ["new-axis"] * 2
    assert lifted(node, ALONG.on_axis(2))[0].axis == 1
    assert sunk(node, ALONG)[0].axis == 2


# -- embedding tables --------------------------------------------------------------------------------


def embedding(net: Net, *shape, size: int = C) -> str:
    return net.op("Gather", net.const(net.draw(10, size), "table"), net.input(*shape, dtype=np.int64), name="embed")


@pytest.mark.parametrize("shape", [("B",), ("B", "T"), ("B", "T", 2)])
def test_an_affine_along_the_embedding_goes_into_the_table(shape):
    net = Net()
    y = net.op("Add", net.op("Mul", embedding(net, *shape), net.draw(C)), net.draw(C))
    folded = fold(net.build(net.op("Tanh", y)), high=10)
    assert folded.count() == 2
    assert folded.constant("table").shape == (10, C)


def test_a_batchnorm_behind_a_transposed_embedding_goes_into_the_table():
    net = Net()
    y = net.bn(net.op("Transpose", embedding(net, "B", "T"), perm=[0, 2, 1]), C)
    assert fold(net.build(net.op("Tanh", y)), high=10).count("BatchNormalization") == 0


def test_a_batchnorm_over_the_sequence_of_an_embedding_stays_although_the_sizes_agree():
    net = Net()
    y = net.bn(embedding(net, "B", C), C)
    assert_stays(fold(net.build(net.op("Tanh", y)), high=10), "new-axis", "embed (Gather)")


def test_a_table_that_is_also_an_output_weight_is_copied():
    net = Net()
    y = net.op("Tanh", net.op("Mul", embedding(net, "B", "T"), net.draw(C)))
    folded = fold(net.build(net.op("MatMul", y, net.op("Transpose", "table", perm=[1, 0]))), high=10)
    assert folded.count("Mul") == 0


# -- Expand and Tile ---------------------------------------------------------------------------------


def test_expand_passes_an_affine_along_an_axis_it_keeps():
    net = Net()
    y = net.op("Expand", net.op("Conv", net.input("N", 3, 1, 1), net.draw(C, 3, 1, 1)), ints(1, C, 4, 4))
    assert fold(net.build(net.op("Tanh", net.bn(y, C)))).count("BatchNormalization") == 0
    net = Net()
    y = net.op("Expand", net.bn(net.op("Tanh", net.input("N", C, 1)), C), ints(2, 1, 1, 4))
    y = net.op("MatMul", net.op("Transpose", y, perm=[0, 1, 3, 2]), net.draw(C, 2))
    assert fold(net.build(y)).count("BatchNormalization") == 0


def test_expand_refuses_an_affine_along_an_axis_it_makes():
    net = Net()
    y = net.op("Expand", net.op("Conv", net.input("N", 3, 4), net.draw(1, 3, 1)), ints(1, C, 4), name="wide")
    assert_stays(fold(net.build(net.op("Tanh", net.bn(y, C)))), "broadcast", "wide (Expand)")
    net = Net()
    y = net.op("Expand", net.op("Gemm", net.input(4, 3), net.draw(3, 4)), ints(2, C, 4, 4), name="wide")
    assert_stays(fold(net.build(net.op("Tanh", net.bn(y, C)))), "new-axis", "wide (Expand)")


@pytest.mark.parametrize("times", [1, 3])
def test_tile_repeats_the_vectors(times):
    net = Net()
    y = net.op("Tile", ahead(net), ints(1, times, 2, 1))
    assert fold(net.build(net.op("Conv", y, net.draw(2, C * times, 1, 1)))).count("BatchNormalization") == 0


@pytest.mark.parametrize("equal", [True, False])
def test_tile_lifts_what_all_copies_carry(equal):
    net = Net()
    y = net.op("Tile", conv(net, 2), ints(1, 3, 1, 1), name="copies")
    vectors = [np.tile(net.draw(2), 3), np.tile(net.draw(2), 3)] if equal else [net.draw(6), net.draw(6)]
    folded = fold(net.build(net.op("Tanh", net.exact_bn(y, *vectors))))
    if equal:
        assert_gone(folded)
    else:
        assert_stays(folded, "unequal-copies", "copies (Tile)")


def test_tile_by_counts_chosen_at_run_time_refuses():
    net = Net()
    y = net.op("Tile", ahead(net), net.input(4, name="times", dtype=np.int64), name="copies")
    folded = fold(net.build(net.op("ReduceMean", y)), feeds={"times": ints(1, 2, 1, 1)})
    assert_stays(folded, "dynamic-repeats", "copies (Tile)")


@pytest.mark.parametrize(("source", "target"), [(None, (2, C)), ((2, C), None), ((2, C), (2, C))])
@pytest.mark.parametrize("kind", ["Tile", "Expand"])
def test_a_repetition_of_unknown_rank_passes_a_uniform_affine_alone(kind, source, target):
    node = node_of(kind, source, ints(1, 1))
    node.graph.declare(Tensor("out_0", np.dtype(np.float32), target))
    assert lifted(node, UNIFORM) == {0: UNIFORM}
    assert sunk(node, UNIFORM) == {0: UNIFORM}
    for found in (lifted(node, ALONG), sunk(node, ALONG)):
        assert found == "unknown-rank" if None in (source, target) else found[0].same_as(ALONG)


def test_tile_by_fewer_counts_than_axes_refuses():
    node = node_of("Tile", (2, C), ints(1))
    node.graph.declare(Tensor("out_0", np.dtype(np.float32), (2, C)))
    assert sunk(node, ALONG) == "dynamic-repeats"


def test_an_affine_along_the_first_axis_passes_a_repetition():
    node = node_of("Tile", (C, 2), ints(1, 3))
    node.graph.declare(Tensor("out_0", np.dtype(np.float32), (C, 6)))
    affine = ALONG.on_axis(0)
    assert lifted(node, affine)[0].same_as(affine)
    assert sunk(node, affine)[0].same_as(affine)


def test_one_map_for_all_copies_becomes_uniform():
    node = node_of("Expand", (2, C), ints(2, C))
    node.graph.declare(Tensor("out_0", np.dtype(np.float32), (2, C)))
    assert lifted(node, Affine.of(np.full(C, 2.0), 0.0, 1))[0].axis is None


def test_an_expansion_to_more_axes_keeps_those_it_had():
    node = node_of("Expand", (C, 1), ints(2, C, 4))
    node.graph.declare(Tensor("out_0", np.dtype(np.float32), (2, C, 4)))
    assert lifted(node, ALONG)[0].same_as(ALONG.on_axis(0))
    assert sunk(node, ALONG.on_axis(0))[0].same_as(ALONG)


@pytest.mark.parametrize(("times", "passes"), [(1 << 20, True), (1 << 21, False)])
def test_no_vector_gets_longer_than_memory_allows(times, passes):
    """A file may claim any number of copies."""
    affine = Affine.of(np.arange(1.0, 17.0), 0.0, 1)
    node = node_of("Tile", (1, 16), np.array([1, times]))
    node.graph.declare(Tensor("out_0", np.dtype(np.float32), (1, 16 * times)))
    assert (sunk(node, affine) != "too-many") == passes


# -- Compress, GatherElements, ReverseSequence ---------------------------------------------------------


def compress(net, x, entries, **attrs):
    return net.op("Compress", x, np.array(entries, bool), **attrs)


def gather_elements(net, x, shape, axis):
    indices = net.rng.integers(0, 3, shape)
    return net.op("GatherElements", x, indices.astype(np.int64), axis=axis)


TAKEN = {
    "rows": (lambda net, x: compress(net, x, [1, 0, 1, 1], axis=2), 6, True),
    "channels": (lambda net, x: compress(net, x, [0, 1, 1, 0, 1], axis=-3), 3, True),
    "elements along the rows": (lambda net, x: gather_elements(net, x, (2, 6, 3, 4), 2), 6, True),
    "elements of the first channels": (lambda net, x: gather_elements(net, x, (2, 4, 3, 4), 2), 4, True),
    "elements along the channels": (lambda net, x: gather_elements(net, x, (2, 6, 4, 4), 1), 6, False),
    "rows turned around": (
        lambda net, x: net.op("ReverseSequence", x, np.array([3, 4]), batch_axis=0, time_axis=2), 6, True,
    ),
    "channels turned around": (
        lambda net, x: net.op("ReverseSequence", x, np.array([3, 4]), batch_axis=0, time_axis=1), 6, False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TAKEN)
def test_entries_taken_by_condition_by_element_or_in_reverse(case):
    take, channels, passes = TAKEN[case]
    net = Net()
    x = net.op("Relu", net.op("Conv", net.input(2, 3, 4, 4), net.draw(6, 3, 1, 1)))
    if case.startswith("rows turned"):  # the runtime takes sequences along the first two axes alone
        x = net.op("Transpose", x, perm=[2, 0, 1, 3])
        y = net.op("ReverseSequence", x, np.array([3, 4]), batch_axis=1, time_axis=0)
        y = net.op("Transpose", y, perm=[1, 2, 0, 3])
    elif case.startswith("channels turned"):
        x = net.op("Transpose", x, perm=[1, 0, 2, 3])
        y = net.op("ReverseSequence", x, np.array([3, 4]), batch_axis=1, time_axis=0)
        y = net.op("Transpose", y, perm=[1, 0, 2, 3])
    else:
        y = take(net, x)
    y = net.op("Mul", y, net.positive(channels, 1, 1))
    before = len(net.nodes)
    assert fold(net.build(net.op("Tanh", y))).count() == before + 1 - passes


def test_a_condition_that_is_chosen_at_run_time():
    net = Net()
    x = net.op("Conv", net.input(2, 3, 4, 4), net.draw(6, 3, 1, 1))
    some = net.op("Compress", x, net.input(6, name="which", dtype=bool), axis=1)
    net.output(net.bn(some, 4), shape=[2, 4, 4, 4])
    assert_stays(fold_unrun(net.build()), "dynamic-indices")


def test_a_vector_does_not_pass_a_condition_on_all_elements():
    net = Net()
    flat = compress(net, net.op("Conv", net.input(1, 3, 2, 2), net.draw(6, 3, 1, 1)), [1, 0, 1])
    folded = fold(net.build(net.op("Tanh", net.op("Mul", flat, net.positive(2)))))
    assert folded.count("Mul") == 1


def test_a_number_passes_a_condition_on_all_elements():
    net = Net()
    flat = compress(net, net.op("Conv", net.input(1, 3, 2, 2), net.draw(6, 3, 1, 1)), [1, 0, 1])
    assert fold(net.build(net.op("Tanh", net.op("Mul", flat, np.float32(-2))))).count("Mul") == 0
