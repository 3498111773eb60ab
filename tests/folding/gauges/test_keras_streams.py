"""Keras models fold with their streams by the same search, and are Keras models again."""

from __future__ import annotations

import keras
from keras import layers
from keras_folding import assert_same, fold, functional
from keras_models import batchnorms, feeds, randomised, read

from bnfold.folding import fold_graph

C = 6


def positive(model: keras.Model) -> keras.Model:
    """Every gamma without its sign."""
    for layer in model._flatten_layers():
        if isinstance(layer, layers.BatchNormalization):
            layer.gamma.assign(keras.ops.abs(layer.gamma))
    return model


def block(x, *, shared: layers.Layer | None = None):
    y = layers.ReLU()((shared or layers.BatchNormalization())(x))
    return layers.Add()([x, layers.Conv2D(C, 3, padding="same")(y)])


def preactivation(x, blocks: int = 3):
    x = layers.Conv2D(C, 3, padding="same")(x)
    for _ in range(blocks):
        x = block(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    return layers.Dense(3)(layers.GlobalAveragePooling2D()(x))


def folded_positive(model: keras.Model):
    """Fold a model with positive gammas, and compare the outputs."""
    original = read(positive(randomised(model, 0)))
    graph, plan = fold_graph(original.graph)
    after = original.with_graph(graph)
    assert_same(original.keras_model, after.keras_model, feeds(original))
    return after, plan


def test_every_bn_of_a_stream_of_positive_scales_goes():
    after, plan = folded_positive(functional((8, 8, 3), preactivation))
    assert batchnorms(after.keras_model) == 0
    assert {step.kind for step in plan.steps} >= {"gauge"}


def test_signs_that_disagree_keep_their_bn_since_keras_has_no_simpler_layer():
    folded = fold(functional((8, 8, 3), preactivation))
    assert 0 < folded.batchnorms < 4
    assert "cheaper" not in folded.kinds
    assert any(item.together is not None and item.together.of == "sign" for item in folded.plan.remaining)


def test_a_bn_that_two_blocks_share_folds_or_stays_with_equal_outputs():
    def body(x):
        shared = layers.BatchNormalization()
        x = layers.Conv2D(C, 3, padding="same")(x)
        for _ in range(2):
            x = block(x, shared=shared)
        return layers.Dense(3)(layers.GlobalAveragePooling2D()(layers.ReLU()(layers.BatchNormalization()(x))))

    folded_positive(functional((8, 8, 3), body))


def test_a_stream_through_concatenate_and_subtract():
    def body(x):
        x = layers.Conv2D(C, 3, padding="same")(x)
        x = block(x)
        y = layers.Conv2D(C, 1)(layers.ReLU()(layers.BatchNormalization()(x)))
        x = layers.Subtract()([x, y])
        x = layers.Concatenate()([x, layers.Conv2D(2, 1)(layers.ReLU()(x))])
        return layers.Conv2D(2, 1)(layers.ReLU()(layers.BatchNormalization()(x)))

    folded_positive(functional((8, 8, 3), body))
