"""Models whose layers obey Keras's implicit masks, folded: what they compute stays, padding included.

Feeds of ``keras_models`` are integers from 0 to 4, so that Embeddings with ``mask_zero`` mask some of the steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import pytest
from keras import Input, layers, ops
from keras_folding import Folded, assert_same, fold
from keras_models import feeds, randomised, read

BN = layers.BatchNormalization
STEPS, SIZE = 6, 4


def embedded(x: Any) -> Any:
    """A tensor that carries a mask."""
    return layers.Embedding(5, SIZE, mask_zero=True)(x)


def plain(x: Any) -> Any:
    """A tensor that carries none."""
    return layers.Embedding(5, SIZE)(x)


def nested(*inner: Any, dtype: str = "float32", shape: tuple[int, ...] = (STEPS, SIZE)) -> keras.Model:
    return keras.Sequential([Input(shape, dtype=dtype), *inner])


def folds(body: Callable[[Any], Any]) -> Folded:
    tokens = Input((STEPS,), dtype="int32")
    return fold(keras.Model(tokens, body(tokens)))


@keras.saving.register_keras_serializable("tests")
class CountsWhatIsNotMasked(layers.Layer):
    """A custom layer that looks for a mask by itself."""

    def call(self, x):
        mask = getattr(x, "_keras_mask", None)
        return ops.sum(x if mask is None else x * ops.cast(mask, x.dtype)[:, :, None], axis=1)

    def compute_output_shape(self, shape):
        return (shape[0], shape[2])


#: What follows an operation on a masked tensor, and obeys a mask.
OBEYS = {
    "LSTM": lambda x: layers.LSTM(3)(x),
    "pooling": lambda x: layers.GlobalAveragePooling1D()(x),
    "behind a layer that hands it on": lambda x: layers.GlobalAveragePooling1D()(layers.Dense(3)(x)),
    "Softmax": lambda x: layers.Softmax(axis=1)(layers.Dense(STEPS)(x)),
    "attention": lambda x: layers.MultiHeadAttention(2, 3)(x, x),
    "wrapped": lambda x: layers.Bidirectional(layers.GRU(3))(x),
    "a product": lambda x: layers.Multiply()([x, layers.Dense(SIZE)(x)]),
    "a maximum": lambda x: layers.Maximum()([x, layers.Dense(SIZE, activation="tanh")(x)]),
    "nested": lambda x: nested(layers.GlobalAveragePooling1D())(x),
    "custom": lambda x: CountsWhatIsNotMasked()(x),
}
OPERATIONS = {
    "*": lambda x: x * 2.0,
    "+": lambda x: x + 2.0,
    "-": lambda x: 2.0 - x,
    "/": lambda x: x / 2.0,
}


@pytest.mark.parametrize("obeys", OBEYS.values(), ids=OBEYS)
def test_an_operation_that_drops_an_obeyed_mask_stays(obeys):
    folded = folds(lambda x: obeys(embedded(x) * 2.0))
    assert "ops.Multiply" in folded.types


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_every_operation_drops_the_mask(operation):
    assert not folds(lambda x: layers.GlobalAveragePooling1D()(operation(embedded(x)))).plan.steps


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_where_there_is_no_mask_operations_fold(operation):
    assert folds(lambda x: layers.GlobalAveragePooling1D()(operation(plain(x)))).plan.steps


#: What follows an operation on a masked tensor, and does not care.
CARES_NOT = {
    "Flatten": lambda x: layers.Dense(2)(layers.Flatten()(x)),
    "a layer that drops it too": lambda x: layers.GlobalAveragePooling1D()(layers.Conv1D(3, 2)(x)),
    "nothing": lambda x: layers.Dense(2)(x),
}


@pytest.mark.parametrize("follows", CARES_NOT.values(), ids=CARES_NOT)
def test_a_mask_that_nobody_obeys_is_no_obstacle(follows):
    assert "ops.Multiply" not in folds(lambda x: follows(embedded(x) * 2.0)).types


def test_of_several_operations_the_one_that_drops_the_mask_stays():
    folded = folds(lambda x: layers.LSTM(3)(BN()(embedded(x) * 2.0 + 1.0)))
    assert [type_ for type_ in folded.types if type_.startswith("ops.")] == ["ops.Multiply"]
    assert "BatchNormalization" not in folded.types


def test_a_mask_from_within_a_nested_model():
    inner = nested(layers.Embedding(5, SIZE, mask_zero=True), dtype="int32", shape=(STEPS,))
    assert not folds(lambda x: layers.GlobalAveragePooling1D()(inner(x) * 3.0)).plan.steps


def test_a_mask_that_a_masking_layer_makes():
    assert not folds(lambda x: layers.LSTM(3)(layers.Masking()(plain(x)) * 3.0)).plan.steps


def test_a_layer_that_returns_no_sequence_ends_the_mask():
    def body(sequences: bool) -> Callable[[Any], Any]:
        return lambda x: layers.Softmax(axis=1)(
            layers.Dense(STEPS)(layers.GRU(4, return_sequences=sequences)(embedded(x)) * 2.0)
        )

    assert not folds(body(True)).plan.steps
    assert folds(body(False)).plan.steps


@pytest.mark.parametrize("affine", [BN, lambda: layers.Rescaling(2.0, 1.0)], ids=["BN", "Rescaling"])
def test_layers_that_hand_the_mask_on_fold(affine):
    folded = folds(lambda x: layers.LSTM(3)(affine()(layers.Dense(SIZE)(embedded(x)))))
    assert folded.kinds == ["backward"]


@pytest.mark.parametrize("second", [BN, lambda: layers.Rescaling(2.0, 1.0)], ids=["BN", "Rescaling"])
def test_a_masked_bn_takes_another_affine_in(second):
    def body(x):
        y = second()(BN()(layers.LSTM(SIZE, return_sequences=True)(embedded(x))))
        return layers.LSTM(3)(layers.Activation("tanh")(y))

    folded = folds(body)
    assert len(folded.plan.steps) == 1
    assert folded.batchnorms == 1


#: A product of factors with a mask is no product where that masks.
FACTORS = {
    "one masked": lambda x: [layers.Dense(3)(embedded(x)), layers.Dense(3)(plain(x))],
    "the other masked": lambda x: [layers.Dense(3)(plain(x)), layers.Dense(3)(embedded(x))],
    "both masked": lambda x: [layers.Dense(3)(embedded(x)), layers.Dense(3)(embedded(x))],
}


@pytest.mark.parametrize("factors", FACTORS.values(), ids=FACTORS)
def test_a_product_of_masked_tensors_lets_nothing_through(factors):
    scaled = folds(lambda x: layers.Activation("tanh")(layers.Rescaling(2.0)(layers.Multiply()(factors(x)))))
    assert not scaled.plan.steps
    assert "mask" in scaled.codes


def test_a_product_of_tensors_without_masks_does():
    def body(x):
        y = layers.Multiply()([layers.Dense(3)(plain(x)), layers.Dense(3)(plain(x))])
        return layers.Activation("tanh")(layers.Rescaling(2.0)(y))

    assert folds(body).plan.steps


def test_a_mask_that_is_passed_to_a_layer():
    def masked(x, y):
        return BN()(layers.Dense(SIZE)(y), mask=ops.not_equal(x, 3))

    seen = folds(lambda x: layers.Multiply()([masked(x, plain(x)), layers.Dense(SIZE)(plain(x))]))
    assert "BatchNormalization" in seen.types
    assert "BatchNormalization" not in folds(lambda x: layers.LSTM(3)(masked(x, plain(x)))).types


def test_files_are_folded_alike(tmp_path):
    tokens = Input((STEPS,), dtype="int32")
    y = BN()(layers.Dense(SIZE)(embedded(tokens) * 2.0))
    model = randomised(keras.Model(tokens, layers.LSTM(3)(y)))
    model.save(tmp_path / "model.keras")
    folded = fold(keras.models.load_model(tmp_path / "model.keras"))
    assert "ops.Multiply" in folded.types
    assert "BatchNormalization" not in folded.types
    folded.after.save(tmp_path / "folded.keras")
    assert_same(folded.before, keras.models.load_model(tmp_path / "folded.keras"), feeds(read(model)))
