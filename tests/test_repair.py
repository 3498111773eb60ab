"""``fix``: the model computes the same, trains the same, and what was wasteful is gone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import helpers
import numpy as np
import onnx
import pytest
from helpers import assert_close, constant, random_feeds, run
from onnx import ModelProto, helper

import bnfold
from bnfold.results import FixResult


def fixed(model: ModelProto, *expected: str) -> tuple[ModelProto, FixResult]:
    """Fix a model, assert that it computes the same and that these rules were repaired; what came out."""
    result = bnfold.fix(model)
    after = result.model.to_proto()  # type: ignore[attr-defined]
    onnx.checker.check_model(after, full_check=True)
    feeds = random_feeds(model)
    assert_close(run(model, feeds), run(after, feeds))
    assert sorted(change.code for change in result.changes) == sorted(expected)
    assert not {finding.code for finding in result.remaining} & set(expected)
    return after, result


def node(model: ModelProto, name: str) -> onnx.NodeProto:
    return next(item for item in model.graph.node if item.name == name)


class TestBias:
    def test_it_goes_into_the_moving_mean(self) -> None:
        net = helpers.Net()
        weight, bias, mean = net.draw(4, 3, 3, 3), net.draw(4), net.draw(4)
        x = net.op("Conv", net.input(1, 3, 8, 8), weight, net.const(bias, "bias"), name="conv")
        vectors = [net.positive(4), net.draw(4), net.const(mean, "mean"), net.positive(4)]
        x = net.op("BatchNormalization", x, *vectors, name="bn")
        model = net.build(net.op("Relu", x))
        after, result = fixed(model, "BN201")
        assert len(node(after, "conv").input) == 2
        np.testing.assert_array_equal(constant(after, "mean"), (mean.astype(np.float64) - bias).astype(np.float32))
        assert "bias" not in {tensor.name for tensor in after.graph.initializer}
        assert result.changes[0].sentence == "the bias of conv (4 parameters) went into the moving mean of bn"
        assert node(after, "conv").output[0] != node(model, "conv").output[0], "other values, another name"

    @pytest.mark.parametrize("kind", ["ConvTranspose", "Gemm", "Gemm with beta", "MatMul"])
    def test_every_linear_operator(self, kind: str) -> None:
        net = helpers.Net()
        if kind == "ConvTranspose":
            x = net.op(kind, net.input(1, 4, 8, 8), net.draw(4, 2, 3, 3), net.draw(4), group=2, name="layer")
        elif kind == "MatMul":
            x = net.op("Add", net.op(kind, net.input(2, 4), net.draw(4, 4), name="layer"), net.draw(4), name="bias")
        else:
            extra = {"beta": 0.5, "alpha": 2.0, "transB": 1} if "beta" in kind else {}
            x = net.op("Gemm", net.input(2, 4), net.draw(4, 4), net.draw(1, 4), name="layer", **extra)
        after, _ = fixed(net.build(net.op("Relu", net.bn(x, 4))), "BN201")
        assert len(node(after, "layer").input) == 2
        assert "bias" not in {item.name for item in after.graph.node}

    def test_a_gemm_that_has_to_have_a_bias_keeps_it(self) -> None:
        net = helpers.Net(opset=9)
        x = net.op("Gemm", net.input(2, 4), net.draw(4, 4), net.draw(4), name="gemm")
        after, result = fixed(net.build(net.op("Relu", net.bn(x, 4))))
        assert len(node(after, "gemm").input) == 3
        assert [finding.repair.value for finding in result.remaining if finding.code == "BN201"] == ["fold"]

    def test_a_mean_that_somebody_else_reads_is_copied(self) -> None:
        net = helpers.Net()
        mean = net.const(net.draw(4), "mean")
        vectors = [net.positive(4), net.draw(4)], net.positive(4)
        x = net.op("Conv", net.input(1, 3, 8, 8), net.draw(4, 3, 1, 1), net.draw(4), name="conv")
        x = net.op("BatchNormalization", x, *vectors[0], mean, vectors[1], name="bn")
        y = net.op("Reshape", mean, np.array([1, 4, 1, 1]))
        model = net.build(net.op("Mul", net.op("Relu", x), y))
        after, _ = fixed(model, "BN201")
        np.testing.assert_array_equal(constant(after, "mean"), constant(model, "mean"))
        assert node(after, "bn").input[3] == "mean_without_bias"

    def test_a_bias_that_another_layer_uses_stays_for_that_one(self) -> None:
        net = helpers.Net()
        bias = net.const(net.draw(4), "bias")
        x = net.input(1, 3, 8, 8)
        one = net.op("Conv", x, net.draw(4, 3, 1, 1), bias, name="conv_1")
        two = net.op("Conv", x, net.draw(4, 3, 1, 1), bias, name="conv_2")
        model = net.build(net.op("Add", net.op("Relu", net.bn(one, 4)), net.op("Relu", two)))
        fixed(model)


class TestIdentity:
    @staticmethod
    def identity(net: helpers.Net, x: str, channels: int) -> str:
        mean, variance = net.draw(channels), net.positive(channels)
        gamma = np.sqrt(variance.astype(np.float64) + 1e-5).astype(np.float32)
        return str(net.op("BatchNormalization", x, gamma, mean, mean, variance, name="nothing", epsilon=1e-5))

    def test_it_is_removed_and_nothing_else(self) -> None:
        net = helpers.Net()
        x = net.op("Conv", net.input(1, 3, 8, 8), net.draw(4, 3, 3, 3), name="conv")
        x = net.op("Relu", self.identity(net, x, 4))
        x = net.op("Conv", x, net.draw(4, 4, 3, 3), name="conv_2")
        after, result = fixed(net.build(net.op("Relu", net.bn(x, 4, name="bn"))), "BN204")
        assert [item.name for item in after.graph.node if item.op_type == "BatchNormalization"] == ["bn"]
        assert result.changes[0].sentence == "nothing was removed: it did nothing to its 4 channels"

    def test_at_the_output_the_names_stay(self) -> None:
        net = helpers.Net()
        x = net.op("Conv", net.input(1, 3, 8, 8), net.draw(4, 3, 3, 3), name="conv")
        model = net.build(self.identity(net, x, 4))
        after, _ = fixed(model, "BN204")
        assert [value.name for value in after.graph.output] == [value.name for value in model.graph.output]
        assert [item.op_type for item in after.graph.node] == ["Conv"]

    def test_it_goes_before_biases_do(self) -> None:
        net = helpers.Net()
        x = net.op("Conv", net.input(1, 3, 8, 8), net.draw(4, 3, 3, 3), net.draw(4), name="conv")
        after, _ = fixed(net.build(net.op("Relu", self.identity(net, x, 4))), "BN204")
        assert len(node(after, "conv").input) == 3, "the bias of a layer whose BN goes is its bias again"


class TestOverridable:
    @pytest.mark.parametrize(("ir_version", "expected"), [(3, ["BN201"]), (4, ["BN201", "BN403"])])
    def test_weights_leave_the_inputs(self, ir_version: int, expected: list[str]) -> None:
        """Before IR version 4 they had to be inputs, and nobody could override them."""
        net = helpers.Net(opset=8, ir_version=ir_version)
        x = net.op("Conv", net.input(1, 3, 8, 8, name="image"), net.draw(4, 3, 3, 3), net.draw(4), name="conv")
        model = net.build(net.op("Relu", net.bn(x, 4)))
        model.graph.input.extend(
            helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            for tensor in model.graph.initializer
        )
        after, result = fixed(model, *expected)
        if ir_version == 4:
            assert [value.name for value in after.graph.input] == ["image"]
            assert result.changes[0].sentence == "6 weights taken off the model's inputs"


@pytest.mark.keras
class TestKeras:
    @staticmethod
    def build(seed: int = 0) -> Any:
        import keras
        from keras import layers

        keras.utils.set_random_seed(seed)
        model = keras.Sequential(
            [
                keras.Input((8,)), layers.Dense(16, name="dense"), layers.BatchNormalization(name="bn"),
                layers.Activation("relu", name="relu"), layers.Dense(3, name="classes"),
            ]
        )  # fmt: skip
        rng = np.random.default_rng(seed)
        model.get_layer("dense").bias.assign(rng.normal(size=16))
        model.get_layer("bn").moving_mean.assign(rng.normal(size=16))
        model.get_layer("bn").moving_variance.assign(rng.uniform(0.5, 2, 16))
        return model

    def test_training_goes_on_as_it_would_have(self, tmp_path: Path) -> None:
        import keras

        model = self.build()
        result = bnfold.fix(model)
        assert [change.code for change in result.changes] == ["BN201"]
        result.model.save(tmp_path / "fixed.keras")
        repaired = keras.models.load_model(tmp_path / "fixed.keras")
        assert not repaired.get_layer("dense").use_bias
        rng = np.random.default_rng(1)
        x, y = rng.normal(size=(64, 8)).astype(np.float32), rng.integers(0, 3, 64)
        np.testing.assert_allclose(model.predict(x, verbose=0), repaired.predict(x, verbose=0), atol=1e-5)
        for one in (model, repaired):
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            one.compile(keras.optimizers.SGD(0.1), loss)
            one.fit(x, y, epochs=3, batch_size=16, shuffle=False, verbose=0)
        np.testing.assert_allclose(model.predict(x, verbose=0), repaired.predict(x, verbose=0), atol=1e-3)
        assert model.count_params() - repaired.count_params() == 16

    def test_a_layer_called_twice_loses_its_bias_for_both_calls(self) -> None:
        import keras
        from keras import layers

        a, b = keras.Input((8,), name="a"), keras.Input((8,), name="b")
        dense = layers.Dense(4, name="dense", bias_initializer="random_normal")
        outputs = [layers.BatchNormalization(name=f"bn_{i}")(dense(x)) for i, x in enumerate((a, b))]
        model = keras.Model([a, b], [layers.Activation("relu")(x) for x in outputs])
        result = bnfold.fix(model)
        assert [change.code for change in result.changes] == ["BN201"]
        rng = np.random.default_rng(0)
        feeds = [rng.normal(size=(5, 8)).astype(np.float32) for _ in range(2)]
        repaired = result.model.keras_model  # type: ignore[attr-defined]
        for old, new in zip(model.predict(feeds, verbose=0), repaired.predict(feeds, verbose=0), strict=True):
            np.testing.assert_allclose(old, new, atol=1e-5)
        assert not repaired.get_layer("dense").use_bias

    def test_the_bias_of_an_einsum_dense_goes(self) -> None:
        import keras
        from keras import layers

        x = keras.Input((7, 3))
        y = layers.EinsumDense("abc,cd->abd", (7, 5), bias_axes="d", bias_initializer="ones", name="dense")(x)
        model = keras.Model(x, layers.ReLU()(layers.BatchNormalization(name="bn")(y)))
        repaired = bnfold.fix(model).model.keras_model  # type: ignore[attr-defined]
        assert repaired.get_layer("dense").bias is None
        feed = np.random.default_rng(0).normal(size=(2, 7, 3)).astype(np.float32)
        np.testing.assert_allclose(model(feed), repaired(feed), atol=1e-5)

    def test_a_bn_that_does_nothing_goes(self) -> None:
        model = self.build()
        bn = model.get_layer("bn")
        mean, variance = np.asarray(bn.moving_mean), np.asarray(bn.moving_variance)
        bn.gamma.assign(np.sqrt(variance + bn.epsilon))
        bn.beta.assign(mean)
        result = bnfold.fix(model)
        assert [change.code for change in result.changes] == ["BN204"]
        repaired = result.model.keras_model  # type: ignore[attr-defined]
        assert [layer.name for layer in repaired.layers] == ["dense", "relu", "classes"]
        x = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
        np.testing.assert_allclose(model.predict(x, verbose=0), repaired.predict(x, verbose=0), atol=1e-5)
