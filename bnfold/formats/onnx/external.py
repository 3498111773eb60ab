"""External data: located and checked when a model is loaded, read when a weight is asked for."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PureWindowsPath
from typing import NoReturn

from google.protobuf.message import DecodeError
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from bnfold.formats.atomic import reason
from bnfold.formats.onnx.attributes import attribute_tensors, bodies
from bnfold.formats.onnx.context import Context
from bnfold.formats.onnx.payloads import Stored
from bnfold.formats.onnx.ranges import RemoteStorage
from bnfold.formats.onnx.storage import DetachedStorage, Storage, UnusableFileError, open_beneath, open_file
from bnfold.formats.onnx.tensors import DTYPES, raw_bytes
from bnfold.formats.onnx.wire import RAW_DATA, WireError, bytes_field, split
from bnfold.formats.remote import RemoteFile

#: So many data files are kept open; what a process may open is often limited to 1024.
MAX_OPEN = 64

_LOCATION = bytes_field(1, b"location")


def attach_external(context: Context, data: bytes, directory: Path | RemoteFile | None) -> tuple[str, ...]:
    """Turn references to external data into marks, so that such tensors are like any other large one.

    ``data`` is the skeleton serialised; ``directory`` is where the model lies, or the model itself
    where that is elsewhere. Returns the data files that they name.
    Raises ModelFileError for a reference that leaves the directory or does not fit its file.
    """
    if _LOCATION not in data:
        return ()
    files = _DataFiles(context, directory)
    for tensor in list(tensors(context.skeleton)):
        if tensor.data_location == TensorProto.EXTERNAL:
            files.attach(tensor)
    return tuple(sorted(files.opened))


def locations(path: Path) -> list[str]:
    """The data files that a model names, as far as they lie beside it or below; none for what is no model."""
    try:
        storage = open_file(path)
        model = ModelProto.FromString(split(storage.data, storage.size, storage.release).data)
    except (UnusableFileError, WireError, DecodeError, OSError):
        return []  # loading it says what is wrong
    external = (tensor for tensor in tensors(model) if tensor.data_location == TensorProto.EXTERNAL)
    entries = [entry for tensor in external for entry in tensor.external_data]
    found = sorted({entry.value for entry in entries if entry.key == "location"})
    return [location for location in found if _is_below(location)]


def _is_below(location: str) -> bool:
    windows = PureWindowsPath(location)
    return not (location.startswith(("/", "\\")) or windows.drive or ".." in windows.parts)


def tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Every TensorProto of a model except those inside sparse tensors."""
    yield from _graph_tensors(model.graph)
    for training in model.training_info:
        yield from _graph_tensors(training.initialization)
        yield from _graph_tensors(training.algorithm)
    for function in model.functions:
        yield from _node_tensors(function.node)
        for attribute in function.attribute_proto:
            yield from _attribute_tensors(attribute)


def _graph_tensors(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Iterable[NodeProto]) -> Iterator[TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            yield from _attribute_tensors(attribute)


def _attribute_tensors(attribute: AttributeProto) -> Iterator[TensorProto]:
    yield from attribute_tensors(attribute)
    for _, body in bodies(attribute):
        yield from _graph_tensors(body)


class _DataFiles:
    """The data files of one model, each opened once."""

    def __init__(self, context: Context, directory: Path | RemoteFile | None) -> None:
        self._context = context
        self._directory = directory
        self.opened: dict[str, tuple[Storage, int]] = {}

    def attach(self, tensor: TensorProto) -> None:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if any(len(field) for field in (tensor.raw_data, tensor.float_data, tensor.int32_data, tensor.int64_data)):
            self._fail(tensor, "has data of its own as well as external data")
        if tensor.data_type not in DTYPES or min(tensor.dims, default=0) < 0:
            return  # reading the graph reports it, with the tensor's place
        length = raw_bytes(tensor.data_type, tensor.dims)
        del tensor.external_data[:]
        tensor.ClearField("data_location")
        if not length:
            tensor.raw_data = b""
            return
        location = entries.get("location", "")
        storage, size = self._open(tensor, location)
        offset, given = self._number(tensor, entries, "offset", 0), self._number(tensor, entries, "length", length)
        if given != length:
            self._fail(tensor, f"has {given:,} bytes of external data where its shape needs {length:,}")
        if offset + length > size:
            self._fail(tensor, f"ends at byte {offset + length:,} of {location!r}, which has only {size:,}")
        self._context.payloads.put(tensor, Stored(storage, RAW_DATA, offset, length))

    def _number(self, tensor: TensorProto, entries: dict[str, str], key: str, default: int) -> int:
        text = entries.get(key)
        if text is None:
            return default
        if not text.isascii() or not text.isdigit() or len(text) > 19:
            self._fail(tensor, f"has the {key} {text[:40]!r} in its external data, which is not a number")
        return int(text)

    def _open(self, tensor: TensorProto, location: str) -> tuple[Storage, int]:
        known = self.opened.get(location)
        if known is not None:
            return known
        if isinstance(self._directory, RemoteFile):
            self._check_location(tensor, location)
            remote = RemoteStorage(self._directory.sibling(location))
            self.opened[location] = remote, remote.size
            return self.opened[location]
        try:
            storage = open_beneath(*self._resolve(tensor, location))
        except OSError as error:
            self._fail(tensor, f"has its data in {location!r}, which cannot be read: {reason(error)}")
        except UnusableFileError as error:
            self._fail(tensor, f"has its data in {location!r}, which {error}")
        kept = storage if len(self.opened) < MAX_OPEN else DetachedStorage(storage)
        self.opened[location] = kept, storage.size
        return self.opened[location]

    def _resolve(self, tensor: TensorProto, location: str) -> tuple[Path, Path]:
        """The model's directory and the data file; one outside is refused, whatever way leads there."""
        if not isinstance(self._directory, Path):
            self._fail(tensor, "has external data, which a model that is not loaded from a file cannot have")
        self._check_location(tensor, location)
        base = os.path.realpath(self._directory)
        path = os.path.realpath(os.path.join(base, location))
        if os.path.commonpath([base, path]) != base:
            self._fail(tensor, f"has its data at {location!r}, a link that leaves the model's directory")
        return Path(base), Path(path)

    def _check_location(self, tensor: TensorProto, location: str) -> None:
        if not location or "\0" in location:
            self._fail(tensor, "has external data without a location")
        if not _is_below(location):
            self._fail(tensor, f"has its data at {location!r}, outside of the model's directory")

    def _fail(self, tensor: TensorProto, fault: str) -> NoReturn:
        self._context.fail(f"is unsafe or damaged: tensor {tensor.name!r} {fault}")
