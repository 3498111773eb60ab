"""The rules on Keras models: the catalogue's table of models that must read right, and what only Keras can say."""

from __future__ import annotations

from collections import Counter
from typing import Any

import keras
import numpy as np
import pytest
from keras import Sequential, layers
from rule_asserts import codes, found, only
from rule_asserts import layers as layers_of

import bnfold
from bnfold.analysis import Report, Severity

Dense, BN, Act = layers.Dense, layers.BatchNormalization, layers.Activation


def trained(model: keras.Model) -> keras.Model:
    """Give BN statistics as a training leaves them."""
    rng = np.random.default_rng(0)
    for layer in model._flatten_layers(include_self=False):
        if isinstance(layer, BN):
            for variable in layer.weights:
                low, high = (0.5, 1.5) if "gamma" in variable.path or "variance" in variable.path else (-0.5, 0.5)
                variable.assign(rng.uniform(low, high, variable.shape))
    return model


def sequential(*parts: Any) -> keras.Model:
    return trained(Sequential(list(parts)))


def counts(report: Report, *wanted: str) -> dict[str, int]:
    """How often the rules in ``wanted`` fired (all, if none is named)."""
    seen = Counter(finding.code for finding in report.findings)
    return {code: seen[code] for code in wanted} if wanted else dict(seen)


def directions(report: Report) -> list[str]:
    return [item.foldability.direction for item in report.batchnorms]


