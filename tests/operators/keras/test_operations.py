"""What the operations of keras.ops with one tensor or a list of them let pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from keras import Model, layers, ops
from keras_folding import assert_gone, assert_stays, fold, functional, positive
from keras_models import read

BN = layers.BatchNormalization
SHAPE = (5, 6, 4)
Call = Callable[[Any], Any]


def reader(x: Any) -> Any:
    return layers.Dense(3)(x)


def ahead(call: Call, affine: Callable[[], Any] = BN) -> Model:
    """tanh → affine → the operation → a linear layer along the last axis: the affine can only go forward."""
    return functional(SHAPE, lambda x: reader(call(affine()(layers.Activation("tanh")(x)))))


def behind(call: Call, affine: Callable[[], Any] = BN) -> Model:
    """A linear layer → the operation → affine → tanh: the affine can only go backward."""
    return functional(SHAPE, lambda x: layers.Activation("tanh")(affine()(call(layers.Dense(4)(x)))))


PASSING: dict[str, Call] = {
    "transpose": lambda x: ops.transpose(x, (0, 2, 1, 3)),
    "swapaxes": lambda x: ops.swapaxes(x, 1, -2),
    "moveaxis": lambda x: ops.moveaxis(x, 1, 2),
    "reshape": lambda x: ops.reshape(x, (-1, 30, 4)),
    "reshape that cuts the batch": lambda x: ops.reshape(x, (-1, 4)),
    "mean": lambda x: ops.mean(x, axis=(1, 2)),
    "mean with its axes kept": lambda x: ops.mean(x, axis=-2, keepdims=True),
    "sum": lambda x: ops.sum(x, axis=1),
    "expand_dims": lambda x: ops.expand_dims(x, 1),
    "expand_dims behind": lambda x: ops.squeeze(ops.expand_dims(x, -2), -2),
    "squeeze": lambda x: ops.squeeze(ops.mean(x, axis=1, keepdims=True)),
    "an item": lambda x: x[:, 0],
    "items": lambda x: x[..., 1:3, :],
    "items with a new axis": lambda x: x[:, None, 2],
}


@pytest.mark.parametrize("model", [ahead, behind])
@pytest.mark.parametrize("call", PASSING.values(), ids=PASSING)
def test_everything_passes(call, model):
    assert_gone(fold(model(call)))


STOPPING: dict[str, tuple[Call, str]] = {
    "transpose": (lambda x: ops.transpose(x, (0, 3, 1, 2)), "other-axis"),
    "mean": (lambda x: ops.mean(x, axis=-1), "reduced-axis"),
    "reshape": (lambda x: ops.reshape(x, (-1, 5, 4, 6)), "reshape"),
    "an item": (lambda x: x[..., 1:3], "part-of-axis"),
    "items by number": (lambda x: ops.take(x, [0, 2], axis=1), "unknown-operator"),
}


@pytest.mark.parametrize(("call", "code"), STOPPING.values(), ids=STOPPING)
def test_what_mixes_the_channels_stays(call, code):
    assert_stays(fold(ahead(call)), code)


def test_a_batch_that_is_cut_up_carries_no_axis_of_its_own():
    """The batch of the result is another one: nothing that runs along the axes that are merged into it passes."""
    assert_stays(fold(ahead(lambda x: ops.reshape(x, (-1, 4)), lambda: BN(axis=1))), "reshape")


@pytest.mark.parametrize("model", [ahead, behind])
def test_a_maximum_rises(model):
    assert_gone(fold(model(lambda x: ops.max(x, axis=1), lambda: BN(scale=False))))
    assert_stays(fold(model(lambda x: ops.min(x, axis=1), lambda: positive(-1.5))), "negative-scale")


def test_a_maximum_with_an_initial_value_stops_everything():
    assert_stays(fold(ahead(lambda x: ops.max(x, axis=1, initial=0.1), positive)), "initial-value")


def test_a_concatenation_joins_slices():
    def body(x):
        sides = [BN()(layers.Activation(name)(x)) for name in ("tanh", "sigmoid")]
        return reader(ops.concatenate(sides, axis=-1))

    assert_gone(fold(functional(SHAPE, body)))
    assert_gone(fold(behind(lambda x: ops.concatenate([x, layers.Dense(4)(x)], axis=1))))


def test_a_split_hands_slices_on():
    def body(x):
        parts = ops.split(BN()(layers.Activation("tanh")(x)), [1, 3], axis=-1)
        return ops.concatenate([reader(part) for part in parts], axis=-1)

    assert_gone(fold(functional(SHAPE, body)))


def test_a_sign_is_an_affine():
    assert_gone(fold(ahead(lambda x: -x)))
    assert_gone(fold(behind(ops.negative)))
    assert fold(functional(SHAPE, lambda x: -reader(x))).types == ["Dense"]


ACTIVATIONS: dict[str, Call] = {"relu": ops.relu, "leaky_relu": lambda x: ops.leaky_relu(x, 0.3)}


@pytest.mark.parametrize("model", [ahead, behind])
@pytest.mark.parametrize("call", ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_an_activation_passes_what_the_layer_of_its_name_does(call, model):
    assert_gone(fold(model(call, positive)))
    assert_stays(fold(model(call, lambda: positive(-2.0))), "negative-scale")
    assert_stays(fold(model(call)), "nonlinear")


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "gelu", "silu", "relu6", "elu", "softplus", "softmax"])
def test_other_activations_stop_everything(name):
    folded = fold(ahead(getattr(ops, name)))
    assert_stays(folded, "nonlinear")
    assert name in folded.plan.remaining[0].forward.sentence


def test_what_is_known_of_an_operation_is_what_numpy_does():
    """The axis of each operator's attributes, by the shapes that it makes of a tensor whose sizes are all different."""
    x = np.zeros((2, *SHAPE))
    graph = read(functional(SHAPE, lambda x: ops.moveaxis(x, (1, 3), (3, 1)))).graph
    (op,) = graph.ops()
    assert np.transpose(x, op.attributes["perm"]).shape == np.moveaxis(x, (1, 3), (3, 1)).shape
