"""Files in the dialects of Keras 1 and 2, made by hand from what Keras 3 wrote."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from keras import Input, layers
from keras_models import feeds, randomised, read

from bnfold.errors import ModelFileError
from bnfold.formats.keras import inspection, load


def old_file(model: keras.Model, path: Path, version: str, change: Callable[[Any], Any] | None = None) -> Path:
    """Save a model and rewrite its configuration as an older version would have put it.

    ``change`` gets the configuration and returns the new one, or changes it in place.
    """
    model.save(path)
    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        config = json.loads(members["config.json"])
        members["config.json"] = json.dumps((change(config) if change else None) or config).encode()
        members["metadata.json"] = json.dumps({"keras_version": version}).encode()
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return path
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        file.attrs["model_config"] = json.dumps((change(config) if change else None) or config)
        for group in (file, file["model_weights"]):
            group.attrs["keras_version"] = version
    return path


def check(model: keras.Model, path: Path) -> None:
    """The file gives the model's predictions."""
    loaded = load(path)
    inputs = feeds(loaded)
    for expected, actual in zip(
        read(model).predict(dict(zip([t.name for t in read(model).graph.inputs], inputs.values(), strict=True))),
        loaded.predict(inputs),
        strict=True,
    ):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6)


def by_class(config: Any, name: str) -> list[Any]:
    return [item for item in inspection.objects(config) if item["class_name"] == name]


# -- Keras 2 -----------------------------------------------------------------------------------------------------


def convolutions() -> keras.Model:
    stack = [
        Input((12, 12, 3)),
        layers.Conv2D(4, 3),
        layers.BatchNormalization(),
        layers.DepthwiseConv2D(3),
        layers.Conv2DTranspose(4, 3),
        layers.SeparableConv2D(5, 3),
        layers.SpatialDropout2D(0.5),
        layers.GlobalAveragePooling2D(),
        layers.Dense(2),
    ]
    return randomised(keras.Sequential(stack))


def keras_2_convolutions(config: Any) -> None:
    for item in by_class(config, "BatchNormalization"):
        item["config"]["axis"] = [3]
        item["config"] |= {"virtual_batch_size": None, "fused": True}
    for name in ("DepthwiseConv2D", "Conv2DTranspose", "SeparableConv2D"):
        for item in by_class(config, name):
            item["config"]["groups"] = 1
    for item in by_class(config, "SeparableConv2D"):
        item["config"] |= {
            "kernel_initializer": "glorot_uniform",
            "kernel_regularizer": None,
            "kernel_constraint": None,
        }
    for item in by_class(config, "SpatialDropout2D"):
        item["config"]["noise_shape"] = None
    for item in by_class(config, "InputLayer"):
        item["config"]["batch_input_shape"] = item["config"].pop("batch_shape")


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_dropped_arguments(suffix: str, tmp_path: Path) -> None:
    model = convolutions()
    check(model, old_file(model, tmp_path / f"model{suffix}", "2.15.0", keras_2_convolutions))


def test_an_argument_that_keras_3_cannot_honour(tmp_path: Path) -> None:
    def change(config: Any) -> None:
        by_class(config, "DepthwiseConv2D")[0]["config"]["groups"] = 3

    path = old_file(convolutions(), tmp_path / "model.h5", "2.15.0", change)
    with pytest.raises(ModelFileError, match="sets groups, which Keras 3 no longer has"):
        load(path)


