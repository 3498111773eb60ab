"""Keras models: ``.keras`` and HDF5 files, SavedModel folders and live models, read at the level of layers.

TensorFlow is imported when the first model is loaded, not before. What an operator of such a graph
looks like stands in :mod:`bnfold.formats.keras.layers`.
"""

from __future__ import annotations

import sys
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnfold.errors import ModelFileError

if TYPE_CHECKING:
    from bnfold.formats.keras.model import KerasModel
    from bnfold.graph import Model

__all__ = ["is_keras_model", "load", "recognizes"]

SUFFIXES = frozenset({".keras", ".h5", ".hdf5"})
#: What a zip archive (``.keras``) and an HDF5 file begin with.
_MAGIC = (b"PK\x03\x04", b"\x89HDF\r\n\x1a\n")


def recognizes(source: object) -> bool:
    """Is this a live model, a SavedModel folder or a Keras file, by its suffix or else by its first bytes?"""
    if not isinstance(source, (str, PathLike)):
        return is_keras_model(source)
    path = Path(source)
    suffix = path.suffix.lower()
    if path.is_dir():
        return (path / "saved_model.pb").is_file()
    if suffix in SUFFIXES or suffix == ".onnx" or not path.is_file():
        return suffix in SUFFIXES
    with path.open("rb") as file:
        return file.read(8).startswith(_MAGIC)


def is_keras_model(source: object) -> bool:
    """Is this a live ``keras.Model``? Imports nothing: whoever holds one has imported Keras."""
    keras = sys.modules.get("keras")
    return keras is not None and hasattr(keras, "Model") and isinstance(source, keras.Model)


def load(source: str | PathLike[str] | Any, *, allow_unsafe: bool = False) -> Model:
    """Read a Keras file, a SavedModel folder or a live ``keras.Model``.

    A SavedModel has no layers any more: it is converted by tf2onnx and comes back as an ONNX model.
    ``allow_unsafe`` lets a file run code that it brings along (Lambda layers) or names (custom classes).

    Raises ModelFileError with one sentence for a file that is damaged, unsafe or not a Keras model,
    and MissingExtraError where Keras or TensorFlow is not installed.
    """
    if is_keras_model(source):
        return _from_live(source)
    if not isinstance(source, (str, PathLike)):
        raise ModelFileError(
            f"a {type(source).__name__} of {type(source).__module__} is not a model of Keras 3: save it"
        )
    path = Path(fspath(source))
    if not path.exists():
        raise ModelFileError(f"{path} does not exist")
    if path.is_dir():
        return _from_saved_model(path, allow_unsafe)
    from bnfold.formats.keras.files import open_model

    return _from_live(open_model(path, allow_unsafe), path)


def _from_live(model: Any, path: Path | None = None) -> KerasModel:
    from bnfold.formats.keras.backend import import_keras
    from bnfold.formats.keras.model import KerasModel
    from bnfold.formats.keras.read import read

    keras = import_keras()
    reading = read(keras, model, str(path) if path is not None else f"the model {model.name!r}")
    return KerasModel(keras, reading, reading.graph, path)


def _from_saved_model(folder: Path, allow_unsafe: bool) -> Model:
    if not (folder / "saved_model.pb").is_file():
        raise ModelFileError(f"{folder} is a folder, but not a TensorFlow SavedModel (it has no saved_model.pb)")
    from bnfold.formats import onnx
    from bnfold.formats.keras.convert import saved_model_to_onnx

    return onnx.load(saved_model_to_onnx(folder, allow_unsafe)).converted_from(folder)
