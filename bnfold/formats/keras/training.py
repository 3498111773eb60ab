"""What belongs to a Keras model that is trained: how it was compiled, and statistics measured on data."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bnfold.errors import UsageError, shortened
from bnfold.formats.keras import inspection, topology
from bnfold.formats.keras.backend import import_h5py, quiet
from bnfold.formats.keras.files import LOAD_ERRORS
from bnfold.formats.keras.reading import Reading
from bnfold.graph import Array

_BATCH = 256
#: How far gamma may be from the measured deviation so that it rounds well, and how many numbers are tried.
_STRAY, _CANDIDATES = 5e-5, 801


def compile_settings(model: Any, path: Path | None) -> Mapping[str, Any] | None:
    """How a model was compiled, as Keras writes it down; of one that was loaded without that, what its file says.

    None for a model that was not compiled.
    """
    settings: Mapping[str, Any] | None = None
    if getattr(model, "compiled", False):
        settings = model.get_compile_config()
    elif path is not None and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            settings = json.loads(archive.read(inspection.CONFIG)).get("compile_config")
    elif path is not None:
        settings = _legacy_settings(path)
    return settings


def _legacy_settings(path: Path) -> Mapping[str, Any] | None:
    """Of an HDF5 file: the same entries, the optimizer under another name and none with its class's module."""
    with import_h5py().File(path, "r") as file:
        text = file.attrs.get("training_config")
    if text is None:
        return None
    written = json.loads(text)
    return {
        "optimizer": _located(written.get("optimizer_config"), "keras.optimizers"),
        "loss": _located(written.get("loss"), "keras.losses"),
        "metrics": _located(written.get("metrics"), "keras.metrics"),
        "weighted_metrics": _located(written.get("weighted_metrics"), "keras.metrics"),
        "loss_weights": written.get("loss_weights"),
    }


def _located(value: Any, module: str) -> Any:
    """A configuration in which every class has a module."""
    if isinstance(value, list):
        return [_located(item, module) for item in value]
    if not isinstance(value, dict):
        return value
    if "class_name" in value:
        return {"module": module, "registered_name": None, **value}
    return {key: _located(item, module) for key, item in value.items()}


def compile_as(keras: Any, model: Any, settings: Mapping[str, Any] | None) -> str:
    """Compile a model with those settings; a remark for the user, on what was kept and what was not."""
    if not settings:
        return ""
    try:
        with quiet():
            model.compile(**keras.saving.deserialize_keras_object(dict(settings)))
            model.optimizer.build(model.trainable_variables)
    except LOAD_ERRORS as error:
        return f"the compile settings could not be kept: {shortened(error)}"
    return "compile settings were kept, the optimizer's state was not: it belongs to weights that may be gone"


def measure(reading: Reading, ops: Collection[str], data: Mapping[str, Array]) -> None:
    """Give BN layers that do nothing the mean and variance of what passes them on ``data``; they still do nothing.

    ``ops`` are their operators, ``data`` holds an array an input, by name. The layers are changed in place.
    With a mean m and a variance v that were measured, a BN that added s before has gamma √(v + ε) and beta m + s.
    """
    layers = {id(call.layer): call.layer for name in ops if (call := reading.calls.get(name)) is not None}
    with _recording(layers.values()) as records, quiet():
        for batch in _batches(reading, data):
            reading.root.model(batch, training=False)
    for layer in layers.values():
        _set(layer, *records[id(layer)].statistics())


class _Record:
    """Sums over everything that a layer was called on, channel by channel, in float64."""

    def __init__(self, axis: int) -> None:
        self.axis = axis
        self.count = 0
        self.mean: Any = 0.0
        self.squares: Any = 0.0

    def add(self, values: Array) -> None:
        rows = np.moveaxis(np.asarray(values, np.float64), self.axis, -1)
        rows = rows.reshape(-1, rows.shape[-1])
        count, mean = len(rows), rows.mean(axis=0)
        total, delta = self.count + count, mean - self.mean
        # Chan, Golub and LeVeque, 1979: two parts' sums of squares from their own means.
        self.squares = self.squares + ((rows - mean) ** 2).sum(axis=0) + delta**2 * self.count * count / total
        self.mean = self.mean + delta * count / total
        self.count = total

    def statistics(self) -> tuple[Any, Any]:
        return self.mean, self.squares / self.count


