"""HDF5 files of Keras 1 (2015 to 2017), brought into the form of Keras 2.

Layers had other names for their arguments then, a kernel's axes another order where channels came
first, and an LSTM twelve weights. Initializers, regularizers and constraints, which only training
uses, are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bnfold.errors import ModelFileError
from bnfold.formats.keras.inspection import layer_name, objects
from bnfold.graph import Array

_CLASSES = {
    **{f"Convolution{n}D": f"Conv{n}D" for n in (1, 2, 3)},
    **{f"AtrousConvolution{n}D": f"Conv{n}D" for n in (1, 2)},
    "SeparableConvolution2D": "SeparableConv2D",
    "Deconvolution2D": "Conv2DTranspose",
}
_MERGES = {
    "sum": "Add",
    "mul": "Multiply",
    "ave": "Average",
    "max": "Maximum",
    "concat": "Concatenate",
    "dot": "Dot",
    "cos": "Dot",
}
_RENAMED = {
    "output_dim": "units",
    "nb_filter": "filters",
    "bias": "use_bias",
    "inner_activation": "recurrent_activation",
    "border_mode": "padding",
    "subsample": "strides",
    "subsample_length": "strides",
    "atrous_rate": "dilation_rate",
    "pool_length": "pool_size",
    "stride": "strides",
    "filter_length": "kernel_size",
    "length": "size",
    "p": "rate",
    "sigma": "stddev",
    "dropout_W": "dropout",
    "dropout_U": "recurrent_dropout",
}
#: Arguments that only training uses, or that the weights' shapes repeat.
_DROPPED = {
    *("init", "inner_init", "forget_bias_init", "gamma_init", "beta_init", "weights", "consume_less", "output_shape"),
    *(f"{weight}_{kind}" for weight in "WUb" for kind in ("regularizer", "constraint")),
    *(f"{weight}_{kind}" for weight in ("depthwise", "pointwise") for kind in ("regularizer", "constraint")),
    *("gamma_regularizer", "beta_regularizer", "activity_regularizer", "input_dim", "input_length", "input_dtype"),
}
_DATA_FORMATS = {"tf": "channels_last", "th": "channels_first", "default": "channels_last"}
_KERNELS = (("nb_row", "nb_col"), ("kernel_dim1", "kernel_dim2", "kernel_dim3"))


def convert_config(path: Path, config: Any) -> None:
    """Rewrite a model's configuration in place. Raises ModelFileError where Keras 2 had nothing like it."""
    for item in list(objects(config)):
        if isinstance(item["config"], dict):
            _convert_item(path, item)


def _convert_item(path: Path, item: Any) -> None:
    config = item["config"]
    if item["class_name"] == "Merge":
        _convert_merge(path, item)
        return
    if config.get("mode", 0) != 0 and item["class_name"] == "BatchNormalization":
        raise ModelFileError(f"{path}: layer {layer_name(item)!r} is a BatchNormalization of mode {config['mode']}")
    config.pop("mode", None)
    embedding = item["class_name"] == "Embedding"
    for names in _KERNELS:
        if names[0] in config:
            config["kernel_size"] = [config.pop(name) for name in names]
    if "dim_ordering" in config:
        config["data_format"] = _DATA_FORMATS[config.pop("dim_ordering")]
    for key in list(config):
        if embedding and key in ("input_dim", "output_dim"):
            continue
        if key in _DROPPED:
            del config[key]
        elif key in _RENAMED:
            config[_RENAMED[key]] = config.pop(key)
    if embedding:
        config.pop("dropout", None)
    if item["class_name"] == "GRU":
        config["reset_after"] = False
    item["class_name"] = _CLASSES.get(item["class_name"], item["class_name"])


def _convert_merge(path: Path, item: Any) -> None:
    config = item["config"]
    mode = config.get("mode")
    if mode not in _MERGES or "layers" in config:
        raise ModelFileError(f"{path}: layer {layer_name(item)!r} merges in a way that Keras no longer has ({mode!r})")
    item["class_name"] = _MERGES[mode]
    kept = {"name": config["name"]}
    if mode == "concat":
        kept["axis"] = config["concat_axis"]
    if item["class_name"] == "Dot":
        kept |= {"axes": config["dot_axes"], "normalize": mode == "cos"}
    item["config"] = kept


def convert_weights(path: Path, file: Any, config: Any) -> None:
    """Rewrite the weights of an open HDF5 file in place; ``config`` is the converted configuration."""
    group = file["model_weights"]
    items = {layer_name(item): item for item in config["config"]["layers"]}
    for name, item in items.items():
        if name not in group:
            continue
        if item["class_name"] in ("Sequential", "Model"):
            # The weights of all its layers stand in one list, which only these leave as they were.
            if any(_is_reordered(inner) for inner in objects(item["config"])):
                raise ModelFileError(f"{path}: the nested model {name!r} of Keras 1 holds layers stored another way")
            continue
        layer = item["config"]["layer"] if item["class_name"] == "TimeDistributed" else item
        names = [key.decode() if isinstance(key, bytes) else key for key in group[name].attrs["weight_names"]]
        old = [group[name][key][()] for key in names]
        new = _weights(layer["class_name"], layer["config"], old)
        if [array.shape for array in new] != [array.shape for array in old] or _is_reordered(layer):
            for key in names:
                del group[name][key]
            group[name].attrs["weight_names"] = [f"weight_{index}".encode() for index in range(len(new))]
            for index, array in enumerate(new):
                group[name][f"weight_{index}"] = array


def _is_reordered(item: Any) -> bool:
    config = item["config"]
    return isinstance(config, dict) and (
        item["class_name"] in ("Conv1D", "Conv2DTranspose", "LSTM", "GRU", "Bidirectional")
        or ("Conv" in item["class_name"] and config.get("data_format") == "channels_first")
    )


def _weights(kind: str, config: Any, weights: Sequence[Array]) -> list[Array]:
    """One layer's weights in the layout of Keras 2."""
    if kind == "LSTM" and len(weights) == 12:  # W, U, b of the gates input, cell, forget, output
        return [np.concatenate([weights[at + gate] for gate in (0, 6, 3, 9)], axis=-1) for at in range(3)]
    if kind == "GRU" and len(weights) == 9:
        return [np.concatenate([weights[at + gate] for gate in (0, 3, 6)], axis=-1) for at in range(3)]
    if kind == "Bidirectional":
        inner, half = config["layer"], len(weights) // 2
        halves = (weights[:half], weights[half:])
        return [array for part in halves for array in _weights(inner["class_name"], inner["config"], part)]
    if not weights or "Conv" not in kind:
        return list(weights)
    kernel, *others = weights
    first = config.get("data_format") == "channels_first"
    if kind == "Conv1D" and kernel.ndim == 4:
        length, filters = config["kernel_size"], config["filters"]
        if kernel.shape[:2] != (length, 1) or kernel.shape[3] != filters:
            kernel = kernel.transpose(2, 3, 1, 0)
        kernel = kernel[:, 0]
    elif kind == "Conv2DTranspose":
        kernel = kernel.transpose(2, 3, 0, 1) if first else kernel.transpose(0, 1, 3, 2)
    elif kind in ("Conv2D", "Conv3D", "SeparableConv2D") and first:
        kernel, *others = [_channels_last(array) for array in weights]
    return [kernel, *others]


def _channels_last(kernel: Array) -> Array:
    """``(out, in, *window)`` to ``(*window, in, out)``; a bias stays."""
    return kernel if kernel.ndim < 3 else np.moveaxis(kernel, (0, 1), (-1, -2))
