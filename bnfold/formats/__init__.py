"""Model files ↔ ModelGraph: :func:`load` finds out which format it has before it."""

from __future__ import annotations

from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from bnfold.errors import ModelFileError
from bnfold.formats.atomic import reason
from bnfold.formats.remote import RemoteFile, is_remote

if TYPE_CHECKING:
    from onnx import ModelProto

    from bnfold.graph import Model

#: The folders of the formats, in the order in which they are asked whether a model is theirs. The last one
#: takes what is left, and says what is wrong with it.
FORMATS = ("keras", "onnx")


class Format(Protocol):
    """What a format's folder offers. Importing it imports no heavy library."""

    def recognizes(self, source: Any) -> bool:
        """Is this path or object a model of the format? Raises OSError and ValueError for an unreadable path."""

    def load(self, source: Any, *, allow_unsafe: bool) -> Model:
        """Read the model; raises as :func:`load` does."""


class KerasModel(Protocol):
    """A ``keras.Model``, whose package has no types."""

    @property
    def layers(self) -> list[object]: ...

    def get_config(self) -> dict[str, object]: ...


if TYPE_CHECKING:
    #: What a model can be loaded from.
    Loadable = str | PathLike[str] | bytes | RemoteFile | ModelProto | KerasModel


def load(source: Loadable, *, allow_unsafe: bool = False) -> Model:
    """Read a model from a path, the bytes of an ONNX file, a ``ModelProto`` or a ``keras.Model``; an ONNX file also
    from a URL of fsspec, without fetching the weights that nobody asks for.

    ``allow_unsafe`` lets a Keras file bring its own Python code (Lambda layers), which then runs.
    Raises ModelFileError where the model cannot be read, UsageError for any other kind of object.
    """
    if isinstance(source, str) and is_remote(source):
        source = RemoteFile(source)
    return _format_of(source).load(source, allow_unsafe=allow_unsafe)


def _format_of(source: Any) -> Format:
    """The first format that recognizes a model."""
    formats = [cast("Format", import_module(f"{__name__}.{name}")) for name in FORMATS]
    try:
        chosen = next((each for each in formats if each.recognizes(source)), None)
        if chosen is None and Path(source).is_dir():
            raise ModelFileError(
                f"{source} is a directory, and not a SavedModel: it has no saved_model.pb; "
                "`bnfold scan` takes folders of models"
            )
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{source} cannot be read: {reason(error)}") from error
    return chosen or formats[-1]