class TestTable:
    """One test a row."""

    def test_a_bn_that_was_never_added(self) -> None:
        BN()  # created, and then forgotten
        model = sequential(
            keras.Input((14,)), Dense(64, activation="tanh"), layers.Dropout(0.5),
            Dense(64, activation="tanh"), layers.Dropout(0.5), Dense(2, activation="softmax"),
        )  # fmt: skip
        report = bnfold.analyze(model)
        assert report.batchnorms == ()
        (finding,) = report.findings
        assert (finding.code, finding.layer) == ("BN110", "")
        namespace = {"keras": keras, "model": model}
        exec(finding.values["line"], namespace)
        assert namespace["x"].shape == (None, 64)
        assert f"`{finding.values['line']}`" in finding.message

    def test_bn_between_every_dense_and_its_activation(self) -> None:
        model = sequential(
            keras.Input((14,)),
            Dense(64), BN(), Act("tanh"), layers.Dropout(0.5),
            Dense(64), BN(), Act("tanh"), layers.Dropout(0.5),
            Dense(2), BN(), Act("softmax"),
        )  # fmt: skip
        report = bnfold.analyze(model)
        assert counts(report) == {"BN201": 3, "BN102": 1, "BN103": 2}
        assert [finding.values["parameters"] for finding in found(model, "BN201")] == [64, 64, 2]
        assert {finding.severity for finding in found(model, "BN103")} == {Severity.INFO}
        assert directions(report) == ["backward"] * 3

    @pytest.mark.parametrize(
        "parts",
        [
            (keras.Input((16,)), Dense(64, use_bias=False), BN(), Act("tanh")),
            (keras.Input((8, 8, 3)), layers.Conv2D(64, 3, use_bias=False), BN(), Act("relu")),
        ],
        ids=["dense", "conv"],
    )
    def test_as_it_should_be(self, parts: Any) -> None:
        assert codes(sequential(*parts)) == []

    @pytest.mark.parametrize("fused", [True, False])
    @pytest.mark.parametrize("padding", ["valid", "same"])
    def test_a_block_of_convolution_relu_bn_three_times(self, fused: bool, padding: str) -> None:
        parts: list[Any] = [keras.Input((16, 16, 3))]
        for number in range(3):
            activation = {"activation": "relu"} if fused else {}
            parts.append(layers.Conv2D(8, 3, padding=padding, **activation, name=f"conv_{number}"))
            parts += [] if fused else [Act("relu")]
            parts.append(BN(name=f"bn_{number}"))
        model = sequential(*parts)
        assert layers_of(model, "BN101") == ["bn_0", "bn_1", "bn_2"]
        expected = {"valid": ["forward", "forward", "stays"], "same": ["stays"] * 3}
        assert directions(bnfold.analyze(model)) == expected[padding]

    def test_a_padded_block_folds_forward_where_the_shift_is_zero(self) -> None:
        model = sequential(
            keras.Input((16, 16, 3)),
            layers.Conv2D(8, 3, padding="same", activation="relu"), BN(center=False),
            layers.Conv2D(8, 3, padding="same", activation="relu"),
        )  # fmt: skip
        bn = model.layers[1]
        bn.moving_mean.assign(np.zeros(8))
        assert directions(bnfold.analyze(model)) == ["backward"], "a positive scale passes the relu"
        bn.gamma.assign(-np.asarray(bn.gamma))
        assert directions(bnfold.analyze(model)) == ["forward"]

    def test_bn_after_the_activation_and_on_the_input(self) -> None:
        model = sequential(
            keras.Input((28, 28)), layers.Flatten(), BN(),
            Dense(300, activation="elu"), BN(), Dense(100, activation="elu"), BN(), Dense(10, activation="softmax"),
        )  # fmt: skip
        report = bnfold.analyze(model)
        summary = report.summary
        assert (summary.parameters, summary.trainable, summary.non_trainable) == (271_346, 268_978, 2_368)
        assert counts(report, "BN105", "BN101", "BN104") == {"BN105": 1, "BN101": 2, "BN104": 0}
        assert not [finding for finding in report.findings if finding.severity is not Severity.INFO]
        assert directions(report) == ["forward"] * 3
        assert bnfold.fold(model).summary.after.batchnorms == 0

    def test_a_bias_dropped_where_the_bn_comes_later(self) -> None:
        model = sequential(
            keras.Input((28, 28)), layers.Flatten(), BN(),
            Dense(300, use_bias=False), BN(), Act("elu"),
            Dense(100, use_bias=False, name="second"), Act("elu"), BN(), Dense(10, activation="softmax"),
        )  # fmt: skip
        report = bnfold.analyze(model)
        assert counts(report, "BN104", "BN202", "BN201") == {"BN104": 1, "BN202": 1, "BN201": 0}
        finding = only(model, "BN202")
        assert finding.layer == "second"
        assert "(use_bias=True)" in finding.message

    def test_one_mean_a_column(self) -> None:
        model = sequential(
            keras.Input((28, 28)), BN(name="bn"), layers.Flatten(name="flatten"), Dense(10, activation="softmax")
        )
        finding = only(model, "BN106")
        assert finding.message == (
            "bn keeps 28 means for inputs of 28 × 28, one a column, because it stands before flatten; put it behind "
            "flatten (or, in older Keras, pass axis=[1, 2]) to treat the 784 values apart."
        )

    @pytest.mark.parametrize(("axis", "expected"), [(1, []), (-1, ["BN106"])])
    def test_channels_first(self, axis: int, expected: list[str]) -> None:
        model = sequential(
            keras.Input((3, 100, 100)),
            layers.Conv2D(32, 3, data_format="channels_first", use_bias=False, name="conv"), BN(axis=axis, name="bn"),
            Act("relu"), layers.Flatten(), Dense(100, use_bias=False), BN(), Act("relu"),
        )  # fmt: skip
        assert codes(model, least=Severity.WARNING) == expected
        if expected:
            assert only(model, "BN106").message.startswith("bn normalises axis 3, but conv has its channels on axis 1")
        else:
            assert codes(model) == []

    def test_a_bias_inside_the_relu_is_not_redundant(self) -> None:
        model = sequential(keras.Input((16,)), Dense(100, activation="relu"), BN())
        assert counts(bnfold.analyze(model), "BN101", "BN201") == {"BN101": 1, "BN201": 0}

    def test_a_deep_network_with_an_identity_bn_set_by_hand(self) -> None:
        model = sequential(
            keras.Input((784,)), Dense(32), BN(), Act("relu"), Dense(32), BN(name="by_hand"), Act("relu"), Dense(10)
        )
        assert counts(bnfold.analyze(model), "BN201", "BN204") == {"BN201": 2, "BN204": 0}
        bn = model.get_layer("by_hand")
        gamma, beta, mean, variance = bn.get_weights()
        bn.set_weights([np.sqrt(variance + bn.epsilon), mean, mean, variance])
        assert layers_of(model, "BN204") == ["by_hand"]
        assert not np.array_equal(gamma, beta)


