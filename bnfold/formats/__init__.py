"""Model files ↔ ModelGraph: :func:`load` finds out which format it has before it."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from bnfold.errors import ModelFileError
from bnfold.formats.atomic import reason

if TYPE_CHECKING:
    from onnx import ModelProto

    from bnfold.graph import Model


class KerasModel(Protocol):
    """A ``keras.Model``, whose package has no types."""

    @property
    def layers(self) -> list[object]: ...

    def get_config(self) -> dict[str, object]: ...


if TYPE_CHECKING:
    #: What a model can be loaded from.
    Loadable = str | PathLike[str] | bytes | ModelProto | KerasModel

KERAS_SUFFIXES = frozenset({".keras", ".h5", ".hdf5"})
#: What a zip archive (``.keras``) and an HDF5 file begin with.
_KERAS_MAGIC = (b"PK\x03\x04", b"\x89HDF\r\n\x1a\n")


def load(source: Loadable, *, allow_unsafe: bool = False) -> Model:
    """Read a model from a path, from the bytes of an ONNX file, from a ``ModelProto`` or a ``keras.Model``.

    ``allow_unsafe`` lets a Keras file bring its own Python code (Lambda layers), which then runs.
    Raises ModelFileError where the model cannot be read, UsageError for any other kind of object.
    """
    from bnfold.formats import keras, onnx

    if _is_keras_path(source) if isinstance(source, (str, PathLike)) else keras.is_keras_model(source):
        return keras.load(source, allow_unsafe=allow_unsafe)
    # Any other object is refused there.
    return onnx.load(cast("str | PathLike[str] | bytes | ModelProto", source))


def _is_keras_path(source: str | PathLike[str]) -> bool:
    """Is this a Keras file or a SavedModel folder, by its suffix or else by its first bytes?"""
    path = Path(source)
    suffix = path.suffix.lower()
    try:
        if path.is_dir():
            if (path / "saved_model.pb").is_file():
                return True
            raise ModelFileError(f"{path} is a directory, and not a SavedModel: it has no saved_model.pb")
        if suffix in KERAS_SUFFIXES or suffix == ".onnx" or not path.is_file():
            return suffix in KERAS_SUFFIXES
        with path.open("rb") as file:
            return file.read(8).startswith(_KERAS_MAGIC)
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path} cannot be read: {reason(error)}") from error
