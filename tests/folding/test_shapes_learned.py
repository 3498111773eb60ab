"""Shapes that only the folding makes plain: the first fold already knows what a second one would read in the file.

``fold`` itself asserts that folding again changes nothing.
"""

from __future__ import annotations

import numpy as np
from helpers import Net, fold
from onnx import helper


def test_the_constant_of_an_affine_tells_the_size_behind_it():
    net = Net(opset=20)
    x = net.op("GlobalMaxPool", net.input("N", "C", 4, "H", "W"))
    x = net.op("Transpose", net.bn(net.bn(x, 2), 2), perm=[1, 2, 4, 0, 3])
    x = net.op("Sub", net.const(net.draw(2, 1, 1, 1, 1)), net.op("Add", net.const(net.draw(1, 1)), x))
    x = net.op("InstanceNormalization", x, net.positive(1), net.draw(1))
    net.output(net.op("Abs", x), shape=list("abcde"))
    net.feeds["x_1"] = net.draw(1, 2, 4, 3, 3)
    folded = fold(net.build(), feeds=net.feeds)
    assert folded.count() == 5


def test_the_weight_of_a_product_tells_the_size_behind_it():
    net = Net(opset=12)
    x = net.op("GlobalLpPool", net.input(1, 1, 2, "H", "W"))
    y = net.op("Add", x, net.const(net.draw(1, 1)))
    net.output(net.op("MatMul", y, net.op("Transpose", y, perm=[0, 1, 2, 4, 3])), shape=list("abcde"))
    x = net.bn(net.op("Add", net.const(net.draw(1, 1, 1, 1)), x), 1)
    y = net.bn(net.op("Add", x, net.const(net.draw(1, 1, 1, 1))), 1)
    net.output(net.op("Mul", net.const(net.draw(1, 1, 1, 1, 1)), y), shape=list("fghij"))
    net.output(net.op("MatMul", net.const(net.draw(5, 1)), net.bn(x, 1)), shape=list("klmno"))
    assert fold(net.build()).count() == 8


def test_shapes_are_inferred_again_where_that_shows_an_affine():
    net = Net(opset=20)
    # A BatchNormalization tells inference nothing of its channels, the Add that it leaves behind does.
    x = net.bn(net.op("Einsum", net.input("N", 1, "H", "W"), net.draw(5, 3, 3), equation="abcd,daz->za"), 3)
    x, _ = net.op("Split", x, np.array([2, 1]), axis=1, outputs=2)
    x = net.op("Div", net.op("Identity", x), net.const(net.positive(3, 1)))
    net.output(net.op("Abs", x), net.op("Div", net.op("Add", x, net.draw(2)), net.positive(2)), shape=["r", "s"])
    folded = fold(net.build(), feeds={"x_1": net.draw(3, 1, 2, 5)})
    assert folded.count() == folded.count("Einsum", "Add", "Split", "Identity", "Div", "Abs", "BatchNormalization")
    assert folded.count("Add") == 1


def test_the_name_of_an_output_tells_sizes_behind_it():
    net = Net(opset=12)
    x = net.op("Reshape", net.input("N", 8), np.array([-1, 4, 3]))
    net.output(net.op("Mul", x, np.float32(1.0)), shape=[2, 4, 3])
    y = net.op("Conv", x, net.draw(5, 4, 1))
    value = helper.make_tensor("value", 1, [1], [0.5])
    filled = net.op("ConstantOfShape", net.op("Shape", y), value=value)
    net.output(net.op("Div", net.op("Add", y, filled), np.float32(3.0)), shape=["a", "b", "c"])
    folded = fold(net.build(), feeds={"x_1": net.draw(3, 8)})
    assert folded.count("Conv", "Reshape") == folded.count() == 2