class TestKerasOnly:
    def test_a_layer_called_twice_is_shared(self) -> None:
        a, b = keras.Input((8,), name="a"), keras.Input((8,), name="b")
        bn, dense = BN(name="bn"), Dense(8, name="dense", use_bias=False)
        model = trained(keras.Model([a, b], [Act("relu")(bn(dense(a))), Act("relu")(bn(dense(b)))]))
        finding = only(model, "BN109")
        assert finding.values["count"] == 2
        assert finding.message.startswith("one BN serves 2 places (bn and bn (call 2)), so its mean and variance mix")

    def test_a_shared_dense_with_a_bn_of_its_own_behind_each_call(self) -> None:
        a, b = keras.Input((8,), name="a"), keras.Input((8,), name="b")
        dense = Dense(8, name="dense")
        outputs = [Act("relu")(BN(name=f"bn_{i}")(dense(x))) for i, x in enumerate((a, b))]
        assert layers_of(trained(keras.Model([a, b], outputs)), "BN201") == ["dense"]

    def test_a_shared_dense_without_a_bn_behind_one_call(self) -> None:
        a, b = keras.Input((8,), name="a"), keras.Input((8,), name="b")
        dense = Dense(8, name="dense")
        outputs = [Act("relu")(BN()(dense(a))), Act("relu")(dense(b))]
        assert not found(trained(keras.Model([a, b], outputs)), "BN201")

    @pytest.mark.parametrize(
        ("momentum", "fires"), [(0.1, True), (1.0, True), (0.49, True), (0.5, False), (0.99, False)]
    )
    def test_momentum(self, momentum: float, fires: bool) -> None:
        model = sequential(keras.Input((8,)), Dense(8, use_bias=False), BN(momentum=momentum, name="bn"), Act("relu"))
        messages = [finding.message for finding in found(model, "BN307")]
        assert bool(messages) is fires
        assert not fires or messages[0].startswith(
            f"bn has a momentum of {momentum:g}, the part of the moving statistics"
        )

    def test_scale_false_has_no_scale_to_leave_out(self) -> None:
        parts = (keras.Input((8,)), Dense(8, use_bias=False))
        assert found(sequential(*parts, BN(), Act("relu"), Dense(4)), "BN203")
        assert not found(sequential(*parts, BN(scale=False), Act("relu"), Dense(4)), "BN203")

    def test_a_call_in_training_mode(self) -> None:
        x = keras.Input((8,))
        y = Act("relu")(BN(name="bn")(Dense(8, use_bias=False)(x), training=True))
        assert layers_of(trained(keras.Model(x, y)), "BN401") == ["bn"]

    def test_dropout_layers_of_every_kind(self) -> None:
        for drop in (layers.SpatialDropout2D(0.2, name="drop"), layers.GaussianDropout(0.2, name="drop")):
            model = sequential(keras.Input((8, 8, 3)), layers.Conv2D(4, 3), drop, BN(), Act("relu"))
            assert only(model, "BN103").severity is Severity.WARNING

    def test_names_are_the_users_in_nested_models(self) -> None:
        backbone = sequential(keras.Input((8, 8, 3)), layers.Conv2D(4, 3, name="conv"), BN(name="bn"), Act("relu"))
        backbone.name = "backbone"
        model = sequential(keras.Input((8, 8, 3)), backbone, layers.Flatten(), Dense(2, name="classes"))
        finding = only(model, "BN201")
        assert (finding.layer, finding.values["batchnorm"]) == ("backbone/conv", "backbone/bn")

    def test_a_frozen_backbone_shows_in_the_account(self) -> None:
        model = sequential(keras.Input((8,)), Dense(8), BN(), Act("relu"), Dense(2))
        model.layers[0].trainable = False
        summary = bnfold.analyze(model).summary
        frozen = 8 * 8 + 8 + 2 * 8
        assert (summary.parameters, summary.non_trainable) == (model.count_params(), frozen)

    def test_a_normalization_layer_on_the_input_is_no_bn(self) -> None:
        norm = layers.Normalization(mean=[1.0] * 8, variance=[2.0] * 8)
        model = sequential(keras.Input((8,)), norm, Dense(8, use_bias=False), BN(), Act("relu"))
        assert codes(model) == []
        assert len(bnfold.analyze(model).batchnorms) == 1


