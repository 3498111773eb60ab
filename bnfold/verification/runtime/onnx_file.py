"""A model as onnxruntime takes it: a file, and what its graph says without its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property, partial
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import NDArray

from bnfold.errors import ModelFileError
from bnfold.graph import Model, ModelGraph
from bnfold.graph.modelgraph import walk

if TYPE_CHECKING:
    from onnx import ModelProto

    #: What a model may be given as.
    ModelLike: TypeAlias = "OnnxFile | Model | str | PathLike[str] | bytes | ModelProto"

#: Protobuf cannot hold a message of this many bytes or more.
PROTOBUF_LIMIT = (1 << 31) - 1
#: Initializers above this size are dropped from the skeleton: nobody asks for their values.
_SMALL_BYTES = 1 << 12


class OnnxFile:
    """An ONNX file on disk. Nothing is read before it is asked for."""

    def __init__(self, path: Path, name: str, unrounded: Path | None = None) -> None:
        self.path = path
        #: How messages call the model.
        self.name = name
        #: Initializers before they were rounded, where the maker of the model is at hand.
        self.unrounded: Mapping[str, Callable[[], NDArray[np.float64]]] = {}
        #: Whether operators draw at random: such a model is loaded anew for every run, to draw the same again.
        self.draws = False
        #: Of a model of another format: the constants that its converter has computed, in float32, with the sizes that
        #: they were rounded at. None of others.
        self.computed: Mapping[str, NDArray[Any]] | None = None
        self._stored = unrounded
        if unrounded is not None:
            self.unrounded = read_arrays(unrounded)

    def store_unrounded(self, path: Path) -> None:
        """Put the unrounded weights into a file (``.npz``), for another process."""
        if self.unrounded:
            store_arrays(self.unrounded, path)
            self._stored = path

    def __reduce__(self) -> tuple[type[OnnxFile], tuple[Path, str, Path | None]]:
        # For another process: which file it is, and nothing of what has been read from it.
        return OnnxFile, (self.path.resolve(), self.name, self._stored)

    @classmethod
    def of(cls, model: ModelLike, directory: Path, role: str) -> OnnxFile:
        """The file behind a model; one that exists only in memory is written into ``directory``.

        ``role`` is what messages call a model that has no file of its own.

        Raises ModelFileError if there is no such file or it cannot be read.
        """
        if isinstance(model, OnnxFile):
            return model
        if isinstance(model, (str, PathLike)):
            path = Path(fspath(model))
            if not path.is_file():
                raise ModelFileError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
            return cls(path, str(path))
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / "model.onnx"
        if isinstance(model, bytes):
            path.write_bytes(model)
            return cls(path, role)
        if _is_proto(model):
            _write(model, path)
            return cls(path, role)
        path = model.as_onnx(directory)
        return cls(path, role if path.is_relative_to(directory) else str(path))

    @cached_property
    def folder(self) -> Path:
        """Where its external data lie, and its test data."""
        return self.path.parent

    @cached_property
    def size(self) -> int:
        """Bytes on disk, external data included."""
        external = {self.folder / location for location in self._external_locations()}
        return self.path.stat().st_size + sum(path.stat().st_size for path in external if path.is_file())

    @cached_property
    def skeleton(self) -> ModelProto:
        """The model without the values of its larger initializers. Raises ModelFileError."""
        import onnx

        whole = self.load(external=False)
        light = onnx.ModelProto(ir_version=whole.ir_version, opset_import=whole.opset_import)
        light.functions.extend(whole.functions)
        graph = light.graph
        for name in ("node", "input", "output", "value_info", "sparse_initializer"):
            getattr(graph, name).extend(getattr(whole.graph, name))
        for tensor in whole.graph.initializer:
            if tensor.ByteSize() <= _SMALL_BYTES:
                graph.initializer.append(tensor)
            else:
                header = graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
                header.data_location = tensor.data_location
                header.external_data.extend(tensor.external_data)
        return light

    def load(self, *, external: bool) -> ModelProto:
        """The parsed file, with or without its external data. Raises ModelFileError."""
        import onnx

        try:
            model = onnx.load(self.path, load_external_data=False)
            if external:
                onnx.load_external_data_for_model(model, str(self.folder))
        except decode_error() as error:
            raise ModelFileError(f"{self.name} is not an ONNX model, or it is damaged") from error
        except (OSError, onnx.checker.ValidationError) as error:
            raise ModelFileError(f"{self.name} cannot be read: {error}") from error
        return model

    def with_outputs(self, names: Iterable[str], content: bytes | None = None) -> bytes:
        """The file's bytes (or ``content``, a variant of them) with the named tensors added to the graph's outputs.

        Protobuf messages that are written one after the other are merged when parsed, repeated
        fields by appending, so the model itself need not be parsed. The runtime infers the types.
        """
        import onnx

        addition = onnx.ModelProto()
        for name in names:
            addition.graph.output.add(name=name)
        whole = self.path.read_bytes() if content is None else content
        return whole + bytes(addition.SerializeToString())

    def _external_locations(self) -> set[str]:
        return {
            entry.value
            for tensor in self.skeleton.graph.initializer
            for entry in tensor.external_data
            if entry.key == "location"
        }


def with_ir_version(content: bytes, version: int) -> bytes:
    """A serialised model that says another IR version: of a field that stands there twice, the last one counts."""
    import onnx

    return content + bytes(onnx.ModelProto(ir_version=version).SerializeToString())


def unrounded_weights(model: Any) -> dict[str, Callable[[], NDArray[np.float64]]]:
    """The weights that a model holds in float64 and that its file holds rounded, by name; none of another format."""
    graph = getattr(model, "graph", None)
    if not isinstance(graph, ModelGraph) or not getattr(model, "is_onnx", False):
        return {}
    return {
        name: param.exact
        for scope in walk(graph)
        for name, param in scope.params.items()
        if param.is_float and param.is_rounded
    }


def store_arrays(values: Mapping[str, Callable[[], NDArray[np.float64]]], path: Path) -> None:
    """Write arrays into a file (``.npz``) for :func:`read_arrays` in another process."""
    members = {str(index): read() for index, read in enumerate(values.values())}
    np.savez(path, names=np.array(list(values)), **members)  # type: ignore[arg-type]


def read_arrays(path: Path) -> dict[str, Callable[[], NDArray[np.float64]]]:
    """Functions that read the arrays, by name."""
    archive = np.load(path)
    return {str(name): partial(archive.get, str(index)) for index, name in enumerate(archive["names"])}


def decode_error() -> type[Exception]:
    """The class of what parsing a damaged protobuf message raises."""
    from google.protobuf.message import DecodeError

    return DecodeError  # type: ignore[no-any-return]


def _is_proto(model: Model | ModelProto) -> TypeGuard[ModelProto]:
    return hasattr(model, "SerializeToString")


def _write(model: ModelProto, path: Path) -> None:
    import onnx

    if model.ByteSize() < PROTOBUF_LIMIT:
        path.write_bytes(model.SerializeToString())
        return
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    onnx.save(copy, path, save_as_external_data=True, location="model.onnx.data")
