"""Affines of one component that do not all work along the same axes."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import Folded, Net, fold


def two_readers(wide: tuple[int, ...], *, mul_first: bool) -> Folded:
    """Two BN read a convolution; what the second one makes is added to a tensor, and that multiplied by ``wide``."""
    net = Net()
    x = net.input("N", 4, 6, 6)
    c, other = (net.op("Conv", x, net.draw(4, 4, 1, 1)) for _ in range(2))

    def multiplied() -> None:
        normed = net.bn(c, 4, name="second")
        net.output(net.op("Sigmoid", normed))
        net.output(net.op("Tanh", net.op("Mul", net.op("Add", other, normed), net.positive(*wide), name="wide")))

    def plain() -> None:
        net.output(net.op("Relu", net.bn(c, 4, name="first")))

    for part in (multiplied, plain) if mul_first else (plain, multiplied):
        part()
    return fold(net.build())


@pytest.mark.parametrize("mul_first", [True, False])
@pytest.mark.parametrize("wide", [(6, 1), (4, 6, 1)])
def test_one_that_works_along_other_axes_hinders_nobody(wide: tuple[int, ...], mul_first: bool) -> None:
    """Whichever the search begins with: one of the two BN goes, the other one makes up for it."""
    folded = two_readers(wide, mul_first=mul_first)
    assert folded.count("BatchNormalization") == 1, folded.sentences
    assert folded.count("Mul") == 1


def test_an_operator_that_repeats_channels_between_tensors_along_different_axes() -> None:
    """The cast carries channels of axis 1 on one side and was reached along axis 0 on the other."""
    net = Net()
    x = net.op("Max", net.input(4, 6), net.positive(1))
    net.output(net.op("Relu", net.op("Sub", net.draw(4, 1), x)))
    normed = net.bn(net.op("Neg", x), 6)
    net.output(net.op("MatMul", net.draw(4, 4), normed))
    net.output(net.op("Relu", net.bn(net.op("Div", net.op("Identity", x), net.positive(4, 1)), 6)))
    folded = fold(net.build())
    assert folded.count("Neg") == 0


def test_a_choice_between_two_tensors_that_were_reached_along_different_axes() -> None:
    net = Net()
    product = net.op("MatMul", net.input(2, 4, 6), net.draw(6, 6))
    other = net.op("Add", product, net.draw(6))
    moved = net.op("CastLike", net.op("Add", net.bn(product, 4), net.draw(4, 1)), product)
    net.output(net.bn(net.op("Where", np.arange(6) % 2 == 0, moved, other), 4))
    folded = fold(net.build())
    assert folded.count("BatchNormalization") == 2
    assert folded.count("Add") == 1


def test_a_product_of_two_computed_matrices_beside_a_gauge() -> None:
    """One of its inputs carries a change, its output none: that is refused, for it has no weights."""
    net = Net()
    x = net.input(2, 4, 6)
    mean = net.op("ReduceMean", x, axes=[2], keepdims=1)
    total = net.op("Add", net.draw(2, 1, 1), net.op("Add", mean, x))
    net.output(net.op("GlobalAveragePool", net.op("MatMul", x, net.op("Transpose", total, perm=[0, 2, 1]))))
    net.output(net.op("Relu", net.op("Neg", mean)))
    net.output(net.op("Sub", net.const(1.5), net.op("ReduceMean", total, axes=[2], keepdims=1)))
    fold(net.build())


def test_the_model_s_output_keeps_a_producer_where_all_that_makes_it_could_go() -> None:
    """The negation of the negation of an input, which is another output."""
    net = Net()
    negated = net.op("Neg", net.input(4, 6))
    net.output(net.op("Add", net.const(1.5), negated), net.op("Div", negated, net.positive(6)))
    net.output(net.op("Neg", negated))
    fold(net.build())


def boxes_of(net: Net, centre_factor: float, size_factor: float, *, anchors: tuple[int, ...]) -> None:
    """The decoder of a detector: offsets of 1×1 convolutions, factors for centres and sizes, anchors."""
    y = net.op("Conv", net.input(1, 4, 5, 5), net.draw(8, 4, 1, 1), net.draw(8))
    y = net.op("Reshape", net.op("Transpose", y, perm=[0, 2, 3, 1]), np.array([1, -1, 4]))
    ends = (np.array([0]), np.array([2])), (np.array([2]), np.array([4]))
    centre, size = (net.op("Slice", y, *end, np.array([2])) for end in ends)
    centre = net.op("Mul", centre, np.float32(centre_factor), name="centre_factor")
    centre = net.op("Add", net.op("Mul", centre, net.positive(*anchors), name="centre_anchor"), net.draw(*anchors))
    size = net.op("Exp", net.op("Mul", size, np.float32(size_factor), name="size_factor"))
    net.output(net.op("Softmax", net.op("Concat", centre, size, axis=2), axis=1))


@pytest.mark.parametrize("anchors", [(50, 2), (1, 50, 2)])
def test_an_affine_along_other_axes_stays_between_tensors_with_one_number_each(anchors: tuple[int, ...]) -> None:
    """What the anchors multiply makes up for the factor of the sizes, which goes into the convolution."""
    net = Net()
    boxes_of(net, 0.1, 0.2, anchors=anchors)
    folded = fold(net.build())
    assert (folded.count("Mul"), folded.count("Add")) == (1, 1), folded.sentences


def test_one_that_only_multiplies_by_different_numbers_keeps_a_shift_away() -> None:
    """The same number added in front of it is another one behind, at each position."""
    net = Net()
    x = net.op("SpaceToDepth", net.op("Add", stuck(net), np.float32(3.0), name="shift"), blocksize=2)
    wide = net.op("Mul", x, net.positive(16, 3, 3))
    net.output(net.op("Conv", x, net.draw(4, 16, 1, 1), net.draw(4)), net.op("Conv", wide, net.draw(4, 16, 1, 1)))
    assert fold(net.build()).count("Add") == 1


def stuck(net: Net) -> str:
    """A tensor that nothing can be moved into."""
    return net.op("Sigmoid", net.input(1, 4, 6, 6))


@pytest.mark.parametrize("readers", [1, 3])
def test_a_scale_goes_where_the_shift_behind_it_cannot(readers: int) -> None:
    """In front of convolutions that pad with zeros: the shift becomes one of the unscaled tensor."""
    net = Net()
    y = net.op("Sub", net.op("Div", stuck(net), np.float32(127.5)), np.float32(1.0))
    for _ in range(readers):
        net.output(net.op("Conv", y, net.draw(2, 4, 3, 3), pads=[1, 1, 1, 1]))
    folded = fold(net.build())
    assert (folded.count("Div"), folded.count("Mul"), folded.count("Sub") + folded.count("Add")) == (0, 0, 1)
    (step,) = folded.plan.steps
    assert len(step.into) == readers


def test_a_scale_stays_where_somebody_else_reads_what_was_shifted() -> None:
    net = Net()
    y = net.op("Sub", net.op("Div", stuck(net), np.float32(127.5)), np.float32(1.0))
    net.output(net.op("Conv", y, net.draw(2, 4, 3, 3), pads=[1, 1, 1, 1]), net.op("Tanh", y))
    folded = fold(net.build())
    assert (folded.count("Div"), folded.count("Sub"), folded.count("BatchNormalization")) == (1, 1, 0)


@pytest.mark.parametrize(("shift", "scale"), [(0.5, 0.5), (0.4, 0.5), (1.0, 2.0)])
def test_two_numbers_of_a_pair_become_no_normalisation(shift: float, scale: float) -> None:
    """Whatever the numbers, one of them does not take in the other as a BN of rows."""
    net = Net()
    y = net.op("Div", net.op("Sub", stuck(net), np.float32(shift)), np.float32(scale))
    folded = fold(net.build(net.op("Tanh", y)))
    assert (folded.count("Div", "Mul"), folded.count("Sub", "Add"), folded.count("BatchNormalization")) == (1, 1, 0)


@pytest.mark.parametrize("factors", [-1.0, 3.0, (1.0, 2.0, 1.0, 1.0)])
def test_one_number_crosses_what_mixes_channels(factors: float | tuple[float, ...]) -> None:
    """A sum whose other operand is a convolution's, behind a reshape that rips channels apart."""
    net = Net()
    scaled = net.op("Mul", stuck(net), np.float32(np.reshape(factors, (-1, 1, 1))))
    other = net.op("Conv", net.input(1, 4, 4, 6), net.draw(6, 4, 1, 1), net.draw(6))
    total = net.op("Add", net.op("Reshape", scaled, np.array([1, 6, 4, 6])), other)
    net.output(net.op("Conv", net.op("Relu", total) if factors == 3.0 else total, net.draw(4, 6, 1, 1)))
    assert fold(net.build()).count("Mul") == isinstance(factors, tuple)


