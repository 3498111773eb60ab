"""An ONNX model: its graph, everything else in the file, and the way back to a file."""

from __future__ import annotations

import os
from os import PathLike
from pathlib import Path

from onnx import ModelProto

from bnfold.errors import ModelFileError
from bnfold.formats.atomic import reason
from bnfold.formats.onnx.payloads import Payloads, Stored
from bnfold.formats.onnx.reader import Context, read_graph
from bnfold.formats.onnx.storage import FileStorage, MemoryStorage, Storage
from bnfold.formats.onnx.wire import WireError, split
from bnfold.formats.onnx.writer import Builder, save
from bnfold.graph import ModelGraph


class OnnxModel:
    """A model read from ONNX. Immutable apart from its graph; see :class:`bnfold.graph.Model`."""

    format = "onnx"

    def __init__(self, context: Context, graph: ModelGraph, path: Path | None, *, changed: bool = False) -> None:
        self._context = context
        self._graph = graph
        self._path = path
        self._changed = changed

    @property
    def graph(self) -> ModelGraph:
        return self._graph

    @property
    def path(self) -> Path | None:
        return self._path

    @property
    def ir_version(self) -> int:
        return self._context.skeleton.ir_version

    def with_graph(self, graph: ModelGraph) -> OnnxModel:
        return OnnxModel(self._context, graph, self._path, changed=graph is not self._graph or self._changed)

    def save(self, path: str | PathLike[str], *, external_data: bool | None = None) -> None:
        builder = Builder(self._context.payloads)
        save(Path(path), builder.model(self._context.skeleton, self._graph), builder.payloads)

    def as_onnx(self, directory: Path) -> Path:
        if not self._changed and self._path is not None:
            return self._path
        path = Path(directory) / "model.onnx"
        self.save(path)
        return path


def load(source: str | PathLike[str] | bytes | ModelProto) -> OnnxModel:
    """Read an ONNX model. Raises ModelFileError."""
    if isinstance(source, ModelProto):
        source = source.SerializeToString()
    if isinstance(source, bytes):
        return _read(MemoryStorage(source), None)
    path = Path(source)
    try:
        descriptor = os.open(path, os.O_RDONLY)
        return _read(FileStorage(path, descriptor), path)
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {reason(error)}") from error


def _read(storage: FileStorage | MemoryStorage, path: Path | None) -> OnnxModel:
    label = "the model in memory" if path is None else str(path)
    try:
        skeleton = split(storage.data, storage.size)
    except WireError as error:
        raise ModelFileError(f"{label} is damaged: {error}") from error
    payloads = Payloads(skeleton.nonce, (Stored(storage, *entry) for entry in skeleton.ranges))
    context = Context(label, ModelProto.FromString(skeleton.data), payloads)
    return OnnxModel(context, read_graph(context), path)
