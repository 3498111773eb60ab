"""Model files ↔ ModelGraph: :func:`load` finds out which format it has before it."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnfold.errors import ModelFileError, UsageError
from bnfold.formats.atomic import reason

if TYPE_CHECKING:
    from bnfold.graph import Model

KERAS_SUFFIXES = frozenset({".keras", ".h5", ".hdf5"})
#: What a zip archive (``.keras``) and an HDF5 file begin with.
_KERAS_MAGIC = (b"PK\x03\x04", b"\x89HDF\r\n\x1a\n")


def load(source: str | PathLike[str] | bytes | Any, *, allow_unsafe: bool = False) -> Model:
    """Read a model from a path, from the bytes of an ONNX file, from a ``ModelProto`` or a ``keras.Model``.

    ``allow_unsafe`` lets a Keras file bring its own Python code (Lambda layers), which then runs.
    Raises ModelFileError where the model cannot be read, UsageError for any other kind of object.
    """
    if isinstance(source, (str, PathLike)):
        path = Path(source)
        try:
            is_keras = is_keras_path(path)
        except (OSError, ValueError) as error:
            raise ModelFileError(f"{path!s} cannot be read: {reason(error)}") from error
        if is_keras:
            from bnfold.formats import keras

            return keras.load(path, allow_unsafe=allow_unsafe)
    elif is_keras_object(source):
        from bnfold.formats import keras

        return keras.load(source, allow_unsafe=allow_unsafe)
    elif not isinstance(source, (bytes, bytearray, memoryview)) and type(source).__name__ != "ModelProto":
        raise UsageError(
            f"a model is loaded from a path, bytes, a ModelProto or a keras.Model, not a {type(source).__name__}"
        )
    from bnfold.formats import onnx

    return onnx.load(source)


def is_keras_path(path: Path) -> bool:
    """Is this a Keras file or a SavedModel folder, by its suffix or else by its first bytes?"""
    if path.is_dir():
        if (path / "saved_model.pb").is_file():
            return True
        raise ModelFileError(f"{path} is a directory, and not a SavedModel: it has no saved_model.pb")
    suffix = path.suffix.lower()
    if suffix in KERAS_SUFFIXES or suffix == ".onnx" or not path.is_file():
        return suffix in KERAS_SUFFIXES
    with path.open("rb") as file:
        return file.read(8).startswith(_KERAS_MAGIC)


def is_keras_object(source: object) -> bool:
    """Is this a live Keras model? Answered without importing Keras."""
    return any(
        base.__name__ == "Model" and base.__module__.split(".")[0] in ("keras", "tf_keras")
        for base in type(source).__mro__
    )
