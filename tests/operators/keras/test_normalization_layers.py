"""Keras's normalisations by their own statistics: what their weights take in, and what they take away."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from keras import Layer, Model, layers
from keras_folding import assert_gone, assert_stays, fold, functional, positive

BN = layers.BatchNormalization
Make = Callable[[], Layer]
SHAPE = (5, 6, 4)


def behind(make: Make, affine: Make) -> Model:
    return functional(SHAPE, lambda x: layers.Activation("tanh")(affine()(make()(x))))


def ahead(make: Make, affine: Make) -> Model:
    return functional(SHAPE, lambda x: layers.Dense(3)(make()(affine()(layers.Activation("tanh")(x)))))


TAKING: dict[str, Make] = {
    "LayerNormalization": lambda: layers.LayerNormalization(),
    "LayerNormalization without its bias": lambda: layers.LayerNormalization(center=False),
    "LayerNormalization without its scale": lambda: layers.LayerNormalization(scale=False),
    "GroupNormalization": lambda: layers.GroupNormalization(2),
    "GroupNormalization of each channel": lambda: layers.GroupNormalization(-1, scale=False),
}


@pytest.mark.parametrize("make", TAKING.values(), ids=TAKING)
def test_scale_and_bias_take_in_what_follows(make):
    folded = fold(behind(make, BN))
    assert_gone(folded, "Activation", make().__class__.__name__)


@pytest.mark.parametrize(
    ("make", "affine", "code"),
    [
        (lambda: layers.LayerNormalization(center=False, scale=False), BN, "no-parameters"),
        (lambda: layers.LayerNormalization(axis=(2, 3)), BN, "other-axis"),
        (lambda: layers.LayerNormalization(axis=1), BN, "other-axis"),
        (lambda: layers.LayerNormalization(), lambda: BN(axis=1), "other-axis"),
        (lambda: layers.GroupNormalization(2), lambda: BN(axis=2), "other-axis"),
        (lambda: layers.RMSNormalization(), BN, "no-bias"),
        (lambda: layers.UnitNormalization(), BN, "unknown-operator"),
    ],
)
def test_what_does_not_fit_stays(make, affine, code):
    assert_stays(fold(behind(make, affine)), code)


def test_the_scale_of_another_axis_takes_in_what_runs_along_it():
    assert_gone(fold(behind(lambda: layers.LayerNormalization(axis=1), lambda: BN(axis=1))))


def test_a_root_mean_square_takes_a_scale():
    assert_gone(fold(behind(lambda: layers.RMSNormalization(), lambda: positive(-2.0))))


@pytest.mark.parametrize("make", [layers.LayerNormalization, lambda: layers.GroupNormalization(2)])
def test_a_shift_that_is_taken_away_again_goes(make):
    folded = fold(ahead(make, lambda: layers.Rescaling(1.0, 3.0)))
    assert_gone(folded)
    assert "cancelled" in folded.kinds


def by_channel(groups: int) -> Model:
    """tanh plus a shift by channel, 1 and 1, 2 and 2, before a normalisation."""
    shift = np.array([1.0, 1.0, 2.0, 2.0], np.float32)

    def body(x):
        return layers.Dense(3)(layers.GroupNormalization(groups)(layers.Activation("tanh")(x) + shift))

    return functional(SHAPE, body)


def test_a_shift_that_is_the_same_in_each_group_goes_and_no_other():
    assert "cancelled" in fold(by_channel(2)).kinds
    assert_stays(fold(by_channel(1)), "normalised")


@pytest.mark.parametrize("make", [layers.LayerNormalization, lambda: layers.GroupNormalization(2)])
def test_a_scale_before_a_normalisation_stays(make):
    assert_stays(fold(ahead(make, positive)), "normalised")


def test_a_root_mean_square_takes_no_shift_away():
    assert_stays(fold(ahead(layers.RMSNormalization, lambda: layers.Rescaling(1.0, 3.0))), "normalised")
