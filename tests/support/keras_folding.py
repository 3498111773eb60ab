"""Small Keras models, folded, and compared with what they were.

:func:`fold` asserts what has to hold for every fold: the outputs agree in value, shape and dtype, the
model that was given is as it was, and folding again changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import Input, layers
from keras_models import batchnorms, feeds, randomised, read

from bnfold.folding import Plan, fold_graph
from bnfold.formats.keras.model import KerasModel

#: How far outputs may differ, relative to the largest value of the output.
TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "float16": 1e-2, "bfloat16": 5e-2}


@dataclass
class Folded:
    """A model before and after, and what the plan says."""

    before: keras.Model
    after: KerasModel
    plan: Plan

    @property
    def model(self) -> keras.Model:
        return self.after.keras_model

    @property
    def types(self) -> list[str]:
        """The types of the operators after folding, a fused activation apart from its layer."""
        return [op.type for op in self.after.graph.ops()]

    @property
    def batchnorms(self) -> int:
        return batchnorms(self.model)

    @property
    def codes(self) -> set[str]:
        """The codes of all refusals on either side of what stayed."""
        return {refusal.code for item in self.plan.remaining for refusal in (item.backward, item.forward)}

    @property
    def kinds(self) -> list[str]:
        return [step.kind for step in self.plan.steps]


def functional(shape: Sequence[int | None], body: Callable[[Any], Any], **options: Any) -> keras.Model:
    """The model of one input that ``body`` builds."""
    image = Input(shape, **options)
    return keras.Model(image, body(image))


def positive(scale: float = 2.0) -> layers.Layer:
    """A layer that is a scale and no more."""
    return layers.Rescaling(scale)


def outputs_of(model: keras.Model, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """What the model computes, without the cost of compiling it for ``predict``."""
    values = list(inputs.values())
    structure = values[0] if len(values) == 1 else dict(inputs) if isinstance(model.input, dict) else values
    return [keras.ops.convert_to_numpy(tensor) for tensor in keras.tree.flatten(model(structure, training=False))]


def assert_same(model: keras.Model, other: keras.Model, inputs: Mapping[str, np.ndarray]) -> None:
    """Two models put out the same, to rounding relative to the range of each output."""
    expected, actual = outputs_of(model, inputs), outputs_of(other, inputs)
    assert len(expected) == len(actual)
    policy = {getattr(layer, "compute_dtype", "float32") for layer in model.layers}
    tolerance = max(TOLERANCE.get(name, 0.0) for name in policy)
    for a, b in zip(expected, actual, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        wide, off = a.astype(np.float64), np.abs(a.astype(np.float64) - b.astype(np.float64)).max()
        assert off <= tolerance * max(np.abs(wide).max(), 1e-3), f"off by {off:.3g} in {np.abs(wide).max():.3g}"


def fold(model: keras.Model, *, seed: int = 0, **options: Any) -> Folded:
    """Fold a model with random weights, and assert everything that has to hold for any fold."""
    original = read(randomised(model, seed))
    weights = [np.array(value) for value in model.get_weights()]
    graph, plan = fold_graph(original.graph, **options)
    after = original.with_graph(graph)
    for old, now in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, now)
    assert_same(model, after.keras_model, feeds(original))
    again = fold_graph(read(after.keras_model).graph, **options)[1]
    assert not again.steps, [step.sentence() for step in again.steps]
    return Folded(model, after, plan)


def assert_gone(folded: Folded, *left: str) -> None:
    """No affine is left, and the operators are ``left`` where those are given."""
    assert not {"BatchNormalization", "Rescaling", "Normalization"} & set(folded.types), folded.plan.remaining
    if left:
        assert sorted(folded.types) == sorted(left)


def assert_stays(folded: Folded, code: str) -> None:
    """Nothing was folded, for the reason of that code."""
    assert not folded.plan.steps, [step.sentence() for step in folded.plan.steps]
    assert code in folded.codes, [item.sentence() for item in folded.plan.remaining]
