"""BN107 to BN109 on ONNX."""

from __future__ import annotations

import numpy as np
from onnx_nets import Net, usual
from rule_asserts import found, layers, only

from bnfold.analysis import Severity


class TestConsecutive:
    def test_fires_at_the_second(self) -> None:
        net = Net()
        x = net.norm("bn_2", net.norm("bn_1", net.conv("conv", net.start(), 3, 4), 4), 4)
        finding = only(net.build(net.act("relu", x)), "BN107")
        assert (finding.layer, finding.severity, finding.repair) == ("bn_2", Severity.WARNING, "fold")
        assert finding.message == (
            "bn_2 normalises what bn_1 has just normalised, and two BN in a row compute no more than one; remove one "
            "of them."
        )

    def test_through_a_reshape(self) -> None:
        net = Net()
        x = net.op("Flatten", net.norm("bn_1", net.op("GlobalAveragePool", net.start()), 3))
        assert layers(net.build(net.gemm("dense", net.norm("bn_2", x, 3), 3, 2)), "BN107") == ["bn_2"]

    def test_not_with_an_activation_between(self) -> None:
        net = Net()
        x = net.act("relu", net.norm("bn_1", net.conv("conv", net.start(), 3, 4), 4))
        assert not found(net.build(net.conv("next", net.norm("bn_2", x, 4), 4, 4)), "BN107")

    def test_not_on_two_branches_of_one_tensor(self) -> None:
        net = Net()
        x = net.conv("conv", net.start(), 3, 4)
        model = net.build(net.act("relu", net.norm("bn_1", x, 4)), net.act("tanh", net.norm("bn_2", x, 4), "Tanh"))
        assert not found(model, "BN107")


class TestLinearStack:
    def test_names_both_layers(self) -> None:
        net = Net()
        x = net.norm("bn", net.conv("conv_1", net.start(), 3, 4), 4)
        finding = only(net.build(net.conv("conv_2", x, 4, 8)), "BN108")
        assert finding.message == (
            "conv_1 and conv_2 are linear with only bn between them, so together they compute no more than one linear "
            "layer; put an activation behind bn unless the bottleneck is meant."
        )

    def test_a_bias_written_as_add_and_a_reshape_change_nothing(self) -> None:
        net = Net()
        x = net.op("Add", net.matmul("dense_1", net.start(2, 4), 4, 4), net.draw(4))
        x = net.op("Identity", net.norm("bn", x, 4))
        assert layers(net.build(net.gemm("dense_2", x, 4, 2)), "BN108") == ["bn"]

    def test_not_with_an_activation_on_either_side(self) -> None:
        assert not found(usual(), "BN108")
        net = Net()
        x = net.norm("bn", net.act("relu", net.conv("conv_1", net.start(), 3, 4)), 4)
        assert not found(net.build(net.conv("conv_2", x, 4, 8)), "BN108")

    def test_not_where_a_shortcut_reads_the_bn_too(self) -> None:
        net = Net()
        x = net.norm("bn", net.conv("conv_1", net.start(), 3, 4), 4)
        y = net.conv("conv_2", x, 4, 4, pads=[1] * 4)
        assert not found(net.build(net.act("relu", net.op("Add", x, y))), "BN108")


class TestShared:
    @staticmethod
    def siamese(*, share: bool = True, **parts: float) -> Net:
        net = Net()
        shared = [np.full(4, value, np.float32) for value in (1.3, 0.2, 0.1, 0.9)]
        names = [net.const(parts.get(key, value) * np.ones(4)) for key, value in zip("gbmv", shared, strict=True)]
        ends = []
        for i in (1, 2):
            x = net.gemm(f"dense_{i}", net.start(2, 4) if i == 1 else net.input(2, 4, name="y"), 4, 4)
            own = names if share else [net.const(np.full(4, value)) for value in shared]
            x = net.op("BatchNormalization", x, *own, name=f"bn_{i}")
            ends.append(net.act(f"relu_{i}", x))
        net.output(*ends)
        return net

    def test_fires_once_for_all_places(self) -> None:
        finding = only(self.siamese().build(), "BN109")
        assert (finding.layer, finding.severity) == ("bn_1 and bn_2", Severity.WARNING)
        assert finding.message == (
            "one BN serves 2 places (bn_1 and bn_2), so its mean and variance mix 2 distributions and fit none of "
            "them; give every place a BN of its own."
        )

    def test_not_with_parameters_of_their_own(self) -> None:
        assert not found(self.siamese(share=False).build(), "BN109")

    def test_untrained_ones_may_have_been_merged_by_the_exporter(self) -> None:
        untrained = self.siamese(g=1.0, b=0.0, m=0.0, v=1.0)
        assert not found(untrained.build(), "BN109")
