"""BN201 to BN204 on ONNX."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto
from onnx_nets import Net, usual
from rule_asserts import found, layers, only

import bnfold
from bnfold.analysis import Severity


class TestRedundantBias:
    def test_counts_the_parameters_and_names_the_bn(self) -> None:
        net = Net()
        x = net.norm("bn", net.conv("conv", net.start(), 3, 8, bias=True), 8)
        finding = only(net.build(net.act("relu", x)), "BN201")
        assert (finding.layer, finding.severity, finding.repair) == ("conv", Severity.WARNING, "fix")
        assert finding.values == {"parameters": 8, "batchnorm": "bn"}
        assert finding.message == (
            "conv has a bias of 8 parameters that bn takes away again; build it with bias=False, or let `bnfold fix` "
            "take the bias into the moving mean."
        )

    def test_a_bias_written_as_add(self) -> None:
        net = Net()
        x = net.op("Add", net.matmul("dense", net.start(2, 4), 4, 4), net.draw(4))
        assert layers(net.build(net.act("relu", net.norm("bn", x, 4))), "BN201") == ["dense"]

    def test_not_without_a_bias(self) -> None:
        assert not found(usual(), "BN201")

    def test_not_with_an_activation_between(self) -> None:
        net = Net()
        x = net.act("relu", net.conv("conv", net.start(), 3, 8, bias=True))
        assert not found(net.build(net.conv("next", net.norm("bn", x, 8), 8, 4)), "BN201")

    def test_not_where_somebody_else_reads_the_layer(self) -> None:
        net = Net()
        x = net.conv("conv", net.start(), 3, 8, bias=True)
        y = net.act("relu", net.norm("bn", x, 8))
        assert not found(net.build(net.op("Add", x, y)), "BN201")

    def test_not_along_another_axis(self) -> None:
        net = Net()
        x = net.op("Add", net.matmul("dense", net.start(2, 4, 4), 4, 4), net.draw(4))
        assert not found(net.build(net.act("relu", net.norm("bn", x, 4))), "BN201")

    def test_not_for_weights_used_elsewhere_without_a_bn(self) -> None:
        net = Net()
        weight, bias = net.const(net.draw(4, 4)), net.const(net.draw(4))
        x = net.op("Gemm", net.start(2, 4), weight, bias, name="dense_1")
        y = net.op("Gemm", net.input(2, 4), weight, bias, name="dense_2")
        assert not found(net.build(net.act("relu", net.norm("bn", x, 4)), y), "BN201")

    def test_not_where_biases_share_one_bn(self) -> None:
        net = Net()
        vectors = [net.const(net.positive(4)) for _ in range(4)]
        ends = []
        for i in (1, 2):
            x = net.gemm(f"dense_{i}", net.input(2, 4), 4, 4, bias=True)
            ends.append(net.act(f"relu_{i}", net.op("BatchNormalization", x, *vectors, name=f"bn_{i}")))
        assert not found(net.build(*ends), "BN201")

    @pytest.mark.parametrize(("opset", "repair"), [(9, "fold"), (11, "fix")])
    def test_a_gemm_has_to_have_a_bias_before_opset_11(self, opset: int, repair: str) -> None:
        net = Net(opset=opset)
        x = net.norm("bn", net.gemm("dense", net.start(2, 4), 4, 4, bias=True), 4)
        assert only(net.build(net.act("relu", x)), "BN201").repair == repair


class TestMissingBias:
    def test_an_activation_comes_first(self) -> None:
        net = Net()
        x = net.act("relu", net.conv("conv", net.start(), 3, 8))
        finding = only(net.build(net.conv("last", net.norm("bn", x, 8), 8, 4, bias=True)), "BN202")
        assert (finding.layer, finding.severity, finding.values) == ("conv", Severity.WARNING, {"channels": 8})
        assert finding.message == (
            "conv has no bias, and the activation relu comes before any BN, so its 8 channels cannot be shifted; give "
            "it a bias (bias=True) or put a BN directly behind it."
        )

    def test_no_bn_follows(self) -> None:
        net = Net()
        x = net.act("relu", net.norm("bn", net.gemm("dense", net.start(2, 4), 4, 4), 4))
        finding = only(net.build(net.gemm("last", x, 4, 2)), "BN202")
        assert "last has no bias, and no BN follows, so its 2 channels" in finding.message

    def test_not_directly_before_a_bn(self) -> None:
        assert not found(usual(), "BN202")

    def test_a_bias_written_as_add_is_a_bias(self) -> None:
        net = Net()
        x = net.act("relu", net.norm("bn", net.gemm("dense", net.start(2, 4), 4, 4), 4))
        assert not found(net.build(net.op("Add", net.matmul("last", x, 4, 2), net.draw(2))), "BN202")

    def test_a_bias_that_is_computed_is_a_bias(self) -> None:
        net = Net()
        x = net.act("relu", net.norm("bn", net.gemm("dense", net.start(2, 4), 4, 4), 4))
        last = net.op("Gemm", x, net.draw(4, 2), net.input(2, name="bias"), name="last")
        assert not found(net.build(last), "BN202")

    def test_a_bn_behind_a_concatenation_makes_up_for_it(self) -> None:
        """DenseNet's convolutions have no bias: what they put out goes to BN alone."""
        net = Net()
        x = net.start(1, 4, 8, 8)
        joined = net.op("Concat", x, net.conv("conv", x, 4, 4, 1), axis=1)
        y = net.conv("conv_2", net.act("relu", net.norm("bn", joined, 8)), 8, 4, 1)
        last = net.op("Concat", joined, y, axis=1)
        end = net.conv("last", net.act("relu_2", net.norm("bn_2", last, 12)), 12, 4, 1, bias=True)
        assert not found(net.build(end), "BN202")

    def test_unless_something_else_reads_it_there(self) -> None:
        net = Net()
        x = net.conv("conv", net.start(1, 4, 8, 8), 4, 4, 1)
        y = net.act("relu", net.norm("bn", x, 4))
        assert layers(net.build(net.op("Mul", y, net.act("sigmoid", x, "Sigmoid"))), "BN202") == ["conv"]

    def test_the_next_linear_layers_bias_makes_up_for_it(self) -> None:
        net = Net()
        x = net.act("relu", net.norm("bn", net.conv("conv", net.start(), 3, 4), 4))
        pointwise = net.conv("pointwise", net.conv("depthwise", x, 4, 4, group=4), 4, 8, 1, bias=True)
        assert not found(net.build(pointwise), "BN202")

    def test_not_in_a_model_without_bn(self) -> None:
        net = Net()
        assert not found(net.build(net.act("relu", net.gemm("dense", net.start(2, 4), 4, 4))), "BN202")


