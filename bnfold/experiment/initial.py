"""The weights that a run begins with: the same in every arm, for the layers that the arms share.

Each layer is drawn by its own initialisers from a seed of its own, which is made of the run's and the layer's name.
So neither the order of the layers nor what an arm adds or takes away changes what another layer begins with; a
Dropout of one name drops the same in every arm.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

from bnfold.errors import UsageError, shortened


def layers_of(model: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The layers of a Keras model with their paths, those of models inside it in their places."""
    for layer in model.layers:
        name = f"{path}{layer.name}"
        if hasattr(layer, "layers") and hasattr(layer, "get_layer"):
            yield from layers_of(layer, f"{name}/")
        else:
            yield name, layer


def is_frozen(layer: Any) -> bool:
    """Is it no part of the training, so that it keeps what it has: not trainable, or adapted to data?"""
    return (bool(layer.weights) and not layer.trainable) or hasattr(layer, "adapt")


def initialise(keras: Any, model: Any, seed: int) -> None:
    """Draw the weights of every layer that is trained anew. Raises UsageError for one that Keras cannot build again."""
    for path, layer in layers_of(model):
        if not layer.variables or is_frozen(layer):
            continue
        keras.utils.set_random_seed(zlib.crc32(f"{seed} {path}".encode()))
        try:
            fresh = type(layer).from_config(layer.get_config())
            fresh.build_from_config(layer.get_build_config() or {})
            values = [variable.numpy() for variable in fresh.variables]
            for variable, value in zip(layer.variables, values, strict=True):
                variable.assign(value)
        except (AttributeError, LookupError, NotImplementedError, TypeError, ValueError) as error:
            raise UsageError(f"the layer {path} cannot be initialised anew: {shortened(error)}") from error
