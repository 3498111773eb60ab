"""What joins tensors: each part gets its entries of an affine's vectors."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import Net, assert_gone, assert_stays, fold, fold_unrun, ints
from one_operator import lifted, node_of, sunk
from operator_nets import ALONG, UNIFORM, C, ahead, conv

from bnfold.affine import Affine
from bnfold.operators import facts_of


@pytest.mark.parametrize("axis", [1, -3])
def test_each_part_of_a_concat_gets_its_slice(axis):
    net = Net()
    y = net.op("Concat", conv(net, 2), conv(net, 3), conv(net, 1), axis=axis)
    assert fold(net.build(net.op("Tanh", net.bn(y, 6)))).count() == 5


@pytest.mark.parametrize("axis", [0, 2, 3])
def test_parts_joined_along_another_axis_all_get_the_same(axis):
    net = Net()
    y = net.op("Concat", conv(net), conv(net), axis=axis)
    assert fold(net.build(net.op("Tanh", net.bn(y, C)))).count() == 4


def test_a_constant_part_of_a_concat_changes():
    net = Net()
    y = net.op("Concat", net.op("Conv", net.input(2, 3, 4), net.draw(2, 3, 1)), net.draw(2, 3, 4), axis=1)
    assert fold(net.build(net.op("Tanh", net.bn(y, 5)))).count("BatchNormalization") == 0


def test_a_part_that_cannot_take_its_slice_stops_all():
    net = Net()
    y = net.op("Concat", conv(net, 2), net.op("Tanh", conv(net, 2), name="tanh"), axis=1)
    assert_stays(fold(net.build(net.op("Tanh", net.bn(y, 4)))), "nonlinear", "tanh (Tanh)")


def test_a_part_whose_slice_does_nothing_is_not_asked():
    net = Net()
    y = net.op("Concat", conv(net, 2), net.op("Tanh", conv(net, 2)), axis=1)
    y = net.exact_bn(y, [2.0, 3.0, 1.0, 1.0], [1.0, 2.0, 0.0, 0.0])
    assert fold(net.build(net.op("Tanh", y))).count("BatchNormalization") == 0


@pytest.mark.parametrize("observer", ["output", "reader"])
def test_a_part_that_someone_else_sees_stops_all(observer):
    net = Net()
    seen = conv(net, 2)
    y = net.op("Concat", conv(net, 2), seen, axis=1)
    other = seen if observer == "output" else net.op("Sigmoid", seen, name="other")
    folded = fold(net.build(net.op("Tanh", net.bn(y, 4)), other))
    assert_stays(folded, "observed", "model's output" if observer == "output" else "other")


def test_one_tensor_twice_in_a_concat_takes_equal_slices_only():
    for equal in (True, False):
        net = Net()
        part = conv(net, 2)
        y = net.op("Concat", part, part, axis=1)
        vectors = [np.tile(net.draw(2), 2), np.tile(net.draw(2), 2)] if equal else [net.draw(4), net.draw(4)]
        folded = fold(net.build(net.op("Tanh", net.exact_bn(y, *vectors))))
        if equal:
            assert_gone(folded)
        else:
            assert_stays(folded, "unequal-readers", part)


def test_parts_of_unknown_size_refuse_a_vector():
    net = Net()
    parts = [net.op("Relu", net.input(2, size, 4)) for size in ("A", "B")]
    y = net.op("Concat", *parts, axis=1, name="join")
    y = net.op("Tanh", net.exact_bn(y, net.draw(4), net.draw(4)))
    feeds = {part: net.draw(2, 2, 4) for part in (value.name for value in net.inputs)}
    assert_stays(fold(net.build(y), feeds=feeds), "unknown-shape", "join (Concat)")


def test_sinking_through_a_concat_leaves_the_other_parts_alone():
    net = Net()
    y = net.op("Concat", ahead(net, 2), net.op("Tanh", net.input("N", 3, 4, 4)), axis=1)
    assert fold(net.build(net.op("Conv", y, net.draw(2, 5, 1, 1)))).count("BatchNormalization") == 0


def test_sinking_through_a_concat_with_a_constant_part():
    net = Net()
    x = net.bn(net.op("Tanh", net.input(2, 3, 4)), 3)
    y = net.op("Concat", x, net.draw(2, 2, 4), axis=1)
    assert fold(net.build(net.op("Conv", y, net.draw(2, 5, 1)))).count("BatchNormalization") == 0


def test_parts_that_carry_the_same_along_the_joined_axis_sink_one_after_the_other():
    net = Net()
    x = net.op("Tanh", net.input("N", 2, 4, 4))
    scale, shift = net.draw(2), net.draw(2)
    y = net.op("Concat", net.exact_bn(x, scale, shift), net.exact_bn(x, scale, shift), axis=1)
    assert fold(net.build(net.op("Conv", y, net.draw(2, 4, 1, 1)))).count("BatchNormalization") == 0


@pytest.mark.parametrize("direction", ["backward", "forward"])
def test_an_affine_along_the_batch_goes_with_the_parts_joined_there(direction):
    net = Net()
    parts = [net.op("Gemm", net.input(size, 3), net.draw(3, C)) for size in (2, 3)]
    if direction == "backward":
        y = net.op("Tanh", net.op("Mul", net.op("Concat", *parts, axis=0), net.draw(5, 1)))
        folded = fold(net.build(y))
        assert_stays(folded, "other-axis")
    else:
        scaled = net.op("Mul", net.op("Tanh", parts[0]), net.draw(2, 1))
        y = net.op("MatMul", net.draw(4, 5), net.op("Concat", scaled, net.op("Tanh", parts[1]), axis=0))
        assert_gone(fold(net.build(y)))


#: Of a tensor with C channels.


@pytest.mark.parametrize(
    ("axis", "affine", "found"),
    [
        (-3, ALONG, "unknown-rank"),
        (-3, UNIFORM, {0: UNIFORM, 1: UNIFORM}),
        (2, ALONG, {0: ALONG, 1: ALONG}),
        (1, ALONG, "unknown-shape"),
    ],
)
def test_a_concat_of_unknown_rank_lifts_what_does_not_run_along_the_joined_axis(axis, affine, found):
    assert lifted(node_of("Concat", None, None, axis=axis), affine) == found


@pytest.mark.parametrize(("axis", "code"), [(-3, "unknown-rank"), (0, "unequal-parts"), (1, "unknown-shape")])
def test_a_concat_of_unknown_rank_sinks_nothing(axis, code):
    assert sunk(node_of("Concat", None, None, axis=axis), ALONG) == code


def test_a_concat_that_does_not_say_joins_channels():
    node = node_of("Concat", (1, 2), (1, 4), opset=3)
    assert [part.size for part in lifted(node, ALONG).values()] == [2, 4]
    two = Affine.of([2.0, 3.0], 0.0, 1)
    assert sunk(node, two)[0].scale.tolist() == [2.0, 3.0, 1.0, 1.0, 1.0, 1.0]


def test_equal_maps_along_the_joined_axis_are_joined():
    node, two = node_of("Concat", (1, 2), (1, 2), axis=1), Affine.of([2.0, 3.0], 0.0, 1)
    assert facts_of(node.op).sink(node, {0: two, 1: two}).affines[0].scale.tolist() == [2.0, 3.0, 2.0, 3.0]


def test_one_tensor_alone_is_joined_to_nothing():
    assert sunk(node_of("Concat", (1, C), axis=0), ALONG)[0].same_as(ALONG)


def test_a_concat_along_the_batch_counts_it_from_the_left():
    affine = Affine.of([1.0, 2.0, 3.0], 0.0, 0)
    node = node_of("Concat", (1, 2), (2, 2), axis=0)
    (parts,) = facts_of(node.op).lift(node, {0: affine})
    assert [part.size for part in parts.affines.values()] == [1, 2]


def test_a_concat_of_the_first_opsets_joins_channels():
    net = Net(opset=3)
    y = net.op("Concat", conv(net, 2), conv(net, 3))
    y = net.bn(y, 5, is_test=1, consumed_inputs=[0, 0, 0, 1, 1])
    net.output(net.op("Tanh", y), shape=["N", 5, 4, 4])
    assert fold_unrun(net.build()).count("BatchNormalization") == 0


@pytest.mark.parametrize("direction", ["backward", "forward"])
def test_a_part_without_entries_has_no_say(direction):
    net = Net()
    nothing = net.op("Slice", conv(net, 2), ints(1), ints(1), ints(1))
    if direction == "backward":
        y = net.op("Tanh", net.bn(net.op("Concat", nothing, conv(net), axis=1), C))
    else:
        y = net.op("Conv", net.op("Concat", nothing, ahead(net), axis=1), net.draw(2, C, 1, 1))
    assert fold(net.build(y)).count("BatchNormalization") == 0


def test_vectors_of_another_size_than_the_parts_refuse():
    assert lifted(node_of("Concat", (1, 2), (1, 3), axis=1), ALONG) == "unknown-shape"
    assert sunk(node_of("Concat", (1, 2), (1, 3), axis=1), ALONG) == "unknown-shape"


def test_a_part_of_unknown_size_does_not_sink():
    net = Net()
    x = ahead(net, 2)
    y = net.op("Concat", x, net.op("Tanh", net.input("N", "C", 4, 4, name="other")), axis=1, name="join")
    folded = fold(
        net.build(net.op("Conv", y, net.draw(2, 5, 1, 1))),
        feeds={net.inputs[0].name: net.draw(2, 2, 4, 4), "other": net.draw(2, 3, 4, 4)},
    )
    assert_stays(folded, "unknown-shape", "join (Concat)")


def test_both_parts_of_a_concat_sink():
    net = Net()
    y = net.op("Concat", ahead(net, 2), ahead(net, 3), axis=1)
    assert fold(net.build(net.op("Conv", y, net.draw(2, 5, 1, 1)))).count("BatchNormalization") == 0


def test_an_affine_along_another_axis_sinks_if_all_parts_carry_it():
    net = Net()
    x = ahead(net)
    y = net.op("Concat", x, net.op("Transpose", x, perm=[0, 1, 3, 2]), axis=2)
    assert fold(net.build(net.op("Conv", y, net.draw(2, C, 1, 1)))).count("BatchNormalization") == 0


def test_an_affine_along_another_axis_stays_if_one_part_lacks_it():
    net = Net()
    y = net.op("Concat", ahead(net), net.op("Tanh", net.input("N", C, 4, 4)), axis=2, name="join")
    assert_stays(fold(net.build(net.op("Conv", y, net.draw(2, C, 1, 1)))), "unequal-parts", "join (Concat)")