def test_a_batchnorm_over_two_axes(tmp_path: Path) -> None:
    def change(config: Any) -> None:
        by_class(config, "BatchNormalization")[0]["config"]["axis"] = [1, 2]

    path = old_file(convolutions(), tmp_path / "model.h5", "2.15.0", change)
    with pytest.raises(ModelFileError, match=r"normalises over the axes \[1, 2\]"):
        load(path)


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_recurrent_layers(suffix: str, tmp_path: Path) -> None:
    model = randomised(
        keras.Sequential(
            [
                Input((5,), dtype="int32"),
                layers.Embedding(7, 4),
                layers.Bidirectional(layers.LSTM(3, return_sequences=True)),
                layers.GRU(3, reset_after=False),
            ]
        )
    )

    def change(config: Any) -> None:
        for item in [*by_class(config, "LSTM"), *by_class(config, "GRU")]:
            item["config"] |= {"time_major": False, "implementation": 2}
        for item in by_class(config, "GRU"):
            del item["config"]["reset_after"]
        by_class(config, "Embedding")[0]["config"] |= {"input_length": 5, "activity_regularizer": None}

    check(model, old_file(model, tmp_path / f"model{suffix}", "2.2.4", change))


def test_a_sequential_that_is_a_bare_list(tmp_path: Path) -> None:
    model = convolutions()

    def change(config: Any) -> None:
        first, *others = config["config"]["layers"]
        others[0]["config"]["batch_input_shape"] = first["config"]["batch_shape"]
        config["config"] = others

    check(model, old_file(model, tmp_path / "model.h5", "2.0.5", change))


def test_names_with_slashes(tmp_path: Path) -> None:
    x = Input((4,), name="x")
    model = randomised(keras.Model(x, layers.Dense(2, name="b")(layers.Dense(3, name="block_a")(x)), name="m"))

    def change(config: Any) -> Any:
        return json.loads(json.dumps(config).replace('"block_a"', '"block/a"'))

    path = old_file(model, tmp_path / "model.h5", "2.4.0", change)
    check(model, path)
    assert [op.name for op in load(path).graph.ops()] == ["block_a", "b"]


def test_functional_models_of_the_newer_format(tmp_path: Path) -> None:
    x = Input((4,), name="x")
    model = randomised(keras.Model(x, layers.Dense(3, name="dense")(x), name="m"))

    def change(config: Any) -> None:
        config["module"] = "keras.src.engine.functional"
        for item in config["config"]["layers"]:
            item["inbound_nodes"] = [[["x", 0, 0, {}]]] if item["name"] == "dense" else []
        config["config"]["input_layers"] = [["x", 0, 0]]
        config["config"]["output_layers"] = [["dense", 0, 0]]

    check(model, old_file(model, tmp_path / "model.keras", "2.13.1", change))


def test_synchronised_batchnorms(tmp_path: Path) -> None:
    model = convolutions()

    def change(config: Any) -> None:
        for item in by_class(config, "BatchNormalization"):
            item["class_name"] = "SyncBatchNormalization"
            item["config"].pop("synchronized")

    path = old_file(model, tmp_path / "model.h5", "2.12.0", change)
    check(model, path)
    assert any(op.attributes.get("synchronized") for op in load(path).graph.ops())
    with pytest.raises(ModelFileError, match="SyncBatchNormalization of Keras 2"):
        load(old_file(model, tmp_path / "model.keras", "2.12.0", change))


def test_tensorflow_operations_called_on_layers(tmp_path: Path) -> None:
    def change(config: Any) -> None:
        by_class(config, "GlobalAveragePooling2D")[0]["class_name"] = "TFOpLambda"

    with pytest.raises(ModelFileError, match="TensorFlow operation called in a Keras 2 model"):
        load(old_file(convolutions(), tmp_path / "model.h5", "2.9.0", change))


def test_a_theano_file_is_refused_if_it_has_kernels_to_flip(tmp_path: Path) -> None:
    path = old_file(convolutions(), tmp_path / "model.h5", "2.1.0")
    with h5py.File(path, "r+") as file:
        file.attrs["backend"] = "theano"
    with pytest.raises(ModelFileError, match="Theano"):
        load(path)
    dense = randomised(keras.Sequential([Input((4,)), layers.Dense(3)]))
    path = old_file(dense, tmp_path / "dense.h5", "2.1.0")
    with h5py.File(path, "r+") as file:
        file.attrs["backend"] = "theano"
    check(dense, path)


# -- Keras 1 -----------------------------------------------------------------------------------------------------


