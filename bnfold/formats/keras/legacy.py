"""Configurations written by Keras 1 and 2, brought into the form that Keras 3 reads.

Keras 3 reads most of them as they are; it trips over arguments that were dropped since, all of
which say "as usual" in nearly every model.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bnfold.errors import ModelFileError
from bnfold.formats.keras.inspection import layer_name, objects
from bnfold.formats.keras.keras1 import convert_config

_ONE_GROUP = {"groups": (1, None)}
#: Arguments that Keras 3 no longer has, by class ("" for any), with the values that mean "as usual".
_DROPPED: dict[str, dict[str, tuple[Any, ...]]] = {
    "": {"time_major": (False,), "virtual_batch_size": (None,), "softmax_robust_masking": (False,)},
    **{f"{kind}Conv{rank}D": _ONE_GROUP for kind in ("Depthwise", "Separable") for rank in (1, 2)},
    **{f"Conv{rank}DTranspose": _ONE_GROUP for rank in (1, 2, 3)},
    **{f"SpatialDropout{rank}D": {"noise_shape": (None,)} for rank in (1, 2, 3)},
}
#: Arguments that change no inference: how something is computed or initialised, or what the weights' shapes say.
_IGNORED: dict[str, tuple[str, ...]] = {
    "": ("implementation", "fused", "input_length", "input_dtype", "ragged", "rng_type"),
    **{f"SeparableConv{rank}D": ("kernel_initializer", "kernel_regularizer", "kernel_constraint") for rank in (1, 2)},
    "Embedding": ("activity_regularizer",),
    "MultiHeadAttention": ("query_shape", "key_shape", "value_shape"),
}
_KERAS_2_PACKAGES = (
    *("tf_keras.", "tensorflow.keras.", "tensorflow.python.keras."),
    *("keras.engine.", "keras.src.engine.", "keras.layers.experimental."),
)

#: What Keras 2 made of ``tf.nn.relu(x)``, ``x + 1`` or ``x[:, 0]`` on a layer's output.
_TENSORFLOW_CALLS = {"TFOpLambda", "SlicingOpLambda", "TensorFlowOpLayer", "ClassMethod", "InstanceMethod"}
_MODULES = {"Functional": "keras.src.models.functional", "Sequential": "keras", "Model": "keras"}


def modernise(path: Path, config: Mapping[str, Any], keras_version: str) -> dict[str, Any]:
    """A copy of a model's configuration that Keras 3 can read; equal to it where nothing had to change.

    Raises ModelFileError where a layer asks for what Keras 3 cannot do.
    """
    result: dict[str, Any] = copy.deepcopy(dict(config))
    if major(keras_version) >= 3:
        return result
    _shape_sequential(result)
    if major(keras_version) == 1:
        convert_config(path, result)
    for item in list(objects(result)):
        _modernise_item(path, item)
    _join_names(result)
    return result


def major(keras_version: str) -> int:
    """The first number of a version; Keras wrote none into its files before version 1 was well on its way."""
    first = keras_version.split(".")[0]
    return int(first) if first.isdigit() else 1


def _shape_sequential(config: dict[str, Any]) -> None:
    """Up to Keras 2.2 the configuration of a Sequential was the bare list of its layers, and the first one
    told the shape of the input.
    """
    sequentials = [item for item in objects(config) if item["class_name"] == "Sequential"]
    for count, item in enumerate(sequentials):
        if isinstance(item["config"], list):
            name = "sequential" if count == 0 else f"sequential_{count}"
            item["config"] = {"name": name, "layers": item["config"]}  # type: ignore[index]
        layers = item["config"].get("layers") or [{}]
        first = layers[0].get("config")
        if isinstance(first, dict) and "batch_input_shape" in first and layers[0]["class_name"] != "InputLayer":
            declared = {"batch_shape": first["batch_input_shape"], "name": f"{first.get('name')}_input"}
            kept = {key: layers[0][key] for key in ("module",) if key in layers[0]}
            layers.insert(0, {**kept, "class_name": "InputLayer", "config": declared})


def _modernise_item(path: Path, item: Any) -> None:
    module = item.get("module")
    if isinstance(module, str) and f"{module}.".startswith(_KERAS_2_PACKAGES):
        item["module"] = _MODULES.get(item["class_name"], "keras.layers")
    if item["class_name"] in _TENSORFLOW_CALLS:
        raise ModelFileError(
            f"{path}: {layer_name(item)!r} is a TensorFlow operation called in a Keras 2 model, which Keras 3 cannot "
            "load: save the model there as a SavedModel folder and give bnfold that"
        )
    config = item["config"]
    if not isinstance(config, dict):
        return
    shape = config.pop("batch_input_shape", None)
    if shape is not None and item["class_name"] == "InputLayer":
        config["batch_shape"] = shape
    if item["class_name"] == "SyncBatchNormalization":
        if module:
            # There the stored weights are found by the name of a class that is gone.
            raise ModelFileError(f"{path} holds a SyncBatchNormalization of Keras 2: save the model as .h5 there")
        item["class_name"] = "BatchNormalization"
        config["synchronized"] = True
    if item["class_name"] == "GRU":
        # Before Keras 2.1 there was only this variant, and no argument to choose it.
        config.setdefault("reset_after", False)
    _one_axis(path, item)
    for key, usual in {**_DROPPED[""], **_DROPPED.get(item["class_name"], {})}.items():
        if key in config and config.pop(key) not in usual:
            raise ModelFileError(
                f"{path}: layer {layer_name(item)!r} ({item['class_name']}) sets {key}, which Keras 3 no longer has"
            )
    if item["class_name"] != "InputLayer":
        for key in (*_IGNORED[""], *_IGNORED.get(item["class_name"], ())):
            config.pop(key, None)


def _one_axis(path: Path, item: Any) -> None:
    axis = item["config"].get("axis")
    if item["class_name"] != "BatchNormalization" or not isinstance(axis, list):
        return
    if len(axis) != 1:
        raise ModelFileError(
            f"{path}: layer {layer_name(item)!r} normalises over the axes {axis} at once, which Keras 3 cannot do"
        )
    item["config"]["axis"] = axis[0]


def _join_names(config: Any) -> None:
    """Layer names with a slash, which Keras 3 does not allow, get an underscore in its place.

    Names also stand in the lists of inbound nodes, inputs and outputs, so every equal string is replaced.
    """
    slashed = {layer_name(item) for item in objects(config) if "/" in layer_name(item)}
    if slashed:
        _replace(config, {name: name.replace("/", "_") for name in slashed})


def _replace(value: Any, names: Mapping[str, str]) -> None:
    stack = [value]
    while stack:
        container = stack.pop()
        for key, entry in list(container.items() if isinstance(container, dict) else enumerate(container)):
            if isinstance(entry, str):
                container[key] = names.get(entry, entry)
            elif isinstance(entry, dict | list):
                stack.append(entry)
