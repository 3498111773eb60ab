"""What a fold leaves of the operators around the constants that it changes."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import Net, fold, unused

from bnfold.folding.editor import renamed
from bnfold.formats import load


def scaled_weight(net: Net, weight: str) -> str:
    """A Conv of scaled weights, flattened to scale them and brought back into the shape of what they were."""
    rows = net.op("Mul", net.op("Reshape", weight, np.array([4, -1])), net.positive(4, 1))
    return net.op("Conv", net.input("N", 3, 6, 6), net.op("Reshape", rows, net.op("Shape", weight)))


@pytest.mark.parametrize("follows", [True, False])
def test_a_weight_of_which_the_shape_alone_is_read_goes(follows):
    net = Net()
    weight = net.draw(4, 3, 3, 3)
    y = scaled_weight(net, net.const(weight, "weight"))
    folded = fold(net.build(net.op("Tanh", net.bn(y, 4) if follows else y)))
    assert folded.count("Shape", "Mul", "BatchNormalization") == 0
    sizes = [np.prod(tensor.dims) for tensor in folded.after.graph.initializer]
    assert sum(size == weight.size for size in sizes) == 1
    assert not unused(folded.after)


def test_a_weight_whose_values_somebody_reads_stays_with_its_shape():
    net = Net()
    weight = net.const(net.draw(4, 3, 3, 3), "weight")
    y = scaled_weight(net, weight)
    net.output(net.op("Tanh", y), shape=["N", 4, 4, 4])
    net.output(net.op("Add", net.input("N", 3, 3, 3, name="other"), weight), shape=["N", 3, 3, 3])
    folded = fold(net.build(), feeds={"other": np.ones((4, 3, 3, 3), np.float32)})
    assert folded.count("Shape") == 1
    assert "weight" in {tensor.name for tensor in folded.after.graph.initializer}


def test_a_shape_that_the_model_returns_is_still_computed():
    net = Net()
    weight = net.const(net.draw(4, 3, 3, 3), "weight")
    shape = net.op("Shape", weight)
    rows = net.op("Mul", net.op("Reshape", weight, np.array([4, -1])), net.positive(4, 1))
    y = net.op("Conv", net.input("N", 3, 6, 6), net.op("Reshape", rows, shape))
    net.output(net.op("Tanh", y), shape=["N", 4, 4, 4])
    net.output(shape, shape=[4], dtype=np.int64)
    assert fold(net.build()).count("Shape") == 1


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("y", "y_folded_2"),
        ("y_folded", "y_folded_2"),
        ("y_folded_7", "y_folded_2"),
        ("y_folded_b", "y_folded_b_folded"),
    ],
)
def test_a_tensor_that_changes_again_and_again_has_one_ending(name, expected):
    net = Net()
    graph = load(net.build(net.op("Tanh", net.input("N", 4), outputs=["y_folded"]))).graph
    assert renamed(graph, [name], {}) == {name: expected}
    assert renamed(graph, [name], {name: "kept"}) == {name: "kept"}