class TestRedundantScale:
    def test_a_linear_layer_follows(self) -> None:
        net = Net()
        x = net.norm("bn", net.act("relu", net.conv("conv", net.start(), 3, 8, bias=True)), 8)
        finding = only(net.build(net.conv("next", x, 8, 4)), "BN203")
        assert (finding.layer, finding.severity) == ("bn", Severity.INFO)
        assert finding.message == (
            "the 8 scales of bn can be left out (scale=False), because next can hold them in its own weights."
        )

    def test_a_relu_and_then_linear_layers(self) -> None:
        net = Net()
        x = net.act("relu", net.norm("bn", net.conv("conv", net.start(), 3, 8), 8))
        model = net.build(net.op("Add", net.conv("a", x, 8, 4), net.conv("b", x, 8, 4)))
        assert only(model, "BN203").message == (
            "the 8 scales of bn can be left out (scale=False), because a and b can hold them in their own weights, and "
            "a ReLU between does not matter."
        )

    @pytest.mark.parametrize("kind", ["Sigmoid", "Tanh", "HardSwish", "Elu"])
    def test_not_with_a_nonlinearity_that_a_scale_does_not_pass(self, kind: str) -> None:
        net = Net()
        x = net.act("act", net.norm("bn", net.conv("conv", net.start(), 3, 8), 8), kind)
        assert not found(net.build(net.conv("next", x, 8, 4)), "BN203")

    def test_not_with_a_relu_that_is_bounded(self) -> None:
        net = Net()
        x = net.norm("bn", net.conv("conv", net.start(), 3, 8), 8)
        x = net.op("Clip", x, np.float32(0), np.float32(6))
        assert not found(net.build(net.conv("next", x, 8, 4)), "BN203")

    def test_not_where_a_shortcut_reads_it_too(self) -> None:
        net = Net()
        x = net.act("relu", net.norm("bn", net.conv("conv", net.start(1, 4, 8, 8), 4, 4, 1), 4))
        assert not found(net.build(net.op("Add", x, net.conv("next", x, 4, 4, 1))), "BN203")

    def test_not_through_a_flatten(self) -> None:
        net = Net()
        x = net.op("Flatten", net.norm("bn", net.conv("conv", net.start(), 3, 4), 4))
        assert not found(net.build(net.gemm("dense", x, 144, 10)), "BN203")

    def test_there_is_no_scale_to_leave_out(self) -> None:
        net = Net()
        x = net.norm("bn", net.conv("conv", net.start(), 3, 4), 4, gamma=np.ones(4))
        assert not found(net.build(net.conv("next", x, 4, 4)), "BN203")