@pytest.mark.parametrize("shared", [True, False])
def test_constants_as_large_as_tensors_stay_shared_where_a_scalar_can_go_otherwise(shared: bool) -> None:
    """The factor of the centres goes into the convolution, unless composing it takes no room."""
    net = Net()
    y = net.op("Conv", net.input(1, 4, 5, 5), net.draw(8, 4, 1, 1), net.draw(8))
    y = net.op("Reshape", net.op("Transpose", y, perm=[0, 2, 3, 1]), np.array([1, -1, 4]))
    ends = (np.array([0]), np.array([2])), (np.array([2]), np.array([4]))
    centre, size = (net.op("Slice", y, *end, np.array([2])) for end in ends)
    anchors = net.const(net.positive(50, 2))
    centre = net.op("Mul", net.op("Mul", centre, np.float32(0.1)), anchors)
    size = net.op("Exp", net.op("Mul", size, np.float32(0.2)))
    if shared:
        size = net.op("Mul", size, anchors)
    net.output(net.op("Softmax", net.op("Concat", centre, size, axis=2), axis=1))
    folded = fold(net.build())
    assert folded.count("Mul") == 1 + shared
    assert [tuple(each.dims) for each in folded.after.graph.initializer].count((50, 2)) == 1


def test_a_channel_that_is_switched_off_stays_so() -> None:
    """A Mul with a zero among its factors makes up for a BN that goes with the stream of both."""
    net = Net()
    stream = net.op("Conv", net.input(1, 4, 6, 6), net.draw(4, 4, 1, 1), net.draw(4))
    net.output(net.op("Conv", net.op("Relu", net.bn(stream, 4)), net.draw(2, 4, 1, 1)))
    switched = net.op("Mul", stream, np.reshape(np.float32([0.0, 1.0, 2.0, 0.5]), (4, 1, 1)))
    net.output(net.op("Conv", net.op("Add", switched, net.op("Tanh", stuck(net))), net.draw(2, 4, 3, 3), pads=[1] * 4))
    folded = fold(net.build())
    assert folded.count("Mul", "BatchNormalization") == 1
