"""A skeleton and its payloads → a file, streamed: memory does not grow with the weights."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from os import PathLike
from pathlib import Path

from onnx import ModelProto

from bnfold.errors import OutputError
from bnfold.formats.atomic import Sink, atomic_write, new_file, remove, resolve_target
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
from bnfold.graph import Approve

#: protobuf's limit for one message.
MAX_MESSAGE_BYTES = (1 << 31) - 1
#: Large tensors in a data file start at a multiple of this, so that runtimes can map them.
ALIGNMENT = 4096
_ALIGN_FROM = 1 << 16
_SMALL_ALIGNMENT = 64
_EXTERNAL = varint(DATA_LOCATION << 3 | VARINT) + varint(1)


def write_model(
    path: str | PathLike[str],
    model: ModelProto,
    payloads: Payloads,
    *,
    external_data: bool | None,
    approve: Approve | None = None,
) -> None:
    """Write a skeleton with its payloads to ``path``, atomically.

    With ``external_data`` the payloads go into a file of their own beside it; None does so where the
    model would be larger than the 2 GB that protobuf allows. ``approve`` is called as
    :func:`bnfold.formats.atomic.atomic_write` does. Raises OutputError.
    """
    skeleton = model.SerializeToString()
    target = resolve_target(path)
    replaced = _data_files(target)
    pieces = _inline(skeleton, payloads)
    has_payloads = any(isinstance(piece, Payload) for piece in pieces)
    if (external_data and has_payloads) or sum(map(len, pieces)) > MAX_MESSAGE_BYTES:
        if external_data is False:
            raise OutputError(f"{path} would be larger than 2 GB, which takes external data")
        _write_external(path, target, skeleton, payloads, approve)
    else:
        with atomic_write(path, approve) as out:
            _write(pieces, out)
    for file, status in replaced:
        with suppress(OSError):
            if identity(file.stat()) == status:  # nobody has taken the name for another file since
                remove(file)


def to_bytes(model: ModelProto, payloads: Payloads) -> bytes:
    """What :func:`write_model` would write as one file."""
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


def _write_external(
    path: str | PathLike[str], target: Path, skeleton: bytes, payloads: Payloads, approve: Approve | None
) -> None:
    """First the data file, under a name that no model refers to yet, then the model that refers to it."""
    with new_file(path, (target.with_name(name) for name in _data_names(target))) as (data_file, out):
        pieces, places = _external(skeleton, payloads, data_file.name)
        for mark, offset in places.items():
            out.write(bytes(offset - out.position))
            payloads[mark].write(out)
        out.sync()
        with atomic_write(path, approve) as model:
            _write(pieces, model)


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