def keras_1_file(path: Path, stack: list[Any], weights: dict[str, list[np.ndarray]]) -> Path:
    """A file as Keras 1.2 wrote it: the layers' configurations, and their weights in its layout."""
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = b"1.2.2"
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": stack}).encode()
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = [item["config"]["name"].encode() for item in stack]
        for item in stack:
            name = item["config"]["name"]
            layer = group.create_group(name)
            arrays = weights.get(name, [])
            layer.attrs["weight_names"] = [f"{name}_{at}".encode() for at in range(len(arrays))]
            for at, array in enumerate(arrays):
                layer[f"{name}_{at}"] = array
    return path


def layer(kind: str, name: str, **config: Any) -> dict[str, Any]:
    return {"class_name": kind, "config": {"name": name, "trainable": True, **config}}


TRAINING = {"init": "glorot_uniform", "W_regularizer": None, "b_regularizer": None, "W_constraint": None}


@pytest.mark.parametrize("ordering", ["tf", "th"])
def test_convolutions_of_keras_1(ordering: str, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    kernel, dense = random.normal(size=(3, 2, 4, 5)).astype("f"), random.normal(size=(5, 2)).astype("f")
    bias = random.normal(size=5).astype("f")
    first = ordering == "th"
    shape = [None, 4, 9, 9] if first else [None, 9, 9, 4]
    stack = [
        layer(
            "Convolution2D", "conv", batch_input_shape=shape, input_dtype="float32", nb_filter=5, nb_row=3, nb_col=2,
            border_mode="valid", subsample=[2, 1], dim_ordering=ordering, activation="relu", bias=True, **TRAINING,
        ),
        layer("BatchNormalization", "bn", mode=0, axis=1 if first else -1, epsilon=0.01, gamma_init="one"),
        layer("Dropout", "dropout", p=0.5),
        layer("GlobalAveragePooling2D", "pool", dim_ordering=ordering),
        layer("Dense", "dense", output_dim=2, bias=False, activation="linear", input_dim=None, **TRAINING),
    ]  # fmt: skip
    statistics = [random.uniform(0.5, 2, 5).astype("f") for _ in range(4)]
    stored = kernel.transpose(3, 2, 0, 1) if first else kernel
    weights = {"conv": [stored, bias], "bn": statistics, "dense": [dense]}
    loaded = load(keras_1_file(tmp_path / "model.h5", stack, weights))
    x = random.normal(size=(2, 9, 9, 4)).astype("f")
    gamma, beta, mean, variance = statistics
    y = np.maximum(keras.ops.conv(x, kernel, strides=(2, 1), padding="valid", data_format="channels_last") + bias, 0)
    y = (gamma * (y - mean) / np.sqrt(variance + 0.01) + beta).mean(axis=(1, 2)) @ dense
    (name,) = [tensor.name for tensor in loaded.graph.inputs]
    (actual,) = loaded.predict({name: x.transpose(0, 3, 1, 2) if first else x})
    np.testing.assert_allclose(actual, y, rtol=1e-4, atol=1e-5)


def test_an_lstm_of_keras_1_has_twelve_weights(tmp_path: Path) -> None:
    reference = randomised(keras.Sequential([Input((6, 3)), layers.LSTM(4, name="lstm")]))
    kernel, recurrent, bias = (np.split(array, 4, axis=-1) for array in reference.get_weights())
    order = (0, 2, 1, 3)  # Keras 1 stored input, cell, forget, output; now it is input, forget, cell, output
    arrays = [part[gate] for gate in order for part in (kernel, recurrent, bias)]
    config = {"output_dim": 4, "activation": "tanh", "inner_activation": "sigmoid", "return_sequences": False}
    config |= {"inner_init": "orthogonal", "forget_bias_init": "one", "consume_less": "cpu", "dropout_W": 0.0}
    stack = [layer("LSTM", "lstm", batch_input_shape=[None, 6, 3], input_dim=3, input_length=6, **config, **TRAINING)]
    check(reference, keras_1_file(tmp_path / "model.h5", stack, {"lstm": arrays}))


def test_a_gru_of_keras_1_has_nine_weights(tmp_path: Path) -> None:
    reference = randomised(keras.Sequential([Input((6, 3)), layers.GRU(4, reset_after=False, name="gru")]))
    parts = [np.split(array, 3, axis=-1) for array in reference.get_weights()]
    arrays = [part[gate] for gate in range(3) for part in parts]
    config = {"output_dim": 4, "activation": "tanh", "inner_activation": "sigmoid", "return_sequences": False}
    stack = [layer("GRU", "gru", batch_input_shape=[None, 6, 3], **config, **TRAINING)]
    check(reference, keras_1_file(tmp_path / "model.h5", stack, {"gru": arrays}))


def test_one_dimensional_and_transposed_convolutions_of_keras_1(tmp_path: Path) -> None:
    reference = randomised(keras.Sequential([Input((9, 3)), layers.Conv1D(4, 2, strides=2, name="conv")]))
    kernel, bias = reference.get_weights()
    config = {"nb_filter": 4, "filter_length": 2, "subsample_length": 2, "border_mode": "valid", "activation": "linear"}
    stack = [layer("Convolution1D", "conv", batch_input_shape=[None, 9, 3], **config, **TRAINING)]
    check(reference, keras_1_file(tmp_path / "one.h5", stack, {"conv": [kernel[:, None], bias]}))
    reference = randomised(keras.Sequential([Input((5, 5, 3)), layers.Conv2DTranspose(4, 3, strides=2, name="conv")]))
    kernel, bias = reference.get_weights()
    config = {"nb_filter": 4, "nb_row": 3, "nb_col": 3, "subsample": [2, 2], "border_mode": "valid", "bias": True}
    config |= {"output_shape": [None, 11, 11, 4], "dim_ordering": "tf", "activation": "linear"}
    stack = [layer("Deconvolution2D", "conv", batch_input_shape=[None, 5, 5, 3], **config, **TRAINING)]
    check(reference, keras_1_file(tmp_path / "two.h5", stack, {"conv": [kernel.transpose(0, 1, 3, 2), bias]}))


@pytest.mark.parametrize(
    ("mode", "merge"),
    [
        ("sum", layers.Add()),
        ("mul", layers.Multiply()),
        ("concat", layers.Concatenate(axis=-1)),
        ("ave", layers.Average()),
    ],
)
def test_merges_of_keras_1(mode: str, merge: layers.Layer, tmp_path: Path) -> None:
    x = Input((4,), name="x")
    dense = layers.Dense(4, name="dense")
    model = randomised(keras.Model(x, merge([x, dense(x)])))
    config = {
        "name": "model",
        "layers": [
            {**layer("InputLayer", "x", batch_input_shape=[None, 4], input_dtype="float32"), "inbound_nodes": []},
            {**layer("Dense", "dense", output_dim=4, bias=True, **TRAINING), "inbound_nodes": [[["x", 0, 0]]]},
            {
                **layer("Merge", "merge", mode=mode, concat_axis=-1, dot_axes=-1, mode_type="raw"),
                "inbound_nodes": [[["x", 0, 0], ["dense", 0, 0]]],
            },
        ],
        "input_layers": [["x", 0, 0]],
        "output_layers": [["merge", 0, 0]],
    }
    for item in config["layers"]:
        item["name"] = item["config"]["name"]
    path = keras_1_file(tmp_path / "model.h5", config["layers"], {"dense": dense.get_weights()})
    with h5py.File(path, "r+") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Model", "config": config})
    check(model, path)


def test_a_per_sample_batchnorm_of_keras_1_is_refused(tmp_path: Path) -> None:
    stack = [layer("BatchNormalization", "bn", mode=1, batch_input_shape=[None, 4])]
    with pytest.raises(ModelFileError, match="'bn' is a BatchNormalization of mode 1"):
        load(keras_1_file(tmp_path / "model.h5", stack, {}))
