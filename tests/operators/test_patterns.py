"""What operators are to the BN around them: the facts that analysis asks for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import Net

from bnfold.formats import load
from bnfold.graph import ModelGraph, Op
from bnfold.operators import Role, role
from bnfold.operators import patterns as facts
from bnfold.operators.keras import KERAS
from bnfold.operators.onnx import ONNX


def loaded(net: Net, *outputs: str) -> ModelGraph:
    return load(net.build(*outputs)).graph


def last(graph: ModelGraph, kind: str) -> Op:
    return next(op for op in reversed(graph.ops()) if op.type == kind)


def keras_op(kind: str, **attributes: Any) -> Op:
    return Op("op", kind, ("x",), ("y",), attributes, domain="keras")


class TestRanges:
    @pytest.mark.parametrize("groups", [1, 2, 4])
    def test_of_a_convolution(self, groups: int) -> None:
        net = Net()
        weight = net.draw(8, 8 // groups, 3, 3)
        graph = loaded(net, net.op("Conv", net.input(1, 8, 8, 8), weight, group=groups))
        layout = facts.linear_layout(graph, last(graph, "Conv"))
        assert layout is not None
        np.testing.assert_array_equal(
            facts.channel_ranges(layout), np.abs(weight.astype(np.float64)).max(axis=(1, 2, 3))
        )

    @pytest.mark.parametrize("groups", [1, 2, 4])
    def test_of_a_transposed_convolution(self, groups: int) -> None:
        """Output channel ``g * n + j`` is number j of n in group g, and reads the inputs of group g alone."""
        net = Net()
        weight = net.draw(8, 12 // groups, 2, 2)
        graph = loaded(net, net.op("ConvTranspose", net.input(1, 8, 4, 4), weight, group=groups))
        layout = facts.linear_layout(graph, last(graph, "ConvTranspose"))
        assert layout is not None
        size = np.abs(weight.astype(np.float64)).max(axis=(2, 3))
        expected = [part.max(axis=0) for part in np.split(size, groups)]
        np.testing.assert_array_equal(facts.channel_ranges(layout), np.concatenate(expected))

    @pytest.mark.parametrize("transposed", [0, 1])
    def test_of_a_gemm(self, transposed: int) -> None:
        net = Net()
        weight = net.draw(5, 7)
        x = net.input(2, 7 if transposed else 5)
        graph = loaded(net, net.op("Gemm", x, weight, transB=transposed))
        layout = facts.linear_layout(graph, last(graph, "Gemm"))
        assert layout is not None
        ranges = np.abs(weight.astype(np.float64)).max(axis=1 if transposed else 0)
        np.testing.assert_array_equal(facts.channel_ranges(layout), ranges)

    def test_weights_that_are_computed_have_no_layout(self) -> None:
        net = Net()
        graph = loaded(net, net.op("MatMul", net.input(2, 4), net.input(4, 3)))
        assert facts.linear_layout(graph, last(graph, "MatMul")) is None

    def test_another_operator_has_none(self) -> None:
        net = Net()
        graph = loaded(net, net.op("Relu", net.input(2, 4)))
        assert facts.linear_layout(graph, last(graph, "Relu")) is None


class TestWords:
    def test_of_an_activation_layer(self) -> None:
        assert KERAS.word(keras_op("Activation", activation="tanh")) == "tanh"
        assert KERAS.word(keras_op("ops.Add")) == "Add"
        assert KERAS.word(keras_op("Dense")) == "Dense"

    @pytest.mark.parametrize(
        ("kind", "final"),
        [("Softmax", True), ("LogSoftmax", True), ("Sigmoid", True), ("Relu", False), ("Tanh", False), ("Elu", False)],
    )
    def test_last_activations(self, kind: str, final: bool) -> None:
        assert facts.is_final_activation(ModelGraph(dialect=ONNX), Op("op", kind, ("x",), ("y",))) is final

    def test_last_activations_of_keras(self) -> None:
        assert facts.is_final_activation(ModelGraph(dialect=KERAS), keras_op("Activation", activation="softmax"))
        assert facts.is_final_activation(ModelGraph(dialect=KERAS), keras_op("Softmax"))
        assert not facts.is_final_activation(ModelGraph(dialect=KERAS), keras_op("Activation", activation="relu"))

    @pytest.mark.parametrize(
        ("question", "yes", "no"),
        [
            (facts.is_sum, ("Add", "Sum", "Sub", "Mean", "Average", "Subtract", "ops.Add"), ("Mul", "Concat", "Max")),
            (facts.is_concatenation, ("Concat", "Concatenate", "ops.Concatenate"), ("Add", "Split")),
            (facts.is_extreme, ("Max", "Min", "Maximum", "Minimum", "ops.Maximum"), ("Add", "MaxPool")),
            (facts.is_quotient, ("Mul", "Div", "Multiply", "ops.TrueDivide"), ("Add", "Sub")),
            (
                facts.is_normaliser,
                ("InstanceNormalization", "LRN", "UnitNormalization"),
                ("BatchNormalization", "Relu"),
            ),
            (facts.merges_axes, ("Flatten", "Reshape"), ("Transpose", "Squeeze", "Identity")),
            (facts.is_lookup, ("Gather", "Embedding"), ("Gemm", "Dense")),
        ],
    )
    def test_families(self, question: Any, yes: tuple[str, ...], no: tuple[str, ...]) -> None:
        def asked(kind: str) -> bool:
            """Of the operator of that name, in whichever format there is one."""
            return any(question(Op("op", kind, ("x",), ("y",), domain=domain)) for domain in ("", "keras"))

        assert all(map(asked, yes))
        assert not any(map(asked, no))


class TestDropout:
    @pytest.mark.parametrize(("rate", "drops"), [(0.5, True), (0.0, False)])
    def test_the_rate_as_an_input_and_as_an_attribute(self, rate: float, drops: bool) -> None:
        net = Net()
        graph = loaded(net, net.op("Dropout", net.input(2, 4), np.float32(rate)))
        assert facts.drops(graph, last(graph, "Dropout")) is drops
        old = Net(opset=11)
        graph = loaded(old, old.op("Dropout", old.input(2, 4), ratio=rate))
        assert facts.drops(graph, last(graph, "Dropout")) is drops
        assert facts.drops(graph, keras_op("Dropout", rate=rate)) is drops

    def test_without_a_rate_half_is_dropped(self) -> None:
        net = Net()
        graph = loaded(net, net.op("Dropout", net.input(2, 4)))
        assert facts.drops(graph, last(graph, "Dropout"))

    @pytest.mark.parametrize("rates", [[], [0.0, 0.0]])
    def test_a_list_is_no_rate(self, rates: list[float]) -> None:
        net = Net()
        net.output(net.op("Dropout", net.input(2, 4), np.array(rates, np.float32)), shape=(2, 4))
        graph = loaded(net)
        assert facts.drops(graph, last(graph, "Dropout"))


class TestScales:
    @pytest.mark.parametrize(
        ("kind", "passes"), [("Relu", True), ("LeakyRelu", True), ("Abs", True), ("Sigmoid", False), ("Elu", False)]
    )
    def test_through_activations(self, kind: str, passes: bool) -> None:
        net = Net()
        graph = loaded(net, net.op(kind, net.input(2, 4)))
        assert facts.passes_scale(graph, last(graph, kind)) is passes

    @pytest.mark.parametrize(("high", "passes"), [(None, True), (6.0, False)])
    def test_through_a_clip(self, high: float | None, passes: bool) -> None:
        net = Net()
        bounds = [np.float32(0.0), *([] if high is None else [np.float32(high)])]
        graph = loaded(net, net.op("Clip", net.input(2, 4), *bounds))
        assert facts.passes_scale(graph, last(graph, "Clip")) is passes


class TestAxes:
    def keeps(self, net: Net, output: str, kind: str) -> bool:
        graph = loaded(net, output)
        op = last(graph, kind)
        return facts.keeps_axes(graph, op, role(op, graph))

    @pytest.mark.parametrize("kind", ["Relu", "Identity", "Sigmoid", "Dropout"])
    def test_elementwise(self, kind: str) -> None:
        net = Net()
        assert self.keeps(net, net.op(kind, net.input(1, 3, 8, 8)), kind)

    def test_a_bn_and_an_affine(self) -> None:
        net = Net()
        x = net.bn(net.input(1, 3, 8, 8), 3)
        graph = loaded(net, net.op("Mul", x, net.draw(3, 1, 1)))
        for op in graph.ops():
            assert facts.keeps_axes(graph, op, role(op, graph))

    def test_padding(self) -> None:
        net = Net()
        pads = np.array([0, 0, 1, 1, 0, 0, 1, 1])
        assert self.keeps(net, net.op("Pad", net.input(1, 3, 8, 8), pads), "Pad")

    @pytest.mark.parametrize("kind", ["ZeroPadding", "UpSampling", "Cropping"])
    @pytest.mark.parametrize("rank", [1, 2, 3])
    def test_keras_layers_over_space(self, kind: str, rank: int) -> None:
        assert facts.keeps_axes(ModelGraph(dialect=KERAS), keras_op(f"{kind}{rank}D"), Role.SHAPE)
        assert not facts.keeps_axes(ModelGraph(dialect=KERAS), keras_op(f"{kind}0D"), Role.SHAPE)

    def test_pooling_as_long_as_the_axes_stay(self) -> None:
        net = Net()
        assert self.keeps(net, net.op("MaxPool", net.input(1, 3, 8, 8), kernel_shape=[2, 2]), "MaxPool")
        net = Net()
        reduced = net.op("ReduceMean", net.input(1, 3, 8, 8), axes=[2, 3], keepdims=0)
        assert not self.keeps(net, reduced, "ReduceMean")

    def test_pooling_of_an_unknown_rank(self) -> None:
        graph = ModelGraph(dialect=ONNX)
        graph.put(Op("pool", "GlobalAveragePool", ("x",), ("y",)))
        assert not facts.keeps_axes(graph, graph.op("pool"), Role.POOL)

    @pytest.mark.parametrize("kind", ["Transpose", "Flatten"])
    def test_rearrangements(self, kind: str) -> None:
        net = Net()
        assert not self.keeps(net, net.op(kind, net.input(1, 3, 8, 8)), kind)


class TestBias:
    @pytest.mark.parametrize("opset", [9, 11, 17])
    def test_who_can_do_without(self, opset: int) -> None:
        net = Net(opset=opset)
        x = net.op("Gemm", net.input(2, 4), net.draw(4, 4), net.draw(4))
        graph = loaded(net, x)
        assert facts.can_drop_bias(graph, last(graph, "Gemm")) is (opset >= 11)
        assert facts.can_drop_bias(graph, Op("c", "Conv", ("x", "w", "b"), ("y",)))
        assert facts.can_drop_bias(graph, keras_op("Gemm"))

    def test_the_gain_is_gemms_beta(self) -> None:
        assert facts.bias_gain(ModelGraph(dialect=ONNX), Op("g", "Gemm", (), ("y",), {"beta": 0.5})) == 0.5
        assert facts.bias_gain(ModelGraph(dialect=ONNX), Op("g", "Gemm", (), ("y",))) == 1.0
        assert facts.bias_gain(ModelGraph(dialect=ONNX), Op("c", "Conv", (), ("y",), {"beta": 0.5})) == 1.0
        assert facts.bias_gain(ModelGraph(dialect=KERAS), keras_op("Gemm", beta=0.5)) == 1.0

    def test_who_has_one_at_run_time(self) -> None:
        assert facts.has_bias_input(Op("c", "Conv", ("x", "w", "b"), ("y",)))
        assert not facts.has_bias_input(Op("c", "Conv", ("x", "w"), ("y",)))
        assert not facts.has_bias_input(Op("m", "MatMul", ("x", "w", "b"), ("y",)))
        assert not facts.has_bias_input(Op("s", "Conv", ("x", "w", "b"), ("y",), domain="keras"))

    @staticmethod
    def chain(*, matmul_bias: bool = True, branch: bool = False, own: bool = False) -> tuple[ModelGraph, Op]:
        net = Net()
        x = net.input(2, 4)
        y = net.op("Gemm", x, net.draw(4, 4), net.draw(4)) if own else net.op("MatMul", x, net.draw(4, 4))
        y = y if matmul_bias else net.op("Relu", y)
        outputs = [net.op("Add", y, net.draw(4))] + ([net.op("Relu", y)] if branch else [])
        graph = loaded(net, *outputs)
        return graph, last(graph, "Add")

    def test_an_add_behind_a_matmul(self) -> None:
        assert facts.is_bias_add(*self.chain())

    def test_none_behind_an_activation(self) -> None:
        assert not facts.is_bias_add(*self.chain(matmul_bias=False))

    def test_none_where_others_read_the_product(self) -> None:
        assert not facts.is_bias_add(*self.chain(branch=True))

    def test_none_behind_a_bias(self) -> None:
        assert not facts.is_bias_add(*self.chain(own=True))

    def test_none_without_a_producer(self) -> None:
        net = Net()
        graph = loaded(net, net.op("Add", net.input(2, 4), net.draw(4)))
        assert not facts.is_bias_add(graph, last(graph, "Add"))

    def test_a_product_is_no_sum(self) -> None:
        net = Net()
        graph = loaded(net, net.op("Mul", net.op("MatMul", net.input(2, 4), net.draw(4, 4)), net.draw(4)))
        assert not facts.is_bias_add(graph, last(graph, "Mul"))


class TestReaders:
    def test_the_only_one(self) -> None:
        graph = ModelGraph(dialect=ONNX)
        graph.put(Op("a", "Relu", ("x",), ("y",)))
        assert facts.sole_reader(graph, "x") is graph.op("a")
        graph.put(Op("b", "Relu", ("x",), ("z",)))
        assert facts.sole_reader(graph, "x") is None

    def test_not_of_an_output_nor_of_a_captured_tensor(self) -> None:
        graph = ModelGraph(dialect=ONNX)
        graph.put(Op("a", "Relu", ("x",), ("y",)))
        graph.put(Op("b", "If", ("c",), ("z",), captures=("y",)))
        assert facts.sole_reader(graph, "y") is None
        graph.outputs = ["x"]
        assert facts.sole_reader(graph, "x") is None


class TestGates:
    """``x * f(x)``: which products are activations."""

    @staticmethod
    def gated(build: Any) -> bool:
        net = Net()
        graph = loaded(net, build(net, net.input(1, 4, 4, 4)))
        return facts.is_self_gated(graph, graph.ops()[-1], lambda op: role(op, graph))

    def test_swish(self) -> None:
        assert self.gated(lambda net, x: net.op("Mul", x, net.op("Sigmoid", x)))
        assert self.gated(lambda net, x: net.op("Mul", net.op("Sigmoid", x), x))

    def test_hard_swish_of_older_exports(self) -> None:
        def build(net: Net, x: str) -> str:
            gate = net.op("Div", net.op("Clip", net.op("Add", x, 3.0), np.float32(0), np.float32(6)), 6.0)
            return str(net.op("Mul", x, gate))

        assert self.gated(build)

    def test_gelu_with_factors_on_both_sides(self) -> None:
        def build(net: Net, x: str) -> str:
            erf = net.op("Add", net.op("Erf", net.op("Div", x, 1.414)), 1.0)
            return str(net.op("Mul", net.op("Mul", x, 0.5), erf))

        assert self.gated(build)

    def test_a_gate_computed_by_a_layer_is_none(self) -> None:
        def build(net: Net, x: str) -> str:
            gate = net.op("Sigmoid", net.op("Conv", x, net.draw(4, 4, 1, 1)))
            return str(net.op("Mul", x, gate))

        assert not self.gated(build)

    def test_two_inputs_are_none(self) -> None:
        assert not self.gated(lambda net, x: net.op("Mul", x, net.input(1, 4, 4, 4)))

    def test_a_product_of_three_is_none(self) -> None:
        op = Op("m", "Multiply", ("x", "x", "x"), ("y",), domain="keras")
        assert not facts.is_self_gated(ModelGraph(dialect=ONNX), op, lambda op: Role.JOIN)

    def test_a_sum_is_none(self) -> None:
        assert not self.gated(lambda net, x: net.op("Add", x, net.op("Sigmoid", x)))

    def test_a_square_is_none(self) -> None:
        assert not self.gated(lambda net, x: net.op("Mul", x, x))
