"""BN301 to BN307 on ONNX."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto
from onnx_nets import Net, usual
from rule_asserts import found, only

import bnfold
from bnfold.analysis import Severity

UNTRAINED = {"gamma": 1.0, "beta": 0.0, "mean": 0.0, "variance": 1.0}


def with_bn(**parts: Any) -> ModelProto:
    """``conv → bn → relu`` of four channels; ``parts`` as :meth:`Net.norm` takes them, numbers for all channels."""
    net = Net()
    values = {key: np.broadcast_to(np.float32(v), 4) if key in UNTRAINED else v for key, v in parts.items()}
    return net.build(net.act("relu", net.norm("bn", net.conv("conv", net.start(), 3, 4), 4, **values)))


class TestUntrained:
    def test_fires(self) -> None:
        finding = only(with_bn(**UNTRAINED), "BN301")
        assert (finding.layer, finding.severity) == ("bn", Severity.WARNING)
        assert finding.message == (
            "bn still has the values it was initialised with (mean 0, variance 1, gamma 1, beta 0 in all 4 channels); "
            "train the model, or load its weights before saving it."
        )

    @pytest.mark.parametrize("part", UNTRAINED)
    def test_not_if_one_number_moved(self, part: str) -> None:
        moved = np.full(4, UNTRAINED[part], np.float32)
        moved[2] += 1e-3
        assert not found(with_bn(**{**UNTRAINED, part: moved}), "BN301")


class TestInvalid:
    @pytest.mark.parametrize(
        ("part", "value", "words"),
        [
            ("variance", -0.5, "1 negative variance,"),
            ("variance", np.nan, "1 NaN in its variance,"),
            ("gamma", np.nan, "1 NaN in its gamma,"),
            ("beta", np.inf, "1 infinite value in its beta,"),
            ("mean", -np.inf, "1 infinite value in its mean,"),
        ],
    )
    def test_fires(self, part: str, value: float, words: str) -> None:
        values = np.ones(4, np.float32)
        values[1] = value
        finding = only(with_bn(**{part: values}), "BN302")
        assert (finding.layer, finding.severity) == ("bn", Severity.ERROR)
        assert finding.message.startswith(f"bn has {words} which no training gives")

    def test_several_faults_are_all_named(self) -> None:
        finding = only(
            with_bn(variance=np.float32([-1, -1, np.nan, 1]), beta=np.float32([np.inf, -np.inf, 0, 0])), "BN302"
        )
        assert finding.values == {
            "faults": ["2 infinite values in its beta", "1 NaN in its variance", "2 negative variances"]
        }

    def test_a_variance_of_zero_is_a_dead_input_and_no_error(self) -> None:
        assert not found(with_bn(variance=0.0), "BN302")


class TestDead:
    def test_counts_zero_and_negligible_scales(self) -> None:
        finding = only(with_bn(gamma=np.float32([0, 1, 1e-9, -1])), "BN303")
        assert finding.values == {"dead": 2, "channels": 4}
        assert finding.message.startswith("2 of 4 channels of bn put out a constant, because")

    def test_small_is_not_dead(self) -> None:
        assert not found(with_bn(gamma=np.float32([1e-4, 1, 1, -1]), variance=1.0), "BN303")


class TestCollapsed:
    def test_counts_and_shows_the_smallest(self) -> None:
        finding = only(with_bn(variance=np.float32([1e-9, 1e-8, 1, 1]), epsilon=1e-3), "BN304")
        assert finding.severity is Severity.WARNING
        assert finding.message.startswith(
            "in 2 of 4 channels of bn the variance (as low as 1e-09) is so far below epsilon (0.001) that"
        )

    def test_near_epsilon_is_not_far_below(self) -> None:
        assert not found(with_bn(variance=np.float32([2e-4, 1, 1, 1]), epsilon=1e-3), "BN304")

    def test_dead_channels_do_not_count(self) -> None:
        parts = {"variance": np.float32([1e-9, 1, 1, 1]), "gamma": np.float32([0, 1, 1, 1])}
        assert not found(with_bn(epsilon=1e-3, **parts), "BN304")


class TestSpread:
    @staticmethod
    def model(gamma: list[float], weight: list[float]) -> ModelProto:
        """A 1 × 1 convolution whose output channels have the weights ``± weight``."""
        net = Net()
        kernel = np.float32(weight).reshape(-1, 1, 1, 1) * np.float32([1, -1, 0.5]).reshape(1, 3, 1, 1)
        x = net.op("Conv", net.start(), kernel, name="conv")
        plain = {"mean": np.zeros(4), "variance": np.ones(4), "epsilon": 1e-12}
        return net.build(net.act("relu", net.norm("bn", x, 4, gamma=np.float32(gamma), **plain)))

    def test_bits_before_and_after(self) -> None:
        finding = only(self.model([1, 1, 1, 64], [1, 2, 1, 1]), "BN305")
        assert finding.values == {"linear": "conv", "before": 1.0, "after": 6.0, "equalized": 6.0}
        assert finding.message.startswith(
            "folding bn spreads the weight ranges of conv over 6.0 bits (1.0 before), which int8"
        )

    def test_not_within_four_bits(self) -> None:
        assert not found(self.model([1, 1, 1, 16], [1, 1, 1, 1]), "BN305")
        assert found(self.model([1, 1, 1, 17], [1, 1, 1, 1]), "BN305")

    def test_not_where_folding_evens_them_out(self) -> None:
        assert not found(self.model([1, 1, 1, 1 / 8], [1, 1, 1, 1024]), "BN305")

    def test_a_dead_channel_has_no_range(self) -> None:
        assert not found(self.model([1, 1, 1, 0], [1, 1, 1, 1]), "BN305")

    def test_groups_are_told_apart(self) -> None:
        """Output channels of a grouped transposed convolution are counted within their group."""
        net = Net()
        weight = np.float32([[1], [1], [64], [64]]).reshape(4, 1, 1, 1) * np.ones((4, 2, 1, 1), np.float32)
        x = net.op("ConvTranspose", net.start(1, 4, 8, 8), weight, group=2, name="deconv")
        gamma = np.float32([64, 64, 1, 1])
        plain = {"mean": np.zeros(4), "variance": np.ones(4), "epsilon": 1e-12}
        assert not found(net.build(net.act("relu", net.norm("bn", x, 4, gamma=gamma, **plain))), "BN305")


class TestOverflow:
    @staticmethod
    def model(gamma: float) -> ModelProto:
        net = Net(dtype=np.float16)
        x = net.op("Conv", net.start(), np.full((4, 3, 3, 3), 200, np.float16), name="conv")
        plain = {"beta": np.zeros(4), "mean": np.zeros(4), "variance": np.ones(4)}
        return net.build(net.act("tanh", net.norm("bn", x, 4, gamma=np.full(4, gamma), **plain), "Tanh"))

    def test_fires_with_the_numbers(self) -> None:
        finding = only(self.model(1000.0), "BN306")
        assert (finding.layer, finding.severity) == ("bn", Severity.ERROR)
        assert finding.message.startswith("bn cannot be folded, because conv (Conv) ")
        assert "float16" in finding.message

    def test_not_within_range(self) -> None:
        assert not found(self.model(100.0), "BN306")


class TestHyperparameters:
    @pytest.mark.parametrize("epsilon", [1e-8, 0.2])
    def test_an_unusual_epsilon(self, epsilon: float) -> None:
        finding = only(with_bn(epsilon=epsilon), "BN307")
        assert finding.message == f"bn has an epsilon of {epsilon:g}; 1e-5 to 1e-3 is usual."

    @pytest.mark.parametrize("epsilon", [1e-5, 0.1, 1.0000000116860974e-07])
    def test_a_usual_epsilon(self, epsilon: float) -> None:
        assert not found(with_bn(epsilon=epsilon), "BN307")

    def test_onnx_does_not_train_so_its_momentum_means_nothing(self) -> None:
        assert not found(with_bn(momentum=0.1), "BN307")


def test_nothing_is_wrong_with_a_trained_bn() -> None:
    assert not [code for code in ("BN301", "BN302", "BN303", "BN304", "BN306", "BN307") if found(usual(), code)]


def test_no_channels_and_a_string_that_is_no_text_are_no_reason_to_stop() -> None:
    net = Net()
    empty = net.build(net.act("relu", net.norm("bn", net.input(1, 0, 4, 4), 0)))
    report = bnfold.analyze(empty, stats=True)
    assert [item.foldability.sentence() for item in report.batchnorms] == [
        "stays: bn (BatchNormalization) has no channels"
    ]
    net = Net()
    model = net.build(net.act("relu", net.norm("bn", net.conv("conv", net.start(), 3, 4, auto_pad="VALID"), 4)))
    (attribute,) = (a for node in model.graph.node for a in node.attribute if a.name == "auto_pad")
    attribute.s = b"\xff\xfe"
    assert bnfold.analyze(model).summary.batchnorms == 1
    assert bnfold.fix(model).changes == ()
    bnfold.fold(model)
