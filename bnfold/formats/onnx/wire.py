"""The protobuf wire format of ONNX, walked once without copying weights.

:func:`split` copies a serialised ModelProto except for the payloads of large tensors: what is left,
the skeleton, is a valid ModelProto of a few kilobytes in which each of those tensors carries a mark
instead of its data. :func:`splice` goes the other way. A mark is an ``external_data`` entry whose
key is a random nonce, so that no file can contain one.

Whatever is unusual (unpacked or repeated data fields, groups, sparse tensors) stays in the
skeleton, where protobuf itself reads it. Field numbers are those of onnx.proto.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from mmap import mmap
from typing import TYPE_CHECKING, NamedTuple

from bnfold.formats.atomic import Sink

if TYPE_CHECKING:
    from bnfold.formats.onnx.ranges import Window

    Data = bytes | memoryview | mmap | Window

#: Payloads of at most this many bytes stay in the skeleton.
INLINE_BYTES = 1024
#: Integers stay up to this size: shape inference reads them.
INLINE_INTEGER_BYTES = 1 << 16
#: Touching the edge of a payload of this size may bring all of it into memory.
RELEASE_BYTES = 1 << 16
#: What protobuf itself allows.
MAX_DEPTH = 100

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5

#: The messages that may contain tensors: field number → kind of the message in that field.
CHILDREN: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph"},
}
#: The only tensor among them that is not in a list of tensors.
_SINGLE_TENSOR = ("attribute", 5)

DIMS, DATA_TYPE, FLOAT_DATA, RAW_DATA, DOUBLE_DATA, EXTERNAL_DATA, DATA_LOCATION = 1, 2, 4, 9, 10, 13, 14
#: A tensor with one of these is left whole: int32_data, string_data, int64_data, uint64_data, external_data.
_NOT_TAKEN_OUT = frozenset({5, 6, 7, 11, EXTERNAL_DATA})
_INTEGERS = frozenset({6, 7})  # INT32, INT64
#: The element types whose typed field holds their little-endian bytes: FLOAT, COMPLEX64; DOUBLE, COMPLEX128.
_PACKED_AS_RAW = {FLOAT_DATA: frozenset({1, 14}), DOUBLE_DATA: frozenset({11, 15})}


class WireError(ValueError):
    """The bytes are not a protobuf message; the text says where and why."""


class Range(NamedTuple):
    """Where a payload lies in the file, and in which field of its TensorProto."""

    field: int
    offset: int
    length: int


class Field(NamedTuple):
    """One field of a message: ``start`` is where its tag begins; the value is ``[value, stop)``."""

    number: int
    type: int
    start: int
    value: int
    stop: int


class Skeleton(NamedTuple):
    """A model without its large payloads; mark number i stands for ``ranges[i]``."""

    data: bytes
    nonce: str
    ranges: list[Range]


def read_varint(data: Data, pos: int, end: int) -> tuple[int, int]:
    """The unsigned number at ``pos`` and where it ends. Raises WireError beyond ``end`` or 64 bits."""
    value = shift = 0
    while pos < end:
        byte = data[pos]
        pos += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:
                break
            return value, pos
        shift += 7
        if shift > 63:
            break
    raise WireError(f"the number that ends at byte {pos} is cut off or longer than 64 bits")


def varint(value: int) -> bytes:
    """A non-negative number as protobuf writes it."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def length_field(number: int, length: int) -> bytes:
    """The tag and the length that stand before ``length`` bytes of field ``number``."""
    return varint(number << 3 | LENGTH) + varint(length)


def bytes_field(number: int, value: bytes) -> bytes:
    return length_field(number, len(value)) + value


def entry_field(key: str, value: str) -> bytes:
    """An ``external_data`` entry of a TensorProto."""
    return bytes_field(EXTERNAL_DATA, bytes_field(1, key.encode()) + bytes_field(2, value.encode()))


class _GroupError(Exception):
    """A field of the deprecated group kind, which is left to protobuf."""


def fields(data: Data, start: int, end: int) -> Iterator[Field]:
    """The fields of the message in ``[start, end)``. Raises WireError where one does not fit."""
    pos = start
    while pos < end:
        tag, value = data[pos], pos + 1
        if tag > 0x7F:
            tag, value = read_varint(data, pos, end)
        kind = tag & 7
        if kind == LENGTH:
            length, value = read_varint(data, value, end)
            stop = value + length
        elif kind == VARINT:
            _, stop = read_varint(data, value, end)
        elif kind in (FIXED32, FIXED64):
            stop = value + (4 if kind == FIXED32 else 8)
        elif kind in (3, 4):
            raise _GroupError
        else:
            raise WireError(f"byte {pos} is not the start of a field")
        if stop > end:
            raise WireError(f"the field at byte {pos} needs {stop - value} bytes where {end - value} are left")
        if not tag >> 3:
            raise WireError(f"byte {pos} is not the start of a field")
        yield Field(tag >> 3, kind, pos, value, stop)
        pos = stop


class Payload(ABC):
    """Bytes that are written in place of a mark. Its ``len`` is their number."""

    __slots__ = ()
    #: The field of a TensorProto they belong into.
    field: int

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def write(self, out: Sink) -> None:
        """Append the bytes to ``out``."""