class TestIdentity:
    @staticmethod
    def model(*, gain: float = 1.0, offset: float = 0.0) -> ModelProto:
        net = Net()
        mean, variance = net.draw(8), net.positive(8)
        gamma = np.sqrt(variance.astype(np.float64) + 1e-5) * gain
        x = net.conv("conv", net.start(), 3, 8)
        x = net.norm("bn", x, 8, gamma=gamma, beta=mean + np.float32(offset), mean=mean, variance=variance)
        return net.build(net.act("relu", x))

    def test_fires(self) -> None:
        finding = only(self.model(), "BN204")
        assert (finding.layer, finding.severity, finding.repair) == ("bn", Severity.WARNING, "fix")
        assert finding.message == (
            "bn does nothing: gamma undoes the division by the deviation and beta the subtraction of the mean in all 8 "
            "channels; remove it, or let `bnfold fix` do so."
        )

    def test_it_takes_no_bias_and_no_scale_away(self) -> None:
        """Whoever follows BN204 and removes the BN has nothing but the layer's own bias left."""
        for gain, codes in ((1.0, {"BN204"}), (1.5, {"BN201", "BN203"})):
            net = Net()
            mean, variance = net.draw(8), net.positive(8)
            gamma = np.sqrt(variance.astype(np.float64) + 1e-5) * gain
            x = net.conv("conv", net.start(), 3, 8, bias=True)
            x = net.norm("bn", x, 8, gamma=gamma, beta=mean, mean=mean, variance=variance)
            model = net.build(net.conv("next", net.act("relu", x), 8, 4))
            found = bnfold.analyze(model, select=["BN201", "BN203", "BN204"]).findings
            assert {finding.code for finding in found} == codes

    def test_not_for_a_scale_or_shift_beyond_rounding(self) -> None:
        assert not found(self.model(gain=1 + 1e-5), "BN204")
        assert not found(self.model(offset=1e-4), "BN204")

    def test_an_untrained_bn_is_not_the_identity(self) -> None:
        """Its epsilon shrinks what goes through by a little."""
        net = Net()
        plain = {"gamma": np.ones(4), "beta": np.zeros(4), "mean": np.zeros(4), "variance": np.ones(4)}
        model = net.build(
            net.act("relu", net.norm("bn", net.conv("conv", net.start(), 3, 4), 4, epsilon=1e-3, **plain))
        )
        assert not found(model, "BN204")
        assert layers(model, "BN301") == ["bn"]
