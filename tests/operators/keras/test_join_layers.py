"""Keras's joins of several tensors, as layers and as operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import Input, layers, ops
from keras_folding import Folded, assert_gone, assert_stays, fold, functional, positive

BN = layers.BatchNormalization


def joined(join: Callable[[Any, Any], Any], affine: Callable[[], Any] = BN) -> Folded:
    """Two Dense layers that meet, an affine, tanh: the affine can only go backward."""

    def body(x):
        return layers.Activation("tanh")(affine()(join(layers.Dense(4)(x), layers.Dense(4)(x))))

    return fold(functional((5,), body), branches=False)


def fed(join: Callable[[Any, Any], Any], first: Callable[[], Any] | None, second: Callable[[], Any] | None) -> Folded:
    """Two activations, each with an affine or none, that meet before a Dense layer: affines can only go forward."""

    def body(x):
        sides = [layers.Activation("tanh")(layers.Dense(4)(x)), layers.Activation("sigmoid")(layers.Dense(4)(x))]
        a, b = (make()(side) if make else side for make, side in zip((first, second), sides, strict=True))
        return layers.Softmax()(layers.Dense(3)(join(a, b)))

    return fold(functional((5,), body))


def layer(name: str) -> Callable[[Any, Any], Any]:
    return lambda a, b: getattr(layers, name)()([a, b])


ADDITIVE = {
    "Add": layer("Add"),
    "Subtract": layer("Subtract"),
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "ops.add": ops.add,
    "ops.subtract": ops.subtract,
}


@pytest.mark.parametrize("join", ADDITIVE.values(), ids=ADDITIVE)
def test_a_sum_passes_everything_backward(join):
    assert_gone(joined(join))


@pytest.mark.parametrize("join", ADDITIVE.values(), ids=ADDITIVE)
def test_a_sum_passes_shifts_and_a_common_scale_forward(join):
    assert_gone(fed(join, lambda: layers.Rescaling(1.0, 2.0), lambda: layers.Rescaling(1.0, 3.0)))
    assert_gone(fed(join, None, lambda: layers.Rescaling(1.0, 3.0)))
    assert_gone(fed(join, lambda: layers.Rescaling(2.0, 1.0), lambda: layers.Rescaling(2.0, 3.0)))


@pytest.mark.parametrize("join", ADDITIVE.values(), ids=ADDITIVE)
def test_a_sum_passes_no_scale_of_one_side(join):
    assert_stays(fed(join, positive, None), "unequal-scales")
    assert_stays(fed(join, None, BN), "unequal-scales")


def test_a_sum_of_three():
    def body(x):
        return layers.Activation("tanh")(BN()(layers.Add()([layers.Dense(4)(x) for _ in range(3)])))

    assert_gone(fold(functional((5,), body)))


PRODUCTS = {"Multiply": layer("Multiply"), "*": lambda a, b: a * b, "ops.multiply": ops.multiply}


@pytest.mark.parametrize("join", PRODUCTS.values(), ids=PRODUCTS)
def test_a_product_passes_scales(join):
    assert_gone(joined(join, lambda: positive(-2.0)))
    assert_gone(fed(join, positive, None))
    assert_gone(fed(join, None, lambda: positive(-2.0)))
    assert_gone(fed(join, positive, lambda: positive(3.0)))


@pytest.mark.parametrize("join", PRODUCTS.values(), ids=PRODUCTS)
def test_a_product_passes_no_shift(join):
    assert_stays(joined(join), "product")
    assert_stays(fed(join, BN, None), "product")


QUOTIENTS = {"/": lambda a, b: a / b, "ops.divide": ops.divide, "ops.true_divide": ops.true_divide}


@pytest.mark.parametrize("join", QUOTIENTS.values(), ids=QUOTIENTS)
def test_a_quotient_passes_the_scale_of_either_side(join):
    assert_gone(fed(join, positive, None))
    assert_gone(fed(join, None, lambda: positive(5.0)))
    assert_gone(fed(join, lambda: positive(3.0), lambda: positive(-5.0)))


def test_a_quotient_passes_no_shift_of_its_divisor():
    assert_stays(fed(ops.divide, None, lambda: layers.Rescaling(1.0, 3.0)), "product")


def test_the_scale_of_a_quotient_goes_into_the_dividend():
    folded = joined(lambda a, b: a / layers.Activation("sigmoid")(b), positive)
    assert_gone(folded)
    assert folded.plan.steps[0].into == ("dense",) or "dense" in folded.plan.steps[0].into[0]


def test_a_mean_passes_what_all_sides_carry():
    assert_gone(joined(layer("Average")))
    same = (lambda: layers.Rescaling(-2.0, 1.0),) * 2
    assert_gone(fed(layer("Average"), *same))
    assert_stays(fed(layer("Average"), same[0], None), "unequal-operands")


@pytest.mark.parametrize("name", ["Maximum", "Minimum"])
def test_an_extreme_passes_what_all_sides_carry_and_rises(name):
    assert_gone(joined(layer(name), lambda: BN(scale=False)))
    assert_stays(joined(layer(name), lambda: positive(-1.0)), "negative-scale")
    assert_gone(fed(layer(name), *(lambda: layers.Rescaling(2.0, 1.0),) * 2))
    assert_stays(fed(layer(name), *(lambda: layers.Rescaling(-2.0, 1.0),) * 2), "negative-scale")
    assert_stays(fed(layer(name), positive, None), "unequal-operands")


@pytest.mark.parametrize("join", [*ADDITIVE.values(), layer("Maximum"), layer("Average")])
def test_an_operand_that_is_broadcast_along_the_channels_refuses_a_vector(join):
    def body(x):
        return layers.Activation("tanh")(BN(scale=False)(join(layers.Dense(4)(x), layers.Dense(1)(x))))

    folded = fold(functional((5,), body))
    # A shift alone goes into the other operand of a sum.
    assert folded.batchnorms == 1
    assert "broadcast" in folded.codes


def test_operands_of_different_rank():
    """Keras aligns a vector with the channels of an image."""

    def body(x):
        image, vector = layers.Conv2D(4, 1)(x), layers.Dense(4)(layers.GlobalMaxPooling2D()(x))
        return layers.Activation("tanh")(BN()(layers.Add()([image, vector])))

    assert_gone(fold(functional((4, 4, 3), body)))


# -- Concatenate -------------------------------------------------------------------------------------


def test_a_concatenation_gives_each_part_its_slice():
    assert_gone(joined(lambda a, b: layers.Concatenate()([a, b])))
    assert_gone(fed(lambda a, b: layers.Concatenate()([a, b]), BN, None))
    assert_gone(fed(lambda a, b: layers.Concatenate()([a, b]), BN, BN))


def test_a_concatenation_along_another_axis_needs_one_affine_for_all():
    def back(x):
        return layers.Softmax()(BN()(layers.Concatenate(axis=1)([layers.Conv1D(4, 1)(x), layers.Conv1D(4, 2)(x)])))

    def ahead(x):
        parts = [layers.Activation("tanh")(x), BN()(layers.Activation("sigmoid")(x))]
        return layers.Conv1D(3, 1)(layers.Concatenate(axis=1)(parts))

    assert_gone(fold(functional((5, 3), back)))
    assert_stays(fold(functional((5, 3), ahead)), "unequal-parts")


def test_a_part_that_others_see_keeps_the_batchnorm():
    image = Input((5,))
    part = layers.Dense(4)(image)
    both = layers.Concatenate()([part, layers.Dense(3)(image)])
    model = keras.Model(image, [layers.Softmax()(BN()(both)), part])
    assert_stays(fold(model), "observed")


# -- operations with a constant ----------------------------------------------------------------------

VECTOR = np.arange(1.0, 5.0, dtype=np.float32)
CONSTANTS = {
    "x + c": lambda x: x + VECTOR,
    "c + x": lambda x: ops.add(VECTOR, x),
    "x - 2": lambda x: x - 2.0,
    "2 - x": lambda x: 2.0 - x,
    "x * c": lambda x: x * VECTOR,
    "-3 * x": lambda x: -3.0 * x,
    "x / c": lambda x: x / VECTOR,
    "a chain": lambda x: (x / 127.5 - 1.0) * VECTOR + 0.5,
}
OPERATIONS = {"ops.Add", "ops.Subtract", "ops.Multiply", "ops.TrueDivide", "ops.Divide"}


@pytest.mark.parametrize("affine", CONSTANTS.values(), ids=CONSTANTS)
def test_arithmetic_with_constants_goes_into_the_layer_before(affine):
    folded = fold(functional((3,), lambda x: layers.Activation("tanh")(affine(layers.Dense(4)(x)))))
    assert folded.types == ["Dense", "Activation"]


@pytest.mark.parametrize("affine", CONSTANTS.values(), ids=CONSTANTS)
def test_arithmetic_with_constants_goes_into_the_layer_behind(affine):
    folded = fold(functional((4,), lambda x: layers.Dense(3)(affine(x))))
    assert folded.types == ["Dense"]


def test_a_reciprocal_is_no_affine():
    folded = fold(functional((4,), lambda x: layers.Dense(3)(1.0 / (layers.Activation("sigmoid")(x) + 1.0))))
    assert "ops.TrueDivide" in folded.types or "ops.Divide" in folded.types
    assert "reciprocal" in folded.codes


def test_a_constant_along_another_axis_stays_although_the_sizes_agree():
    def body(x):
        return layers.Activation("tanh")(layers.Conv1D(4, 1)(x) * VECTOR[:, None])

    assert_stays(fold(functional((4, 3), body)), "other-axis")


def test_integers_that_become_numbers_stay():
    folded = fold(functional((4,), lambda x: layers.Dense(3)(x * 0.25), dtype="int32"))
    assert not folded.plan.steps


def test_arithmetic_that_has_to_stay_becomes_one_layer():
    def body(x):
        return layers.Activation("tanh")(layers.Activation("sigmoid")(x) * VECTOR + 1.0)

    folded = fold(functional((4,), body))
    assert folded.types == ["Activation", "BatchNormalization", "Activation"]


def test_operations_are_left_as_they_are_where_nothing_folds():
    folded = fold(functional((4,), lambda x: layers.Activation("tanh")(layers.Softmax()(x) * VECTOR)))
    assert not folded.plan.steps
    assert OPERATIONS & set(folded.types)
