"""Networks with random weights and BN statistics → ONNX and Keras files, as exported from training."""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path
from typing import Any

from architectures import KERAS, TORCH
from bn_statistics import fill_keras, fill_torch

SEED = 0
OPSET = 17


def build_onnx(name: str, folder: Path) -> Path:
    """The ONNX file of a network of ``architectures``, written into the folder unless it is there."""
    path = folder / f"{name}.onnx"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.onnx")
        (_torch_to_onnx if name in TORCH else _keras_to_onnx)(name, partial)
        partial.replace(path)
    return path


def build_keras(name: str, folder: Path) -> Path:
    """The ``.keras`` file of a network, written into the folder unless it is there."""
    path = folder / f"{name}.keras"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        keras_model(name).save(path)
    return path


def _torch_to_onnx(name: str, path: Path) -> None:
    import torch

    network = TORCH[name]
    torch.manual_seed(SEED)
    model = network.build()
    fill_torch(model, network.shape, SEED, network.gamma)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecation of this exporter, and shapes traced as constants
        # Unless told to preserve it, the exporter folds a BN into the convolution before it.
        torch.onnx.export(
            model,
            (torch.zeros(1, *network.shape),),
            path,
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
            dynamo=False,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["output"],
            dynamic_axes={"image": {0: "batch"}, "output": {0: "batch"}},
        )


def keras_model(name: str) -> Any:
    """A ``keras.Model`` with its random weights and statistics."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras

    keras.utils.set_random_seed(SEED)
    network = KERAS[name]
    model = network.build()
    fill_keras(model, network.shape, SEED, network.gamma)
    return model


def _keras_to_onnx(name: str, path: Path) -> None:
    logging.disable(logging.ERROR)  # tf2onnx logs with a traceback each optimisation that it gives up
    try:
        keras_model(name).export(path, format="onnx", verbose=False)
    finally:
        logging.disable(logging.NOTSET)