@contextmanager
def _recording(layers: Collection[Any]) -> Iterator[dict[int, _Record]]:
    records = {id(layer): _Record(layer.axis) for layer in layers}

    def recorded(layer: Any) -> Callable[..., Any]:
        own = layer.call

        def call(inputs: Any, *arguments: Any, **keywords: Any) -> Any:
            records[id(layer)].add(np.asarray(inputs))
            return own(inputs, *arguments, **keywords)

        return call

    for layer in layers:
        layer.call = recorded(layer)
    try:
        yield records
    finally:
        for layer in layers:
            del layer.call


def _batches(reading: Reading, data: Mapping[str, Array]) -> Iterator[Any]:
    import keras

    arrays = [data[name] for name in reading.root.inputs]
    structure = topology.input_structure(reading.root.network)
    for start in range(0, len(arrays[0]), _BATCH):
        batch = [array[start : start + _BATCH] for array in arrays]
        yield batch[0] if len(batch) == 1 else keras.tree.pack_sequence_as(structure, batch)


def _set(layer: Any, mean: Array, variance: Array) -> None:
    shift = -np.asarray(layer.moving_mean, np.float64)
    if layer.beta is not None:
        shift = shift + np.asarray(layer.beta, np.float64)
    if layer.gamma is None or layer.beta is None:
        return  # without a scale or a shift of its own it could not stay what it is
    gamma, variance = _identity(variance, layer.epsilon, np.asarray(layer.gamma).dtype)
    layer.gamma.assign(gamma)
    layer.moving_variance.assign(variance)
    layer.moving_mean.assign(mean)
    layer.beta.assign(np.asarray(layer.moving_mean, np.float64) + shift)


def _identity(variance: Array, epsilon: float, dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """A gamma and a variance for each channel with ``gamma / √(variance + epsilon)`` as near to 1 as numbers get.

    Rounded each by itself they leave a rounding of 1, and that times the mean is a shift, which is large beside an
    input that is small. So gamma is looked for within 5e-5 of what it would be, which changes nothing for training:
    where the quotient is 1 in ``dtype``, by a root and by TensorFlow's reciprocal root, and nearest to it in float64.
    """
    import keras

    stray = 1 + np.linspace(-_STRAY, _STRAY, _CANDIDATES)
    gamma = (np.sqrt(variance + epsilon) * stray[:, None]).astype(dtype)
    rest = np.maximum(gamma.astype(np.float64) ** 2 - epsilon, 0).astype(dtype)
    off = np.abs(gamma.astype(np.float64) / np.sqrt(rest.astype(np.float64) + epsilon) - 1)
    one, spread = np.ones((), dtype), rest + dtype.type(epsilon)
    for reciprocal in (one / np.sqrt(spread), np.asarray(keras.ops.rsqrt(spread))):
        off += reciprocal * gamma != one
    best = off.argmin(axis=0)[None]
    return np.take_along_axis(gamma, best, 0)[0], np.take_along_axis(rest, best, 0)[0]


def load_data(reading: Reading, path: Path) -> dict[str, Array]:
    """The inputs in an ``.npz`` (under the inputs' names, ``x_train`` or ``x``) or, for one input, an ``.npy`` file.

    Raises UsageError where they are not there or do not fit the model.
    """
    names = list(reading.root.inputs)
    try:
        stored = np.load(path, allow_pickle=False)
        found = {"x": stored} if isinstance(stored, np.ndarray) else dict(stored)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        words = getattr(error, "strerror", None) or error
        raise UsageError(f"{path} cannot be read as .npz or .npy: {shortened(words)}") from error
    if len(names) == 1 and names[0] not in found:
        key = next((key for key in ("x_train", "x") if key in found), None)
        found = {names[0]: found[key]} if key is not None else found
    missing = [name for name in names if name not in found]
    if missing:
        raise UsageError(f"{path} holds no array for {', '.join(missing)}: it has {', '.join(found) or 'none'}")
    data = {name: found[name] for name in names}
    check_data(reading, data, str(path))
    return data


def check_data(reading: Reading, data: Mapping[str, Array], source: str) -> None:
    """Raise UsageError where arrays do not fit the inputs of a model."""
    lengths = {len(array) for array in data.values() if array.ndim}
    if len(lengths) != 1 or 0 in lengths:
        raise UsageError(f"{source}: every input needs the same number of examples, and at least one")
    for tensor in reading.graph.inputs:
        shape, wanted = data[tensor.name].shape, tensor.shape or ()
        fits = len(shape) == len(wanted) and all(
            size is None or size == own for size, own in zip(wanted[1:], shape[1:], strict=True)
        )
        if not fits or data[tensor.name].dtype.kind not in "fiub":
            raise UsageError(f"{source}: {tensor.name} takes numbers of shape {wanted}, not {shape}")