def test_the_line_that_adds_a_bn_fits_nested_and_channels_first_models() -> None:
    inner = keras.Sequential([keras.Input((3, 8, 8)), layers.Conv2D(4, 3, data_format="channels_first", name="conv")])
    inner.name = "inner"
    model = sequential(keras.Input((3, 8, 8)), inner, layers.Flatten(), Dense(2))
    (finding,) = bnfold.analyze(model, select=["BN110"]).findings
    namespace = {"keras": keras, "model": model}
    exec(finding.values["line"], namespace)
    assert finding.values["line"].startswith("x = keras.layers.BatchNormalization(axis=1)(")
    assert namespace["x"].shape == (None, 4, 6, 6)


class Block(layers.Layer):
    """A linear layer and a BN, called in code."""

    def __init__(self, norm: bool = True) -> None:
        super().__init__(name="block")
        self.dense = Dense(4)
        self.norm = BN() if norm else layers.LayerNormalization()

    def call(self, x):
        return self.norm(self.dense(x))


def test_bn_inside_of_a_layer_is_told_and_not_taken_for_none():
    report = bnfold.analyze(sequential(keras.Input((3, 4)), Block(), Dense(2)), select=["BN110", "BN407"])
    assert [(finding.code, finding.layer) for finding in report.findings] == [("BN407", "block")]


@pytest.mark.parametrize("make", [lambda: Block(norm=False), lambda: layers.TimeDistributed(Dense(4))])
def test_layers_without_bn_inside_hold_none(make):
    report = bnfold.analyze(sequential(keras.Input((3, 4)), make(), Dense(2)), select=["BN110", "BN407"])
    assert [finding.code for finding in report.findings] == ["BN110"]


def test_folding_says_that_it_does_not_look_inside():
    result = bnfold.fold(sequential(keras.Input((3, 4)), Block(), Dense(2)))
    said = "block (Block) holds BatchNormalization of its own, which is not looked into"
    assert [note.replace("test_rules_keras.", "") for note in result.plan.notes] == [said]


def test_bn_that_a_time_distributed_applies_to_each_step_is_looked_at():
    steps = layers.TimeDistributed(BN(), name="each")
    report = bnfold.analyze(sequential(keras.Input((3, 4)), layers.TimeDistributed(Dense(4)), steps, Dense(2)))
    (item,) = report.batchnorms
    assert item.name.startswith("each/")
    assert item.pattern == "Dense → BN → Dense"
    assert item.foldability.folds
    assert report.summary.size.nodes == 3


@pytest.mark.parametrize("mode", ["int8", None])
def test_a_dense_layer_in_integers_should_have_taken_its_bn_before(mode):
    model = sequential(keras.Input((4,)), Dense(4, name="dense"), BN(name="norm"), layers.ReLU(), Dense(2))
    if mode:
        model.quantize(mode)
    found = bnfold.analyze(model, select=["BN408"]).findings
    assert [(finding.layer, finding.values) for finding in found] == ([("norm", {"into": "dense"})] if mode else [])
