"""Classes and patterns of placement."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto
from onnx_nets import Net

import bnfold
from bnfold.analysis import BatchNormReport


def report_of(model: ModelProto, name: str = "bn") -> BatchNormReport:
    return next(item for item in bnfold.analyze(model).batchnorms if item.name == name)


def place(model: ModelProto, name: str = "bn") -> tuple[str, str]:
    found = report_of(model, name)
    return found.placement.value, found.pattern


def test_before_the_activation() -> None:
    net = Net()
    model = net.build(net.act("relu", net.norm("bn", net.conv("conv", net.start(), 3, 8), 8)))
    assert place(model) == ("before activation", "Conv → BN → Relu")


def test_before_the_activation_through_a_sum() -> None:
    net = Net()
    x = net.act("relu_0", net.conv("conv_0", net.start(), 3, 3, pads=[1] * 4))
    y = net.norm("bn", net.conv("conv", x, 3, 3, pads=[1] * 4), 3)
    model = net.build(net.act("relu", net.op("Add", y, x)))
    assert place(model) == ("before activation", "Conv → BN → Add → Relu")


def test_after_the_activation_through_pooling_and_dropout() -> None:
    net = Net()
    x = net.act("relu", net.conv("conv", net.start(), 3, 8))
    x = net.op("Dropout", net.op("MaxPool", x, kernel_shape=[2, 2]))
    model = net.build(net.conv("next", net.norm("bn", x, 8), 8, 4))
    assert place(model) == ("after activation", "… → Relu → MaxPool → Dropout → BN → Conv")


def test_after_the_activation_shows_the_layer_before_it() -> None:
    net = Net()
    x = net.norm("bn", net.act("relu", net.conv("conv", net.start(), 3, 8)), 8)
    assert place(net.build(net.conv("next", x, 8, 4))) == ("after activation", "Conv → Relu → BN → Conv")


def test_after_a_swish_written_out() -> None:
    net = Net()
    x = net.conv("conv", net.start(), 3, 8)
    swish = net.op("Mul", x, net.act("sigmoid", x, "Sigmoid"))
    assert place(net.build(net.conv("next", net.norm("bn", swish, 8), 8, 4)))[0] == "after activation"


def test_before_a_swish_written_out() -> None:
    net = Net()
    x = net.norm("bn", net.conv("conv", net.start(), 3, 8), 8)
    swish = net.op("Mul", x, net.act("sigmoid", x, "Sigmoid"))
    model = net.build(net.conv("next", swish, 8, 4))
    assert place(model) == ("before activation", "Conv → BN → (Sigmoid, Mul)")


def test_after_a_gelu_written_out() -> None:
    net = Net()
    x = net.conv("conv", net.start(), 3, 8)
    one_plus_erf = net.op("Add", net.act("erf", net.op("Div", x, 1.414), "Erf"), 1.0)
    gelu = net.op("Mul", net.op("Mul", x, one_plus_erf), 0.5)
    assert place(net.build(net.conv("next", net.norm("bn", gelu, 8), 8, 4)))[0] == "after activation"


def test_a_gate_of_another_tensor_is_no_activation() -> None:
    """Squeeze and excitation: the gate is computed from the tensor, but not element by element."""
    net = Net()
    x = net.conv("conv", net.start(), 3, 8)
    gate = net.act("sigmoid", net.conv("squeeze", net.op("GlobalAveragePool", x), 8, 8, 1), "Sigmoid")
    model = net.build(net.act("relu", net.norm("bn", net.op("Mul", x, gate), 8)))
    assert place(model)[0] == "pre-activation residual"


def test_pre_activation_residual() -> None:
    net = Net()
    x = net.conv("stem", net.start(), 3, 3, pads=[1] * 4)
    y = net.conv("conv", net.act("relu", net.norm("bn", x, 3)), 3, 3, pads=[1] * 4)
    total = net.op("Add", x, y)
    z = net.conv("conv_2", net.act("relu_2", net.norm("bn_2", total, 3)), 3, 3, pads=[1] * 4)
    model = net.build(net.op("Add", total, z))
    assert place(model) == ("pre-activation residual", "Conv → BN → Relu")
    assert place(model, "bn_2") == ("pre-activation residual", "Add → BN → Relu")


def test_a_dense_block_reads_a_concatenation() -> None:
    net = Net()
    x = net.act("relu_0", net.conv("stem", net.start(), 3, 4, pads=[1] * 4))
    joined = net.op("Concat", x, net.conv("conv_1", x, 4, 4, pads=[1] * 4), axis=1)
    y = net.conv("conv_2", net.act("relu", net.norm("bn", joined, 8)), 8, 4, pads=[1] * 4)
    model = net.build(net.op("Concat", joined, y, axis=1))
    assert place(model) == ("pre-activation residual", "Concat → BN → Relu")


def test_a_sum_of_two_convolutions_is_one_linear_layer() -> None:
    net = Net()
    x = net.start()
    total = net.op("Add", net.conv("conv_1", x, 3, 8, pads=[1] * 4), net.conv("conv_2", x, 3, 8, 1))
    assert place(net.build(net.act("relu", net.norm("bn", total, 8))))[0] == "before activation"


def test_the_identity_branch_of_a_repvgg_block() -> None:
    net = Net()
    x = net.act("relu_0", net.conv("stem", net.start(), 3, 4))
    branch = net.norm("bn_conv", net.conv("conv", x, 4, 4, pads=[1] * 4), 4)
    model = net.build(net.act("relu", net.op("Add", branch, net.norm("bn", x, 4))))
    assert place(model) == ("before activation", "Conv → Relu → BN → Add → Relu")


def test_on_the_input() -> None:
    net = Net()
    x = net.norm("bn", net.op("Mul", net.start(), 1 / 255), 3)
    assert place(net.build(net.conv("conv", x, 3, 4)))[0] == "on input"


def test_before_the_output_and_not() -> None:
    net = Net()
    x = net.norm("bn_1", net.gemm("dense", net.start(2, 4), 4, 3), 3)
    y = net.norm("bn_2", net.gemm("dense_2", net.act("relu", x), 3, 3), 3)
    model = net.build(x, net.act("softmax", y, "Softmax"))
    assert place(model, "bn_1") == ("before activation", "Gemm → BN → (Relu, output)"), "others read it too"
    assert place(model, "bn_2") == ("before output", "Gemm → BN → Softmax")


def test_a_relu_is_not_a_last_activation() -> None:
    """A feature extractor ends in one, and its BN is where it belongs."""
    net = Net()
    x = net.norm("bn", net.conv("conv", net.start(), 3, 4), 4)
    assert place(net.build(net.act("relu", x)))[0] == "before activation"


def test_between_linear_layers() -> None:
    net = Net()
    x = net.norm("bn", net.conv("conv_1", net.start(), 3, 4), 4)
    assert place(net.build(net.conv("conv_2", x, 4, 8))) == ("between linear layers", "Conv → BN → Conv")


def test_behind_a_recurrent_layer() -> None:
    net = Net()
    x = net.start(5, 1, 4)
    y, _, _ = net.op("LSTM", x, net.draw(1, 12, 4), net.draw(1, 12, 3), outputs=3, hidden_size=3)
    squeezed = net.op("Squeeze", y, np.array([1]))
    model = net.build(net.matmul("dense", net.norm("bn", squeezed, 1), 3, 2))
    assert place(model)[0] == "other"


def test_readers_are_listed_once_and_cut() -> None:
    net = Net()
    x = net.norm("bn", net.conv("conv", net.start(), 3, 4), 4)
    kinds = ("Relu", "Relu", "Tanh", "Sigmoid", "Exp")
    ends = [net.act(f"act_{i}", x, kind) for i, kind in enumerate(kinds)]
    assert place(net.build(*ends))[1] == "Conv → BN → (Relu, Tanh, …)"


def test_in_a_subgraph() -> None:
    """A BN in the body of an If is found, with the place it stands in."""
    net = Net()
    outer = net.op("Relu", net.start())
    then, other = Net(seed=1), Net(seed=2)
    then.output(then.act("relu", then.norm("bn", outer, 3)), shape=None)
    other.output(other.op("Neg", outer), shape=None)
    flag = net.input(name="flag", dtype=bool)
    model = net.build(net.op("If", flag, then_branch=then.graph("a"), else_branch=other.graph("b"), name="if"))
    found = bnfold.analyze(model).batchnorms
    assert [(item.name, item.scope) for item in found] == [("bn", "if/then_branch")]
