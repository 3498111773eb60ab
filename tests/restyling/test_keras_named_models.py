"""The models that people ask about, restyled, layer by layer."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import Input, Model, Sequential, layers
from keras_folding import outputs_of
from keras_models import randomised

import bnfold

SHORT = {"BatchNormalization": "BN", "Activation": "", "Dense": "Dense", "Conv2D": "Conv"}


def described(model: keras.Model) -> list[str]:
    """``Dense 64, no bias, tanh``: every layer but the input."""
    return [_words(layer) for layer in model.layers if not isinstance(layer, layers.InputLayer)]


def _words(layer: Any) -> str:
    kind = type(layer).__name__
    words = [SHORT.get(kind, kind)]
    if isinstance(layer, layers.Dense):
        words[0] += f" {layer.units}"
    if hasattr(layer, "use_bias") and not layer.use_bias:
        words.append("no bias")
    activation = getattr(layer, "activation", None)
    if activation is not None and activation is not keras.activations.linear:
        words.append(activation.__name__)
    return ", ".join(word for word in words if word)


def restyled(model: keras.Model, norm: str, **options: Any) -> keras.Model:
    """The model in another style, which computes the same."""
    result = bnfold.restyle(model, norm, **options)
    inputs = {"x": np.random.default_rng(0).normal(size=(5, *model.input_shape[1:])).astype(np.float32)}
    for expected, actual in zip(outputs_of(model, inputs), outputs_of(result, inputs), strict=True):
        np.testing.assert_allclose(actual, expected, atol=1e-4)
    return result


@pytest.fixture(scope="module")
def question() -> keras.Model:
    """The MLP of the question where to call BatchNormalization."""
    return randomised(
        Sequential(
            [
                Input((14,)),
                layers.Dense(64, activation="tanh"),
                layers.Dropout(0.5),
                layers.Dense(64, activation="tanh"),
                layers.Dropout(0.5),
                layers.Dense(2, activation="softmax"),
            ]
        )
    )


def test_the_mlp_of_the_question(question: keras.Model) -> None:
    result = restyled(question, "before")
    assert isinstance(result, Sequential)
    block = ["Dense 64, no bias", "BN", "tanh", "Dropout"]
    assert described(result) == [*block, *block, "Dense 2, softmax"]
    for old, new in zip(question.layers[-1].get_weights(), result.layers[-1].get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_bn_behind_the_activation_stands_in_front_of_the_dropout(question: keras.Model) -> None:
    block = ["Dense 64, tanh", "BN", "Dropout"]
    assert described(restyled(question, "after")) == [*block, *block, "Dense 2, softmax"]


def post_activation() -> keras.Model:
    """The first BN model of chapter 11 in Géron's book: BN behind each activation."""
    return Sequential(
        [
            Input((28, 28)),
            layers.Flatten(),
            layers.BatchNormalization(name="bn_input"),
            layers.Dense(300, activation="elu", kernel_initializer="he_normal", name="dense_1"),
            layers.BatchNormalization(name="bn_1"),
            layers.Dense(100, activation="elu", kernel_initializer="he_normal", name="dense_2"),
            layers.BatchNormalization(name="bn_2"),
            layers.Dense(10, activation="softmax", name="classes"),
        ]
    )


def mixed() -> keras.Model:
    """His second one as printed: the second Dense has no bias, but its BN stands behind the activation."""
    return Sequential(
        [
            Input((28, 28)),
            layers.Flatten(),
            layers.BatchNormalization(name="bn_input"),
            layers.Dense(300, kernel_initializer="he_normal", use_bias=False, name="dense_1"),
            layers.BatchNormalization(name="bn_1"),
            layers.Activation("elu", name="elu_1"),
            layers.Dense(100, kernel_initializer="he_normal", use_bias=False, name="dense_2"),
            layers.Activation("elu", name="elu_2"),
            layers.BatchNormalization(name="bn_2"),
            layers.Dense(10, activation="softmax", name="classes"),
        ]
    )


BEFORE = [
    *("Flatten", "BN"),
    *("Dense 300, no bias", "BN", "elu"),
    *("Dense 100, no bias", "BN", "elu"),
    "Dense 10, softmax",
]
AFTER = ["Flatten", "BN", "Dense 300", "elu", "BN", "Dense 100", "elu", "BN", "Dense 10, softmax"]


