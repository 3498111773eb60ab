"""Small Keras models for tests, their statistics made random, and a folder that is simple enough to be right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import keras
import numpy as np
from keras import Input, layers

from bnfold.formats.keras import load
from bnfold.formats.keras.model import KerasModel
from bnfold.graph import ModelGraph, Op, Param


def randomised(model: keras.Model, seed: int = 0) -> keras.Model:
    """Give every weight a value that depends on the seed alone, and every BN statistics as after training,
    some scales negative; return the model.
    """
    random = np.random.default_rng(seed)
    for layer in model._flatten_layers():
        if not layer._layers and not isinstance(layer, layers.Normalization):
            for variable in layer.weights:
                if variable.dtype != "int64":
                    variable.assign(random.normal(size=variable.shape) * 0.3)
        if isinstance(layer, layers.BatchNormalization):
            channels = layer.moving_mean.shape[0]
            layer.moving_mean.assign(random.normal(size=channels) * 0.3)
            layer.moving_variance.assign(random.uniform(0.5, 2, channels))
            if layer.scale:
                layer.gamma.assign(random.uniform(0.5, 1.5, channels) * random.choice([1, -1], channels))
            if layer.center:
                layer.beta.assign(random.normal(size=channels))
    return model


def read(model: keras.Model) -> KerasModel:
    loaded = load(model)
    assert isinstance(loaded, KerasModel)
    return loaded


def feeds(model: KerasModel, seed: int = 1) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        tensor.name: (
            random.integers(0, 5, (3, *tensor.shape[1:]))
            if tensor.dtype.kind == "i"
            else random.normal(size=(3, *tensor.shape[1:]))
        ).astype(tensor.dtype)
        for tensor in model.graph.inputs
    }


def types(model: KerasModel) -> list[str]:
    return [op.type for op in model.graph.ops()]


def batchnorms(model: keras.Model) -> int:
    return sum(isinstance(layer, layers.BatchNormalization) for layer in model._flatten_layers())


def normalised_config(model: keras.Model) -> Any:
    """A model's configuration with every tuple as a list, for comparison."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: plain(entry) for key, entry in value.items()}
        return [plain(entry) for entry in value] if isinstance(value, list | tuple) else value

    return plain(keras.saving.serialize_keras_object(model))


#: In which slot the kernel stands that a following per-channel scale goes into.
KERNEL_SLOTS = {
    **dict.fromkeys(("Dense", "EinsumDense", "Conv1D", "Conv2D", "Conv3D", "DepthwiseConv2D", "Conv2DTranspose"), 1),
    **dict.fromkeys(("Conv1DTranspose", "Conv3DTranspose", "DepthwiseConv1D"), 1),
    **dict.fromkeys(("SeparableConv1D", "SeparableConv2D"), 2),
}


def folded(model: KerasModel) -> KerasModel:
    """Each BN into the linear layer before it, where nobody else reads that layer."""
    graph = model.graph.copy()
    for norm in [op for op in graph.ops() if op.type == "BatchNormalization" and "training" not in op.attributes]:
        linear = graph.producer(norm.inputs[0])
        if linear is None or linear.type not in KERNEL_SLOTS or graph.use_count(norm.inputs[0]) != 1:
            continue
        scale, shift = affine(graph, norm)
        graph.remove(norm.name)
        graph.put(_scaled(graph, linear, scale, shift, norm.outputs))
    return model.with_graph(graph)


def affine(graph: ModelGraph, norm: Op) -> tuple[np.ndarray, np.ndarray]:
    gamma, beta, mean, variance = (graph.params[name].exact() if name else None for name in norm.inputs[1:])
    scale = (1.0 if gamma is None else gamma) / np.sqrt(variance + norm.attributes["epsilon"])
    return scale, (0.0 if beta is None else beta) - mean * scale


def _scaled(graph: ModelGraph, op: Op, scale: np.ndarray, shift: np.ndarray, outputs: tuple[str, ...]) -> Op:
    slot = KERNEL_SLOTS[op.type]
    kernel = graph.params[op.inputs[slot]]
    weights = kernel.exact()
    if op.type.startswith("Depthwise"):
        weights = weights * scale.reshape(weights.shape[-2:])
    elif op.type.endswith("Transpose"):
        weights = weights * scale[:, None]
    else:
        weights = weights * scale
    bias = graph.params[op.inputs[slot + 1]].exact() if op.inputs[slot + 1] else 0.0
    inputs = list(op.inputs)
    inputs[slot] = constant(graph, kernel.name, weights, kernel)
    inputs[slot + 1] = constant(graph, f"{op.name}/bias", bias * scale + shift, kernel)
    return replace(op, inputs=tuple(inputs), outputs=outputs, record=None)


def constant(graph: ModelGraph, stem: str, values: np.ndarray, like: Param) -> str:
    name = graph.fresh(stem)
    graph.params[name] = Param.of(name, values, like.dtype)
    return name


def conv_bn_relu() -> keras.Model:
    image = Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, padding="same", use_bias=False, name="conv")(image)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.ReLU(name="relu")(x)
    x = layers.GlobalAveragePooling2D(name="average")(x)
    return keras.Model(image, layers.Dense(2, activation="softmax", name="classes")(x), name="small")


def shared_tower() -> keras.Model:
    """One nested model called on two inputs, inputs and outputs in dicts."""
    tower = keras.Sequential(
        [Input((4,)), layers.Dense(6, name="dense"), layers.BatchNormalization(name="bn"), layers.ReLU(name="relu")],
        name="tower",
    )
    a, b = Input((4,), name="a"), Input((4,), name="b")
    outputs = {"second": tower(b), "first": layers.Dense(2, name="head")(tower(a))}
    return keras.Model({"a": a, "b": b}, outputs, name="twins")
