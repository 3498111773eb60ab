"""BN401 to BN406 and BN408 on ONNX."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, helper
from onnx_nets import Net, usual
from rule_asserts import found, layers, only

import bnfold
from bnfold.analysis import Severity


class TestTrainingMode:
    def test_the_attribute(self) -> None:
        net = Net()
        names = [net.const(net.positive(4)) for _ in range(4)]
        x = net.conv("conv", net.start(), 3, 4)
        y, _, _ = net.op("BatchNormalization", x, *names, outputs=3, name="bn", training_mode=1)
        finding = only(net.build(net.act("relu", y)), "BN401")
        assert (finding.layer, finding.severity) == ("bn", Severity.ERROR)
        assert finding.message.startswith("bn is in training mode: it normalises with the statistics of each batch")

    def test_statistics_that_are_read_in_an_old_opset(self) -> None:
        net = Net(opset=9)
        names = [net.const(net.positive(4)) for _ in range(4)]
        outputs = net.op("BatchNormalization", net.conv("conv", net.start(), 3, 4), *names, outputs=5, name="bn")
        net.output(outputs[1], shape=[4])
        assert layers(net.build(net.act("relu", outputs[0])), "BN401") == ["bn"]

    def test_not_where_a_constant_is_the_batch(self) -> None:
        """Standardised weights: what is normalised is no parameter of the BN."""
        net = Net()
        names = [net.const(net.positive(4)) for _ in range(4)]
        weight = net.const(net.draw(9, 4, 5))
        y, _, _ = net.op("BatchNormalization", weight, *names, outputs=3, name="bn", training_mode=1)
        report = bnfold.analyze(net.build(net.op("Conv", net.input("N", 4, 8, name="x"), y)))
        assert "BN401" not in {finding.code for finding in report.findings}
        assert report.summary.parameters_in_batchnorm == 16

    def test_not_at_inference(self) -> None:
        assert not found(usual(), "BN401")

    def test_it_is_not_reported_as_unfoldable_too(self) -> None:
        net = Net()
        names = [net.const(net.positive(3)) for _ in range(4)]
        y, _, _ = net.op("BatchNormalization", net.start(), *names, outputs=3, name="bn", training_mode=1)
        model = net.build(net.act("relu", y))
        assert not found(model, "BN402")
        (item,) = bnfold.analyze(model).batchnorms
        assert not item.foldability.folds
        assert "training mode" in item.foldability.sentence()


class TestUnfoldable:
    @staticmethod
    def dense_block() -> ModelProto:
        net = Net()
        x = net.start(1, 4, 8, 8)
        joined = net.op("Concat", x, net.conv("conv_1", net.act("relu_0", x), 4, 4, 1), axis=1, name="concat")
        y = net.conv("conv_2", net.act("relu", net.norm("bn", joined, 8)), 8, 4, 1)
        return net.build(net.op("Concat", joined, y, axis=1, name="concat_2"))

    def test_names_what_stands_in_the_way_on_both_sides(self) -> None:
        finding = only(self.dense_block(), "BN402")
        assert (finding.layer, finding.severity) == ("bn", Severity.INFO)
        assert finding.message == (
            "bn stays after folding: backward, the output of concat (Concat) is also seen by concat_2; forward, relu "
            "(Relu) is nonlinear, so no shift passes; with its stream, bn wants another shift of concat_4_out, "
            "but concat_13_out is the model's output and relu (Relu) lets no shift through."
        )
        assert finding.values["together"]["of"] == "shift"
        assert finding.values["backward"]["code"] == "observed"
        assert finding.values["forward"]["code"] == "nonlinear"

    def test_not_where_it_folds(self) -> None:
        assert not found(usual(), "BN402")

    def test_one_branch_stands_in_the_way_of_the_others(self) -> None:
        """conv could take its channels; the reason names what makes that useless."""
        net = Net()
        x = net.start()
        branches = net.conv("conv", x, 3, 4), net.act("relu", net.conv("other", x, 3, 4))
        y = net.norm("bn", net.op("Concat", *branches, axis=1, name="concat"), 8)
        finding = only(net.build(net.act("last", y)), "BN402")
        assert finding.values["backward"]["sentence"] == (
            "relu (Relu) is nonlinear, so no shift passes, and every input of concat (Concat) has to take its part"
        )

    def test_a_branch_that_needs_nothing_is_not_named(self) -> None:
        net = Net()
        x = net.start()
        branches = net.conv("conv", x, 3, 4), net.act("relu", net.conv("other", x, 3, 4))
        joined = net.op("Concat", *branches, axis=1, name="concat")
        part = net.op("Slice", joined, *(net.const([at], dtype="i8") for at in (4, 8, 1)), name="slice")
        finding = only(net.build(net.act("last", net.norm("bn", part, 4))), "BN402")
        assert finding.values["backward"]["sentence"] == "relu (Relu) is nonlinear, so no shift passes"

    def test_what_is_composed_into_another_does_not_stay(self) -> None:
        net = Net()
        x = net.act("relu", net.conv("conv", net.start(), 3, 8))
        for i in (1, 2, 3):
            x = net.norm(f"bn_{i}", x, 8)
        model = net.build(net.act("last", x))
        left = bnfold.fold(model)
        report = bnfold.analyze(model)
        stay = [item.name for item in report.batchnorms if not item.foldability.folds]
        assert stay == layers(model, "BN402")
        assert len(stay) == left.summary.after.batchnorms == 1
        assert report.summary.foldable == left.summary.before.batchnorms - left.summary.after.batchnorms == 2
        gone = next(item.foldability for item in report.batchnorms if item.foldability.folds)
        assert gone.clause() == f"is taken into {stay[0]}, which stays"
        assert "relu (Relu) is nonlinear" in gone.sentence()

    def test_what_stays_under_the_name_of_a_bn_is_told_by_its_type(self) -> None:
        net = Net()
        x = net.conv("conv", net.start(), 3, 4)
        net.output(x)
        ones = np.ones(4, np.float32)
        y = net.op("BatchNormalization", x, 2 * ones, 0 * ones, 0 * ones, ones, name="bn", epsilon=0.0)
        (left,) = bnfold.analyze(net.build(net.act("last", y))).batchnorms
        assert left.foldability.clause() == "becomes bn (Mul), which stays"
        assert left.foldability.to_dict()["into"] == ["bn"]


class TestOverridable:
    @staticmethod
    def model(*, listed: bool) -> ModelProto:
        model = usual()
        if listed:
            known = {value.name for value in model.graph.input}
            model.graph.input.extend(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
                for tensor in model.graph.initializer
                if tensor.name not in known
            )
        return model

    def test_fires_once_for_the_model(self) -> None:
        model = self.model(listed=True)
        finding = only(model, "BN403")
        count = len(model.graph.initializer)
        assert (finding.layer, finding.severity, finding.repair) == ("", Severity.WARNING, "fix")
        assert finding.values["constants"] == count
        assert finding.message.startswith(f"{count} weights are also inputs of the model, such as ")

    def test_not_for_plain_initializers(self) -> None:
        assert not found(self.model(listed=False), "BN403")


class TestDecomposed:
    @staticmethod
    def model(*operators: str, bias: bool = False) -> ModelProto:
        net = Net()
        x = net.matmul("dense", net.start(2, 4), 4, 4)
        x = net.op("Add", x, net.draw(4), name="bias") if bias else x
        for kind in operators:
            x = net.op(kind, x, net.positive(4), name=kind.lower())
        return net.build(net.act("relu", x))

    @pytest.mark.parametrize("operators", [("Mul", "Add"), ("Sub", "Div", "Mul", "Add"), ("Sub", "Mul", "Add")])
    def test_fires(self, operators: tuple[str, ...]) -> None:
        finding = only(self.model(*operators, bias=True), "BN404")
        assert finding.severity is Severity.INFO
        assert finding.layer == " + ".join(kind.lower() for kind in operators)
        assert finding.values == {"operators": [kind.lower() for kind in operators], "channels": 4}
        assert finding.message.endswith("bnfold treats them as one, and it folds backward into dense.")

    def test_it_is_counted_and_placed_like_a_bn(self) -> None:
        report = bnfold.analyze(self.model("Mul", "Add", bias=True))
        (item,) = report.batchnorms
        assert (item.name, item.type, item.channels, item.decomposed) == ("mul + add", "Mul + Add", 4, True)
        assert (item.placement.value, item.pattern) == ("before activation", "MatMul → Add → BN → Relu")
        assert report.summary.parameters_in_batchnorm == 8

    @pytest.mark.parametrize("operators", [(), ("Mul",), ("Add",), ("Mul", "Mul")])
    def test_not_for_a_bias_or_a_scale_alone(self, operators: tuple[str, ...]) -> None:
        assert not found(self.model(*operators, bias=True), "BN404")

    def test_not_for_one_number_for_all_channels(self) -> None:
        net = Net()
        x = net.op("Add", net.op("Mul", net.matmul("dense", net.start(2, 4), 4, 4), 2.0), 1.0)
        assert not found(net.build(net.act("relu", x)), "BN404")

    def test_not_for_the_scale_and_shift_of_a_layer_normalisation(self) -> None:
        net = Net()
        x = net.matmul("dense", net.start(2, 4), 4, 4)
        centred = net.op("Sub", x, net.op("ReduceMean", x, axes=[1]))
        variance = net.op("ReduceMean", net.op("Mul", centred, centred), axes=[1])
        normal = net.op("Div", centred, net.op("Sqrt", net.op("Add", variance, 1e-5)))
        x = net.op("Add", net.op("Mul", normal, net.positive(4)), net.draw(4))
        assert not found(net.build(net.act("relu", x)), "BN404")

    def test_not_for_that_of_an_instance_normalisation(self) -> None:
        net = Net()
        x = net.op("InstanceNormalization", net.start(), np.ones(3, np.float32), np.zeros(3, np.float32))
        x = net.op("Add", net.op("Mul", x, net.positive(3, 1, 1)), net.draw(3, 1, 1))
        assert not found(net.build(net.act("relu", x)), "BN404")

    def test_not_for_a_map_of_positions(self) -> None:
        """A vector along the last axis of an image is one number a column, not a channel."""
        net = Net()
        x = net.conv("conv", net.start(), 3, 6)
        assert net.build(x).graph.output[0].type.tensor_type.shape.dim[3].dim_value == 6
        x = net.op("Add", net.op("Mul", x, net.positive(6)), net.draw(6))
        assert not found(net.build(net.act("relu", x)), "BN404")


class TestBranches:
    @staticmethod
    def block(*, between: bool = False) -> ModelProto:
        net = Net()
        x = net.act("relu_0", net.conv("stem", net.start(), 3, 4))
        wide = net.norm("bn_3", net.conv("conv_3x3", x, 4, 4, pads=[1] * 4), 4)
        wide = net.act("relu_1", wide) if between else wide
        narrow = net.norm("bn_1", net.conv("conv_1x1", x, 4, 4, 1), 4)
        total = net.op("Add", net.op("Add", wide, narrow), net.norm("bn_0", x, 4))
        return net.build(net.act("relu", total))

    def test_names_the_branches(self) -> None:
        finding = only(self.block(), "BN405")
        assert (finding.severity, finding.repair) == (Severity.INFO, "fold")
        assert set(finding.values["branches"]) == {"conv_3x3", "conv_1x1", "bn_0"}
        assert finding.values["into"] == ["conv_3x3"]
        assert finding.message.endswith(
            "are parallel linear branches that one convolution can compute; `bnfold fold` merges them into conv_3x3."
        )

    def test_an_activation_keeps_its_branch_apart(self) -> None:
        assert all("conv_3x3" not in finding.values["branches"] for finding in found(self.block(between=True), "BN405"))

    def test_not_in_a_plain_network(self) -> None:
        assert not found(usual(), "BN405")


class TestDynamic:
    def test_a_parameter_that_is_an_input(self) -> None:
        net = Net()
        gamma = net.input(4, name="gamma")
        others = [net.const(net.positive(4)) for _ in range(3)]
        x = net.op("BatchNormalization", net.conv("conv", net.start(), 3, 4), gamma, *others, name="bn")
        finding = only(net.build(net.act("relu", x)), "BN406")
        assert (finding.layer, finding.severity) == ("bn", Severity.INFO)
        assert finding.message.startswith(
            "bn (BatchNormalization) has a parameter (gamma) that is computed at run time"
        )

    def test_one_computed_from_constants_is_a_constant(self) -> None:
        net = Net()
        gamma = net.op("Add", net.const(net.positive(4)), net.const(net.positive(4)))
        others = [net.const(net.positive(4)) for _ in range(3)]
        x = net.op("BatchNormalization", net.conv("conv", net.start(), 3, 4), gamma, *others, name="bn")
        assert not found(net.build(net.act("relu", x)), "BN406")


class TestQuantizedBeforeFolding:
    @staticmethod
    def rounded(net: Net, x: str, zero: object = np.int8(3)) -> str:
        x = net.op("QuantizeLinear", x, np.float32(0.05), zero)
        return str(net.op("DequantizeLinear", x, np.float32(0.05), zero, name="dequantize"))

    @staticmethod
    def behind(net: Net, x: str) -> ModelProto:
        """A BN, its activation, and a classifier."""
        x = net.op("GlobalAveragePool", net.act("relu", net.norm("bn", x, 4)))
        return net.build(net.gemm("classes", net.op("Flatten", x), 4, 2, bias=True))

    @pytest.mark.parametrize("bias", [False, True])
    def test_a_rounding_between_the_layer_and_its_bn(self, bias: bool) -> None:
        net = Net()
        model = self.behind(net, self.rounded(net, net.conv("conv", net.start(), 3, 4, bias=bias)))
        finding = only(model, "BN408")
        assert (finding.layer, finding.severity, finding.values) == ("bn", Severity.WARNING, {"into": "conv"})
        assert finding.message == (
            "bn was not folded into conv before the model was quantised, and now it cannot be; fold the float model "
            "(`bnfold fold`), and quantise what that writes."
        )
        assert not found(model, "BN202")
        assert bnfold.analyze(model).batchnorms[0].placement.value == "before activation"

    @pytest.mark.parametrize("zero", [np.int8(-128), np.uint8(0)])
    def test_not_where_the_rounding_is_a_relu_too(self, zero: object) -> None:
        net = Net()
        model = self.behind(net, self.rounded(net, net.conv("conv", net.start(), 3, 4, bias=True), zero))
        assert not found(model, "BN408")
        assert bnfold.analyze(model).batchnorms[0].placement.value == "after activation"

    def test_not_where_somebody_else_sees_what_the_layer_puts_out(self) -> None:
        net = Net()
        x = self.rounded(net, net.conv("conv", net.start(), 3, 4))
        net.output(net.act("tanh", x, "Tanh"), shape=[1, 4, 6, 6])
        assert not found(self.behind(net, x), "BN408")

    def test_not_behind_an_activation_or_a_residual_sum(self) -> None:
        net = Net()
        x = net.start(1, 4, 8, 8)
        assert not found(self.behind(net, self.rounded(net, net.act("act", net.conv("conv", x, 4, 4)))), "BN408")
        net = Net()
        x = net.act("stem", net.start(1, 4, 8, 8))
        total = net.op("Add", net.conv("conv", x, 4, 4, pads=[1] * 4), net.op("Identity", x))
        assert not found(self.behind(net, self.rounded(net, total)), "BN408")

    def test_not_where_the_weights_alone_are_integers(self) -> None:
        """That BN folds, into the scale of the weights."""
        net = Net()
        weight = net.const(net.rng.integers(-9, 9, (4, 3, 3, 3)), dtype=np.int8)
        weight = net.op("DequantizeLinear", weight, np.float32(0.1), np.int8(0))
        model = self.behind(net, net.op("Conv", net.start(), weight, name="conv"))
        assert not found(model, "BN408")
        assert bnfold.analyze(model).batchnorms[0].foldability.folds

    def test_layers_in_integers(self) -> None:
        net = Net()
        scale, zero = np.float32(0.05), np.uint8(100)
        x = net.op("QuantizeLinear", net.start(), scale, zero)
        weight = net.const(net.rng.integers(-9, 9, (4, 3, 3, 3)), dtype=np.int8)
        x = net.op("QLinearConv", x, scale, zero, weight, scale, np.int8(0), scale, zero, name="quantised")
        finding = only(self.behind(net, net.op("DequantizeLinear", x, scale, zero)), "BN408")
        assert finding.values == {"into": "quantised"}

    @pytest.mark.parametrize(("gated", "findings"), [(False, 1), (True, 0)])
    def test_dynamic_quantisation(self, gated: bool, findings: int) -> None:
        net = Net()
        x, scale, zero = net.op("DynamicQuantizeLinear", net.start(), outputs=3)
        weight = net.const(net.rng.integers(-9, 9, (4, 3, 3, 3)), dtype=np.int8)
        x = net.op("Cast", net.op("ConvInteger", x, weight, zero, name="integer"), to=1)
        x = net.op("Mul", x, net.op("Mul", scale, np.float32(0.1)))
        x = net.op("Mul", x, net.op("GlobalAveragePool", net.input(1, 4, 6, 6, name="gate"))) if gated else x
        assert len(found(self.behind(net, net.op("Add", x, net.draw(1, 4, 1, 1))), "BN408")) == findings

    def test_not_in_a_float_model(self) -> None:
        assert not found(usual(), "BN408")