class TestGeron:
    def test_behind_the_activation_becomes_before_it_and_back(self) -> None:
        before = restyled(randomised(post_activation()), "before")
        assert described(before) == BEFORE
        names = [layer.name for layer in before.layers]
        assert names[1:] == [
            *("bn_input", "dense_1", "bn_1", "dense_1_activation"),
            *("dense_2", "bn_2", "dense_2_activation", "classes"),
        ]
        assert before.get_layer("dense_1").get_config()["kernel_initializer"]["class_name"] == "HeNormal"
        assert described(restyled(before, "after")) == AFTER

    def test_the_mistake_of_the_second_model_is_repaired_in_either_style(self) -> None:
        model = randomised(mixed())
        assert described(restyled(model, "before")) == BEFORE
        assert described(restyled(model, "after")) == AFTER

    def test_the_bn_behind_the_flatten_stays_as_it_is(self) -> None:
        model = randomised(post_activation())
        result = restyled(model, "before")
        for old, new in zip(
            model.get_layer("bn_input").get_weights(), result.get_layer("bn_input").get_weights(), strict=True
        ):
            np.testing.assert_array_equal(old, new)

    def test_none_keeps_the_bn_on_the_input_where_one_is_asked_for(self) -> None:
        model = randomised(post_activation())
        plain = ["Flatten", "Dense 300, elu", "Dense 100, elu", "Dense 10, softmax"]
        assert described(restyled(model, "none")) == plain
        assert described(restyled(model, "none", on_input=True)) == [plain[0], "BN", *plain[1:]]


def inception_block(alone: bool) -> keras.Model:
    """conv2d_bn of the first InceptionV3 in Keras: the BN stands behind the ReLU."""
    image = Input((9, 9, 3))
    x = layers.Conv2D(8, 3, activation="relu", name="conv")(image)
    x = layers.BatchNormalization(name="bn")(x)
    if not alone:
        x = layers.Conv2D(4, 1, name="next")(x)
        x = layers.Activation("softmax")(layers.GlobalAveragePooling2D()(x))
    return Model(image, x)


@pytest.mark.parametrize("alone", [True, False])
def test_the_inception_block_of_old_and_back(alone: bool) -> None:
    model = randomised(inception_block(alone))
    rest = described(model)[2:]
    if alone:  # behind the ReLU there is no layer that the old BN could be folded into
        with pytest.warns(bnfold.BnfoldWarning, match="bn moves between conv and its relu, which needs training"):
            before = bnfold.restyle(model, "before")
    else:
        before = restyled(model, "before")
    assert described(before) == ["Conv, no bias", "BN", "relu", *rest]
    after = restyled(before, "after")
    assert described(after) == ["Conv", "relu", "BN", *rest]
    assert [layer.name for layer in after.layers[1:4]] == ["conv", "conv_activation", "bn"]


@pytest.mark.parametrize("activation", [None, "relu"])
def test_channels_first(activation: str | None) -> None:
    model = Sequential(
        [
            Input((3, 100, 100)),
            layers.Conv2D(32, 3, strides=4, data_format="channels_first", activation=activation, name="conv"),
            layers.Flatten(data_format="channels_first"),
            layers.Dense(100, activation="relu"),
            layers.Dense(500, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )
    result = bnfold.restyle(model, "before")
    own = [] if activation is None else ["relu"]
    assert described(result) == [
        *("Conv, no bias", "BN", *own, "Flatten"),
        *("Dense 100, no bias", "BN", "relu"),
        *("Dense 500, no bias", "BN", "relu"),
        "Dense 10, softmax",
    ]
    norms = [layer for layer in result.layers if isinstance(layer, layers.BatchNormalization)]
    assert [norm.axis for norm in norms] == [1, 1, 1]
    assert [norm.moving_mean.shape[0] for norm in norms] == [32, 100, 500]


def test_the_dnn_for_mnist_with_and_without_bn() -> None:
    without = randomised(
        Sequential(
            [
                Input((784,)),
                layers.Dense(32, activation="relu"),
                layers.Dense(32, activation="relu"),
                layers.Dense(10, activation="softmax"),
            ]
        )
    )
    block = ["Dense 32, no bias", "BN", "relu"]
    result = restyled(without, "before")
    assert described(result) == [*block, *block, "Dense 10, softmax"]
    again = restyled(randomised(result), "none")
    assert described(again) == ["Dense 32", "relu", "Dense 32", "relu", "Dense 10, softmax"]
