"""A file, bytes or a ModelProto → OnnxModel: every way in which one can be damaged is met here."""

from __future__ import annotations

import codecs
import re
from os import PathLike
from pathlib import Path

import onnx.checker
import onnx.defs
from google.protobuf.message import DecodeError, EncodeError
from onnx import ModelProto

from bnfold.errors import ModelFileError, UsageError
from bnfold.formats.atomic import reason
from bnfold.formats.onnx.context import Context
from bnfold.formats.onnx.external import attach_external
from bnfold.formats.onnx.inline import unfolded_size
from bnfold.formats.onnx.model import OnnxModel
from bnfold.formats.onnx.payloads import Payloads, Stored
from bnfold.formats.onnx.ranges import RemoteStorage
from bnfold.formats.onnx.reader import NodeOrderError, read_graph
from bnfold.formats.onnx.sorting import sort_nodes
from bnfold.formats.onnx.storage import FileStorage, MemoryStorage, UnusableFileError, open_file
from bnfold.formats.onnx.wire import DIMS, Pieces, WireError, joined, splice, split, varint, without
from bnfold.formats.remote import RemoteFile

#: What a model's functions may unfold to.
MAX_OPERATORS = 1 << 20
_FIRST_BYTES = {
    b"version https://git-lfs": "a Git LFS pointer, not the model itself: git lfs pull fetches it",
    b"PK\x03\x04": "a zip archive, not an ONNX model",
    b"\x89HDF\r\n\x1a\n": "an HDF5 file, not an ONNX model",
    b"\x1f\x8b": "compressed by gzip: unpack it first",
}


def load(source: str | PathLike[str] | bytes | ModelProto | RemoteFile, *, allow_unsafe: bool = False) -> OnnxModel:
    """Read an ONNX model. The file stays mapped; its weights are read when they are asked for.
    ``allow_unsafe`` is for files of other formats, which may bring code.

    Raises ModelFileError where it is not a model, is damaged or unsafe, or fails onnx.checker, and
    UsageError for an object of another kind.
    """
    if isinstance(source, ModelProto):
        return _read(MemoryStorage(_serialised(source)), "the ModelProto")
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _read(MemoryStorage(bytes(source)), "the model in memory")
    if isinstance(source, RemoteFile):
        return _read(RemoteStorage(source), source.url)
    if not isinstance(source, (str, PathLike)):
        raise UsageError(
            f"a model is a path, bytes, a ModelProto or a keras.Model of Keras 3, not {type(source).__name__}"
        )
    path = Path(source)
    try:
        if path.is_dir():
            raise ModelFileError(f"{path} is a directory, not an ONNX file")
        storage = open_file(path)
    except UnusableFileError as error:
        raise ModelFileError(f"{path} {error}") from error
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path} cannot be read: {reason(error)}") from error
    return _read(storage, str(path))


def _serialised(model: ModelProto) -> bytes:
    try:
        data: bytes = model.SerializeToString()
    except (EncodeError, ValueError) as error:
        raise ModelFileError("the ModelProto is larger than 2 GB: save it with external data and load that") from error
    return data


def _read(storage: FileStorage | MemoryStorage | RemoteStorage, label: str) -> OnnxModel:
    try:
        skeleton = split(storage.data, storage.size, storage.release)
        storage.release()
        model = ModelProto.FromString(skeleton.data)
    except (WireError, DecodeError) as error:
        raise ModelFileError(f"{label} {_what_it_is(storage, str(error))}") from error
    if not model.HasField("graph"):
        raise ModelFileError(f"{label} {_what_it_is(storage, 'it holds no graph')}")
    payloads = Payloads(skeleton.nonce, (Stored(storage, *entry) for entry in skeleton.ranges))
    partial = isinstance(storage, RemoteStorage) and not storage.file.weights
    context = Context(label, model, payloads, partial)
    if isinstance(storage, RemoteStorage):
        storage.prefetch([(entry.offset, entry.length) for entry in skeleton.ranges])
    return _checked(context, skeleton.data, None if isinstance(storage, MemoryStorage) else storage)


def _checked(context: Context, data: bytes, storage: FileStorage | RemoteStorage | None) -> OnnxModel:
    file = storage if isinstance(storage, FileStorage) else None
    known = onnx.defs.onnx_opset_version()
    if context.opsets.get("", 1) > known:
        context.fail(
            f"uses ONNX opset {context.opsets['']}, and the installed onnx package knows those up to {known}: "
            "a newer onnx is needed"
        )
    _check_functions(context)
    beside = storage.file if isinstance(storage, RemoteStorage) else file.path.parent if file is not None else None
    external = attach_external(context, data, beside)
    try:
        graph, in_order = read_graph(context), True
    except NodeOrderError:
        # onnxruntime takes nodes in any order, the standard and everything else here do not.
        sort_nodes(context)
        graph, in_order = read_graph(context), False
        graph.notes = ("the nodes were not in topological order; they are now",)
    _check(context, context.skeleton.SerializeToString() if external or not in_order else data)
    return OnnxModel(context, graph, file, data_files=external, changed=not in_order)


def _check_functions(context: Context) -> None:
    """Functions that call others twice double with each: a small file may stand for any number of operators."""
    if not context.skeleton.functions:
        return
    try:
        size = unfolded_size(context.skeleton)
    except ValueError as error:
        context.fail(f"cannot be unfolded: {error}")
    if size > MAX_OPERATORS:
        context.fail(f"has functions that unfold to more than {MAX_OPERATORS:,} operators")


def _check(context: Context, data: bytes) -> None:
    """Run onnx.checker on the skeleton, where tensors whose data was taken out pass as empty ones."""

    def emptied(header: bytes, mark: int) -> Pieces:
        return [without(header, DIMS), varint(DIMS << 3), varint(0)]

    try:
        onnx.checker.check_model(joined(splice(data, context.payloads.nonce, emptied)))
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        context.fail(f"fails onnx.checker: {_sentence(str(error))}")


def _sentence(message: str) -> str:
    """The checker's message on one line: what is wrong, and in which node."""
    fault, _, where = " ".join(message.split()).partition(" ==> Context: ")
    node = re.search(r"Name: (.*?) ?OpType: (\S+)", where)
    return fault.rstrip(".") if node is None else f"{fault.rstrip('.')} (node {node[1]!r}, {node[2]})"


def _what_it_is(storage: FileStorage | MemoryStorage | RemoteStorage, fault: str) -> str:
    """What a file is that is not an ONNX model, as far as its first bytes tell."""
    if not storage.size:
        return "is empty"
    start = bytes(storage.read(0, min(storage.size, 512)))
    for first, kind in _FIRST_BYTES.items():
        if start.startswith(first):
            return f"is {kind}"
    if _is_text(start):
        return "is a text file, not an ONNX model"
    return f"is damaged, or not an ONNX model: {fault}"


def _is_text(start: bytes) -> bool:
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        return False
    return all(letter.isprintable() or letter.isspace() for letter in text)
