"""Fold one Keras file to a Keras file with bnfold's API and print, as JSON, what it took and what came out.

python keras_job.py MODEL.keras
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import bnfold

_BATCH = 2


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    result = work()
    return result, time.perf_counter() - started


def read(path: Path) -> keras.Model:
    return keras.models.load_model(path, compile=False)


def batchnorms(model: keras.Model) -> int:
    layers = model._flatten_layers(include_self=False)
    return sum(isinstance(layer, keras.layers.BatchNormalization) for layer in layers)


def difference(model: keras.Model, folded: keras.Model) -> float:
    """The largest difference of the outputs on a random batch, relative to the range of the original's."""
    rng = np.random.default_rng(0)
    batch = rng.standard_normal((_BATCH, *model.input_shape[1:])).astype(np.float32)
    expected, actual = (np.asarray(one.predict_on_batch(batch), np.float64) for one in (model, folded))
    return float(np.abs(expected - actual).max() / np.ptp(expected))


def job(path: Path) -> dict[str, Any]:
    read(path)  # the first time either of them loads a model, it also imports what it needs for that
    bnfold.load(path)
    original, keras_load = timed(lambda: read(path))
    with tempfile.TemporaryDirectory(prefix="bnfold-bench-") as folder:
        _, keras_save = timed(lambda: original.save(Path(folder, "copy.keras")))
        model, load = timed(lambda: bnfold.load(path))
        result, fold = timed(lambda: bnfold.fold(model))
        target = Path(folder, "folded.keras")
        _, save = timed(lambda: result.model.save(target))
        folded = read(target)
    return {
        "keras_load": keras_load,
        "keras_save": keras_save,
        "load": load,
        "fold": fold,
        "save": save,
        "parameters_before": original.count_params(),
        "parameters_after": folded.count_params(),
        "batchnorms_before": batchnorms(original),
        "batchnorms_after": batchnorms(folded),
        "difference": difference(original, folded),
    }


if __name__ == "__main__":
    print(json.dumps(job(Path(sys.argv[1]))))
