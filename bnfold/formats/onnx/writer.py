"""A skeleton and its payloads → a file, streamed: memory does not grow with the weights."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from os import PathLike
from pathlib import Path

from onnx import ModelProto

from bnfold.errors import OutputError
from bnfold.formats.atomic import Sink, StagedFile, new_file, remove, resolve_target, staged_file
from bnfold.formats.onnx.payloads import Payloads
from bnfold.formats.onnx.storage import Identity, UnusableFileError, identity, open_file
from bnfold.formats.onnx.wire import (
    DATA_LOCATION,
    VARINT,
    Payload,
    Pieces,
    WireError,
    bytes_field,
    entry_field,
    length_field,
    splice,
    split,
    varint,
)

#: protobuf's limit for one message.
MAX_MESSAGE_BYTES = (1 << 31) - 1
#: Large tensors in a data file start at a multiple of this, so that runtimes can map them.
ALIGNMENT = 4096
_ALIGN_FROM = 1 << 16
_SMALL_ALIGNMENT = 64
_EXTERNAL = varint(DATA_LOCATION << 3 | VARINT) + varint(1)


@contextmanager
def staged_model(
    path: str | PathLike[str], model: ModelProto, payloads: Payloads, *, external_data: bool | None
) -> Iterator[StagedFile]:
    """A skeleton with its payloads, written for ``path`` and waiting beside it to be committed.

    With ``external_data`` the payloads go into a file of their own; None does so where the model would be
    larger than the 2 GB that protobuf allows. The model names its data file, so that this one has its final name
    from the start, which is one that no model refers to yet; it goes if the model is not committed. The data file
    of the model that is replaced goes when the new one is committed. Raises OutputError.
    """
    skeleton = model.SerializeToString()
    replaced = _data_files(resolve_target(path))
    pieces = _inline(skeleton, payloads)
    has_payloads = any(isinstance(piece, Payload) for piece in pieces)
    if (external_data and has_payloads) or sum(map(len, pieces)) > MAX_MESSAGE_BYTES:
        if external_data is False:
            raise OutputError(f"{path} would be larger than 2 GB, which takes external data")
        with _staged_external(path, skeleton, payloads) as staged:
            yield staged
    else:
        with staged_file(path) as staged:
            with staged.writing() as out:
                _write(pieces, out)
            yield staged
    if staged.committed:
        _remove_replaced(replaced)


def _remove_replaced(files: Sequence[tuple[Path, Identity]]) -> None:
    for file, status in files:
        with suppress(OSError):
            if identity(file.stat()) == status:  # nobody has taken the name for another file since
                remove(file)


def to_bytes(model: ModelProto, payloads: Payloads) -> bytes:
    """What a committed :func:`staged_model` is as one file."""
    out = _Memory()
    _write(_inline(model.SerializeToString(), payloads), out)
    return bytes(out.data)


class _Memory:
    """A Sink in memory."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes | memoryview) -> None:
        self.data += data

    def copy_from(self, descriptor: int, offset: int, length: int) -> int:
        return 0


def _inline(skeleton: bytes, payloads: Payloads) -> Pieces:
    def emit(header: bytes, mark: int) -> Pieces:
        payload = payloads[mark]
        return [header, length_field(payload.field, len(payload)), payload]

    return splice(skeleton, payloads.nonce, emit)


def _write(pieces: Pieces, out: Sink) -> None:
    for piece in pieces:
        if isinstance(piece, Payload):
            piece.write(out)
        else:
            out.write(piece)


@contextmanager
def _staged_external(path: str | PathLike[str], skeleton: bytes, payloads: Payloads) -> Iterator[StagedFile]:
    """First the data file, then the model that refers to it."""
    data_file: Path | None = None
    with staged_file(path) as staged:
        try:
            names = (staged.target.with_name(name) for name in _data_names(staged.target))
            with new_file(path, names) as (data_file, out):
                pieces, places = _external(skeleton, payloads, data_file.name)
                for mark, offset in places.items():
                    out.write(bytes(offset - out.position))
                    payloads[mark].write(out)
            with staged.writing() as model:
                _write(pieces, model)
            yield staged
        finally:
            if data_file is not None and not staged.committed:
                remove(data_file)


def _external(skeleton: bytes, payloads: Payloads, name: str) -> tuple[Pieces, dict[int, int]]:
    """The model as it refers to the data file of that name, and the place of each payload in it by mark."""
    places: dict[int, int] = {}
    end = 0

    def emit(header: bytes, mark: int) -> Pieces:
        nonlocal end
        length = len(payloads[mark])
        if mark not in places:
            end += -end % (ALIGNMENT if length >= _ALIGN_FROM else _SMALL_ALIGNMENT)
            places[mark] = end
            end += length
        entries = {"location": name, "offset": str(places[mark]), "length": str(length)}
        return [header, *(entry_field(key, value) for key, value in entries.items()), _EXTERNAL]

    return splice(skeleton, payloads.nonce, emit), places


def _data_names(target: Path) -> Iterator[str]:
    yield f"{target.name}.data"
    yield from (f"{target.name}.{number}.data" for number in count(1))


def _data_files(target: Path) -> list[tuple[Path, Identity]]:
    """The data files named as here that the model at ``target``, which is about to be replaced, refers to."""
    pattern = re.compile(re.escape(target.name) + r"(\.\d+)?\.data")
    try:
        found = [file for file in target.parent.iterdir() if pattern.fullmatch(file.name)]
        if not found or not target.exists():
            return []
        storage = open_file(target)
        old = split(storage.data, storage.size, storage.release).data
        location = bytes_field(1, b"location")
        used = [file for file in found if location + bytes_field(2, file.name.encode()) in old]
        return [(file, identity(file.stat())) for file in used]
    except (OSError, UnusableFileError, WireError):
        return []  # not a model, as far as one can see: it refers to nothing
