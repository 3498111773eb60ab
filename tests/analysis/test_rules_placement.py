"""BN101 to BN106 and BN110 on ONNX: each where it fires, where it must not, and the near miss between the two."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto
from onnx_nets import Net, usual
from rule_asserts import found, layers, only

from bnfold.analysis import Severity


def dense(*parts: str, drop: float = 0.5) -> ModelProto:
    """A multilayer perceptron in words, ``dense``, ``bn``, ``relu``, ``dropout``, …, numbered as they come."""
    net = Net()
    x = net.start("N", 4)
    for number, part in enumerate(parts, start=1):
        name = f"{part}_{number}"
        match part:
            case "dense":
                x = net.gemm(name, x, 4, 4)
            case "bn":
                x = net.norm(name, x, 4)
            case "dropout":
                x = net.op("Dropout", x, np.float32(drop), name=name)
            case _:
                x = net.act(name, x, part.capitalize())
    return net.build(x)


class TestAfterActivation:
    def test_fires_and_says_where_the_bn_goes(self) -> None:
        finding = only(dense("dense", "relu", "bn", "dense"), "BN101")
        assert (finding.layer, finding.severity) == ("bn_3", Severity.INFO)
        assert finding.message == (
            "bn_3 normalises the output of the nonlinearity relu_2, so it cannot fold into the layer before that; as "
            "the model stands, it folds forward into dense_4."
        )
        assert finding.repair == "fold"

    def test_says_where_it_stays(self) -> None:
        net = Net()
        x = net.norm("bn", net.act("relu", net.conv("conv", net.start(), 3, 4)), 4)
        finding = only(net.build(net.conv("next", x, 4, 4, pads=[1] * 4)), "BN101")
        assert finding.message.endswith("as the model stands, it stays after folding.")
        assert finding.repair == ""

    def test_not_before_the_activation(self) -> None:
        assert not found(dense("dense", "bn", "relu", "dense"), "BN101")

    def test_a_linear_layer_between_makes_it_another_bn(self) -> None:
        assert not found(dense("dense", "relu", "dense", "bn", "relu"), "BN101")

    def test_through_concatenated_branches_all_of_them_activated(self) -> None:
        net = Net()
        x = net.start()
        parts = [net.act(f"relu_{i}", net.conv(f"conv_{i}", x, 3, 4, 1)) for i in (1, 2)]
        model = net.build(net.conv("next", net.norm("bn", net.op("Concat", *parts, axis=1), 8), 8, 4))
        assert layers(model, "BN101") == ["bn"]

    def test_not_with_one_linear_branch(self) -> None:
        net = Net()
        x = net.start()
        parts = [net.act("relu_1", net.conv("conv_1", x, 3, 4, 1)), net.conv("conv_2", x, 3, 4, 1)]
        model = net.build(net.conv("next", net.norm("bn", net.op("Concat", *parts, axis=1), 8), 8, 4))
        assert not found(model, "BN101")


class TestBeforeOutput:
    @pytest.mark.parametrize("last", ["softmax", "sigmoid", "logsoftmax"])
    def test_before_the_last_activation(self, last: str) -> None:
        kind = {"logsoftmax": "LogSoftmax"}.get(last, last.capitalize())
        net = Net()
        x = net.norm("bn", net.gemm("dense", net.start(2, 4), 4, 4), 4)
        finding = only(net.build(net.act("last", x, kind)), "BN102")
        assert (finding.layer, finding.severity) == ("bn", Severity.WARNING)
        assert finding.message.startswith("bn stands directly before the last activation, last, where it ties")

    def test_before_the_output_itself(self) -> None:
        finding = only(dense("dense", "bn"), "BN102")
        assert finding.message.startswith("bn_2 stands directly before the model's output, where")

    def test_not_with_a_linear_layer_at_the_end(self) -> None:
        assert not found(dense("dense", "bn", "relu", "dense", "softmax"), "BN102")

    def test_a_sigmoid_in_the_middle_is_not_the_last(self) -> None:
        assert not found(dense("dense", "bn", "sigmoid", "dense", "softmax"), "BN102")

    def test_an_output_that_the_model_also_uses_is_a_tap(self) -> None:
        net = Net()
        x = net.norm("bn", net.gemm("dense", net.start(2, 4), 4, 4), 4)
        assert not found(net.build(x, net.gemm("dense_2", net.act("relu", x), 4, 2)), "BN102")


class TestDropout:
    def test_directly_before_is_a_warning(self) -> None:
        finding = only(dense("dense", "relu", "dropout", "bn", "dense"), "BN103")
        assert (finding.layer, finding.severity) == ("bn_4", Severity.WARNING)
        assert finding.message.startswith("bn_4 gets the output of dropout_3 with no linear layer between")

    def test_an_activation_between_changes_nothing(self) -> None:
        assert only(dense("dropout", "relu", "bn", "dense"), "BN103").severity is Severity.WARNING

    def test_behind_a_linear_layer_is_information(self) -> None:
        finding = only(dense("dropout", "dense", "bn", "dense"), "BN103")
        assert (finding.layer, finding.severity) == ("bn_3", Severity.INFO)
        assert finding.message.startswith("dropout_1 stands before bn_3, with a linear layer between")

    def test_another_bn_between_ends_it(self) -> None:
        assert layers(dense("dropout", "dense", "bn", "dense", "bn", "dense"), "BN103") == ["bn_3"]

    def test_not_behind_the_bn(self) -> None:
        assert not found(dense("dense", "bn", "relu", "dropout", "dense"), "BN103")

    def test_a_rate_of_zero_drops_nothing(self) -> None:
        assert not found(dense("dropout", "bn", "dense", drop=0.0), "BN103")

    def test_around_a_branch(self) -> None:
        net = Net()
        x = net.gemm("dense", net.start(2, 4), 4, 4)
        total = net.op("Add", x, net.op("Dropout", x, name="dropout"))
        finding = only(net.build(net.gemm("last", net.norm("bn", total, 4), 4, 4)), "BN103")
        assert finding.severity is Severity.WARNING


class TestMixed:
    def test_counts_both_and_names_the_minority(self) -> None:
        parts = ("dense", "bn", "relu", "dense", "bn", "relu", "dense", "relu", "bn", "dense")
        finding = only(dense(*parts), "BN104")
        assert finding.message == (
            "this model normalises before the activation in 2 places and after it in 1; unless that is meant, bring "
            "the minority, bn_9, into line with the rest."
        )
        assert finding.values == {"before": 2, "after": 1, "layers": ["bn_9"]}

    def test_the_minority_may_be_the_usual_order(self) -> None:
        parts = ("dense", "relu", "bn", "dense", "relu", "bn", "dense", "bn", "relu", "dense")
        assert only(dense(*parts), "BN104").layer == "bn_8"

    def test_one_against_one_has_no_minority(self) -> None:
        finding = only(dense("dense", "bn", "relu", "dense", "relu", "bn", "dense"), "BN104")
        assert (finding.layer, finding.values) == ("", {"before": 1, "after": 1, "layers": []})
        assert finding.message.endswith("unless that is meant, use one order throughout.")
        assert "minority" not in finding.message

    def test_not_with_one_order(self) -> None:
        assert not found(usual(), "BN104")

    def test_on_the_input_and_before_the_output_count_as_neither(self) -> None:
        assert not found(dense("bn", "dense", "relu", "bn", "dense", "bn", "softmax"), "BN104")


class TestOnInput:
    def test_fires_and_says_where_it_goes(self) -> None:
        finding = only(dense("bn", "dense", "relu"), "BN105")
        assert finding.message == (
            "bn_1 is the first layer and normalises the model's input; for inference it folds forward into dense_2."
        )

    def test_through_a_reshape(self) -> None:
        net = Net()
        x = net.op("Flatten", net.start(1, 2, 2))
        assert layers(net.build(net.gemm("dense", net.norm("bn", x, 4), 4, 4)), "BN105") == ["bn"]

    def test_not_behind_a_layer(self) -> None:
        assert not found(dense("dense", "bn", "relu"), "BN105")

    def test_not_behind_an_activation_of_the_input(self) -> None:
        assert not found(dense("relu", "bn", "dense"), "BN105")


class TestAxis:
    def test_a_matmul_over_the_last_axis_and_a_bn_over_the_middle_one(self) -> None:
        net = Net()
        x = net.norm("bn", net.matmul("dense", net.start(2, 4, 4), 4, 4), 4)
        finding = only(net.build(net.act("relu", x)), "BN106")
        assert (finding.layer, finding.severity) == ("bn", Severity.ERROR)
        assert finding.message == (
            "bn normalises axis 1, but dense has its channels on axis 2; build it with axis=2 and train again."
        )

    def test_not_with_the_axes_swapped_before_the_bn(self) -> None:
        net = Net()
        x = net.op("Transpose", net.matmul("dense", net.start(2, 4, 4), 4, 4), perm=[0, 2, 1])
        assert not found(net.build(net.act("relu", net.norm("bn", x, 4))), "BN106")

    def test_the_layer_behind_decides_on_the_input(self) -> None:
        net = Net()
        x = net.norm("bn", net.start(2, 4, 4), 4)
        assert only(net.build(net.matmul("dense", x, 4, 2)), "BN106").values == {"axis": 1, "expected": 2}

    def test_not_behind_a_convolution(self) -> None:
        assert not found(usual(), "BN106")

    def test_one_mean_a_row_before_a_flatten(self) -> None:
        net = Net()
        x = net.op("Flatten", net.norm("bn", net.start("N", 28, 28), 28), name="flatten")
        finding = only(net.build(net.gemm("dense", x, 784, 10)), "BN106")
        assert finding.message.startswith(
            "bn keeps 28 means for inputs of 28 × 28, one a row, because it stands before"
        )
        assert finding.message.endswith("to treat the 784 values apart.")

    def test_not_behind_the_flatten(self) -> None:
        net = Net()
        x = net.norm("bn", net.op("Flatten", net.start("N", 8, 8)), 64)
        assert not found(net.build(net.gemm("dense", x, 64, 10)), "BN106")

    def test_channels_before_a_flatten_are_channels(self) -> None:
        net = Net()
        x = net.norm("bn", net.conv("conv", net.start(1, 3, 8, 8), 3, 4), 4)
        assert not found(net.build(net.gemm("dense", net.op("Flatten", x), 144, 10)), "BN106")

    def test_an_image_with_channels_on_the_input(self) -> None:
        net = Net()
        x = net.op("Flatten", net.norm("bn", net.start(1, 3, 8, 8), 3))
        assert not found(net.build(net.gemm("dense", x, 192, 10)), "BN106")


class TestNoBatchNorm:
    def test_says_so_with_a_line_for_this_very_model(self) -> None:
        net = Net()
        x = net.act("relu", net.conv("conv", net.start(), 3, 4))
        finding = only(net.build(net.conv("last", x, 4, 2)), "BN110")
        assert (finding.severity, finding.layer) == (Severity.INFO, "")
        assert finding.values == {"line": "x = torch.nn.BatchNorm2d(4)(x)"}
        assert finding.message == (
            "no BatchNormalization in this model: a layer that was created counts only once it is added to the model, "
            "or called on a tensor that leads to an output; behind conv the line is `x = torch.nn.BatchNorm2d(4)(x)`."
        )

    def test_the_only_layer_will_do_and_without_one_there_is_no_line(self) -> None:
        net = Net()
        model = net.build(net.gemm("dense", net.start(2, 4), 4, 3))
        assert only(model, "BN110").values == {"line": "x = torch.nn.BatchNorm1d(3)(x)"}
        net = Net()
        finding = only(net.build(net.act("relu", net.start(2, 4))), "BN110")
        assert finding.values == {"line": ""}
        assert finding.message.endswith("leads to an output.")

    def test_not_with_a_bn_be_it_in_a_subgraph_or_taken_apart(self) -> None:
        assert not found(usual(), "BN110")
        net = Net()
        x = net.op("Mul", net.conv("conv", net.start(), 3, 4), net.draw(4, 1, 1))
        assert not found(net.build(net.op("Add", x, net.draw(4, 1, 1))), "BN110")

    def test_not_with_a_bn_in_a_subgraph(self) -> None:
        for kind, count in (("BatchNormalization", 0), ("Relu", 1)):
            net, then, other = Net(), Net(seed=1), Net(seed=2)
            outer = net.op("Relu", net.start())
            then.output(then.norm("bn", outer, 3) if not count else then.act("act", outer, kind), shape=None)
            other.output(other.op("Neg", outer), shape=None)
            flag = net.input(name="flag", dtype=bool)
            y = net.op("If", flag, then_branch=then.graph("a"), else_branch=other.graph("b"), name="if")
            assert len(found(net.build(y), "BN110")) == count