Piece = bytes | memoryview | Payload
Pieces = list[Piece]
TensorRewrite = Callable[[int, int], "Pieces | None"]


def joined(pieces: Pieces) -> bytes:
    """Pieces without payloads as one."""
    return b"".join(piece for piece in pieces if not isinstance(piece, Payload))


class _Rewriter:
    """Copies a message with some of the tensors in it replaced, and all lengths corrected."""

    def __init__(self, data: Data, wanted: Callable[[int, int], bool], tensor: TensorRewrite) -> None:
        self._data = data
        self._wanted = wanted
        self._tensor = tensor

    def message(self, kind: str, start: int, end: int, depth: int = 0) -> Pieces | None:
        """The message in ``[start, end)`` as pieces, or None where nothing in it changes."""
        if kind == "tensor":
            return self._tensor(start, end)
        if depth > MAX_DEPTH:
            raise WireError(f"messages are nested more than {MAX_DEPTH} deep")
        pieces: Pieces = []
        copied, singles = start, 0
        children = CHILDREN[kind]
        try:
            for number, type_, begin, value, stop in fields(self._data, start, end):
                singles += (kind, number) == _SINGLE_TENSOR
                if singles > 1:  # protobuf merges the two into one
                    return None
                if type_ != LENGTH or number not in children or not self._wanted(value, stop):
                    continue
                child = self.message(children[number], value, stop, depth + 1)
                if child is None:
                    continue
                if begin > copied:
                    pieces.append(self._data[copied:begin])
                pieces.append(length_field(number, sum(map(len, child))))
                pieces += child
                copied = stop
        except _GroupError:
            return None
        if copied == start:
            return None
        if end > copied:
            pieces.append(self._data[copied:end])
        return pieces


def split(data: Data, size: int, release: Callable[[], None] = lambda: None) -> Skeleton:
    """Separate a serialised model of ``size`` bytes from its large payloads. Raises WireError.

    ``release`` is called now and then to let go of the pages of a map that have been passed.
    """
    nonce = os.urandom(16).hex()
    ranges: list[Range] = []

    def mark(start: int, end: int) -> Pieces | None:
        field = _payload(data, start, end)
        if field is None:
            return None
        ranges.append(Range(field.number, field.value, field.stop - field.value))
        if ranges[-1].length >= RELEASE_BYTES:
            release()
        return [data[start : field.start], data[field.stop : end], entry_field(nonce, str(len(ranges) - 1))]

    rewriter = _Rewriter(data, lambda start, stop: stop - start > INLINE_BYTES, mark)
    pieces = rewriter.message("model", 0, size)
    return Skeleton(bytes(data[:size]) if pieces is None else joined(pieces), nonce, ranges)


def _payload(data: Data, start: int, end: int) -> Field | None:
    """The one data field of the TensorProto in ``[start, end)``, if it can be taken out."""
    found: Field | None = None
    data_type = 0
    try:
        for field in fields(data, start, end):
            number = field.number
            if number == DATA_TYPE and field.type == VARINT:
                data_type, _ = read_varint(data, field.value, field.stop)
            elif number in (RAW_DATA, FLOAT_DATA, DOUBLE_DATA):
                if found is not None or field.type != LENGTH:
                    return None
                found = field
            elif number in _NOT_TAKEN_OUT or (number == DATA_LOCATION and data[field.value]):
                return None
    except _GroupError:
        return None
    if found is None or data_type not in _PACKED_AS_RAW.get(found.number, (data_type,)):
        return None
    limit = INLINE_INTEGER_BYTES if data_type in _INTEGERS else INLINE_BYTES
    return found if found.stop - found.value > limit else None


def splice(data: bytes, nonce: str, emit: Callable[[bytes, int], Pieces]) -> Pieces:
    """The skeleton ``data`` with each marked tensor replaced by ``emit(its other fields, its mark)``."""
    key = nonce.encode()
    marks: list[int] = []
    position = data.find(key)
    while position >= 0:
        marks.append(position)
        position = data.find(key, position + 1)

    def wanted(start: int, stop: int) -> bool:
        index = bisect_left(marks, start)
        return index < len(marks) and marks[index] < stop

    def tensor(start: int, end: int) -> Pieces:
        header, mark = [], -1
        for field in fields(data, start, end):
            if field.number == EXTERNAL_DATA and wanted(field.start, field.stop):
                mark = _mark(data, field)
            else:
                header.append(data[field.start : field.stop])
        return emit(b"".join(header), mark)

    pieces = _Rewriter(data, wanted, tensor).message("model", 0, len(data))
    return [data] if pieces is None else pieces


def _mark(data: bytes, entry: Field) -> int:
    for field in fields(data, entry.value, entry.stop):
        if field.number == 2:
            return int(data[field.value : field.stop])
    raise WireError("a mark without a number")


def without(message: bytes, number: int) -> bytes:
    """A message without the fields of that number."""
    return b"".join(message[f.start : f.stop] for f in fields(message, 0, len(message)) if f.number != number)
