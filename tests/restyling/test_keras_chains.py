"""Models of unusual build through every style and back to none: the outputs stay, and in the end no BN is left."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import keras
import pytest
from keras import Input, Model, Sequential, layers
from keras_folding import assert_same
from keras_models import feeds, randomised, read

import bnfold

pytestmark = pytest.mark.slow


@keras.saving.register_keras_serializable("bnfold_tests")
def squashed(x: Any) -> Any:
    return keras.ops.tanh(x) * 0.5


@keras.saving.register_keras_serializable("bnfold_tests")
class Scaled(layers.Layer):
    def call(self, x: Any) -> Any:
        return 2 * x


def called_twice_in_a_row() -> Model:
    x = Input((6,), name="x")
    twice = layers.Dense(6, activation="elu", name="d")
    return Model(x, layers.Dense(2)(twice(twice(x))))


def nested_model_called_twice() -> Model:
    inner = [
        layers.Dense(5, activation="relu", name="i"),
        layers.BatchNormalization(name="n"),
        layers.Dense(4, name="j"),
    ]
    both = Sequential([Input((6,)), *inner], name="inner")
    a, b = Input((6,), name="a"), Input((6,), name="b")
    return Model([a, b], layers.Dense(2, name="o")(layers.ReLU()(layers.add([both(a), both(b)]))))


def transformer_block() -> Model:
    x = Input((5, 8), name="x")
    y = layers.LayerNormalization()(layers.add([x, layers.MultiHeadAttention(2, 4)(x, x)]))
    z = layers.Dense(8)(layers.Dense(16, activation="gelu", name="wide")(y))
    return Model(x, layers.Dense(2)(layers.GlobalAveragePooling1D()(layers.add([y, z]))))


def gated() -> Model:
    x = Input((6,), name="x")
    parts = layers.Dense(5, activation="sigmoid", name="g")(x), layers.Dense(5, activation="tanh", name="v")(x)
    return Model(x, layers.Dense(2)(layers.multiply(parts)))


def activations_of_every_kind() -> Model:
    stack = [
        layers.Conv2D(4, 3, activation=layers.LeakyReLU(0.2), name="c1"),
        layers.Conv2D(4, 3, name="c2"),
        layers.PReLU(shared_axes=[1, 2], name="p"),
        layers.SeparableConv2D(5, 3, activation=squashed, name="s"),
        Scaled(),
        layers.Dropout(0.1),
        layers.BatchNormalization(name="n"),
        layers.Flatten(),
        layers.Dense(5, activation=keras.activations.silu, name="d"),
        layers.Dense(2),
    ]
    return Sequential([Input((9, 9, 3), name="x"), *stack])


def einsum_with_two_bias_axes() -> Model:
    x = Input((5, 6), name="x")
    y = layers.EinsumDense("abc,cd->abd", (5, 8), bias_axes="d", activation="relu", name="e")(x)
    y = layers.EinsumDense("abc,cde->abde", (5, 2, 3), bias_axes="de", activation="relu", name="f")(y)
    return Model(x, layers.Dense(2)(layers.Flatten()(y)))


def recurrent_with_a_mask() -> Model:
    x = Input((5, 6), name="x")
    y = layers.Dense(4, activation="relu", name="d")(layers.Masking()(x))
    y = layers.Bidirectional(layers.LSTM(3))(y)
    return Model(x, layers.Dense(2)(layers.Dense(3, activation="relu", name="e")(y)))


BUILT = [
    called_twice_in_a_row,
    nested_model_called_twice,
    transformer_block,
    gated,
    activations_of_every_kind,
    einsum_with_two_bias_axes,
    recurrent_with_a_mask,
]


@pytest.mark.parametrize("build", BUILT, ids=lambda build: build.__name__)
def test_through_every_style(build: Callable[[], Model]) -> None:
    model = randomised(build())
    x = feeds(read(model))
    for norm in ("before", "after", "none"):
        with warnings.catch_warnings():
            warnings.simplefilter("error", bnfold.BnfoldWarning)  # every change is exact
            found = bnfold.restyle(model, norm)
        assert_same(model, found, x)
        model = found
    assert not any(isinstance(layer, layers.BatchNormalization) for layer in model._flatten_layers())
