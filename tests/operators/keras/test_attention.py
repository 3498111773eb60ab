"""What Keras's MultiHeadAttention takes in, and what it does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from keras import Model, layers
from keras_folding import assert_gone, assert_stays, fold, functional, positive
from keras_models import randomised, read

from bnfold.folding import fold_graph

BN = layers.BatchNormalization
SHAPE = (5, 4)
Call = Callable[[Any, Any], Any]


def attention(**options: Any) -> layers.Layer:
    return layers.MultiHeadAttention(2, 3, **options)


CALLS: dict[str, Call] = {
    "query": lambda x, y: attention()(x, y),
    "value, which is the key too": lambda x, y: attention(value_dim=2)(y, x),
    "value": lambda x, y: attention()(y, x, y),
    "key": lambda x, y: attention()(y, y, x),
    "key by name": lambda x, y: attention()(key=x, value=y, query=y),
    "query by name": lambda x, y: attention()(query=x, value=y),
    "all of them": lambda x, y: attention()(x, x),
    "with scores": lambda x, y: attention()(x, y, return_attention_scores=True)[0],
    "with a mask": lambda x, y: attention()(x, y, attention_mask=y @ layers.Permute((2, 1))(y) > 0),
}


def ahead(call: Call, affine: Callable[[], Any] = BN) -> Model:
    """tanh → affine → the attention, beside the sigmoid of the same."""

    def body(x):
        return layers.Softmax()(call(affine()(layers.Activation("tanh")(x)), layers.Activation("sigmoid")(x)))

    return functional(SHAPE, body)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_its_projections_take_in_what_precedes(call):
    assert_gone(fold(ahead(call)))


def test_without_biases_they_take_in_a_scale_alone():
    assert_gone(fold(ahead(lambda x, y: attention(use_bias=False)(x, y), positive)))
    assert_stays(fold(ahead(lambda x, y: attention(use_bias=False)(x, y))), "no-bias")


def test_an_affine_along_another_axis_stays():
    assert_stays(fold(ahead(lambda x, y: attention()(x, y), lambda: BN(axis=1))), "other-axis")


def behind(call: Call, affine: Callable[[], Any] = BN) -> Model:
    return functional(SHAPE, lambda x: layers.Activation("tanh")(affine()(call(x, layers.Activation("sigmoid")(x)))))


@pytest.mark.parametrize("call", [CALLS["query"], CALLS["all of them"], CALLS["with a mask"]])
def test_its_last_projection_takes_in_what_follows(call):
    assert_gone(fold(behind(call)))


def test_without_a_bias_it_takes_in_a_scale_alone():
    assert_gone(fold(behind(lambda x, y: attention(use_bias=False)(x, y), positive)))
    assert_stays(fold(behind(lambda x, y: attention(use_bias=False)(x, y))), "no-bias")


def test_scores_beside_the_features_are_left_alone():
    assert_stays(fold(behind(CALLS["with scores"])), "several-outputs")


def test_features_along_several_axes_are_left_alone():
    assert_stays(fold(behind(lambda x, y: attention(output_shape=(3, 4))(x, y))), "several-outputs")


def test_an_attention_over_pictures():
    def body(x):
        return BN()(attention(attention_axes=(1, 2))(*[BN()(layers.Activation("tanh")(x))] * 2))

    assert_gone(fold(functional((3, 4, 5), body)))


def test_a_transformer_normalised_by_batches_folds_but_for_what_its_stream_starts_with():
    """As in PatchTST: BN behind each residual sum."""

    def body(x):
        y = layers.Dense(4)(x)
        y = BN()(layers.Add()([y, attention()(y, y)]))
        z = layers.Dense(4)(layers.Dense(8, activation="relu")(y))
        return layers.Dense(2)(BN()(layers.Add()([y, z])))

    assert_gone(fold(functional(SHAPE, body)))


def test_quantized_projections_take_in_nothing():
    model = ahead(CALLS["query"])
    inner = next(layer for layer in model.layers if isinstance(layer, layers.MultiHeadAttention))
    inner._query_dense.quantize("int8")
    _, plan = fold_graph(read(randomised(model)).graph)
    assert not plan.steps
    assert plan.remaining[0].forward.code == "unknown-operator"
