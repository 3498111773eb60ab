"""TensorProto ↔ Param: element types, sizes, and values that are read only when asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
from onnx import TensorProto

from bnfold.formats.onnx.payloads import Stored
from bnfold.graph import Array, Param, ParamData
from bnfold.graph.dtypes import is_float
from bnfold.records import record

#: TensorProto's element types by number, as numpy knows them.
DTYPES: dict[int, np.dtype[Any]] = {
    TensorProto.FLOAT: np.dtype(np.float32),
    TensorProto.UINT8: np.dtype(np.uint8),
    TensorProto.INT8: np.dtype(np.int8),
    TensorProto.UINT16: np.dtype(np.uint16),
    TensorProto.INT16: np.dtype(np.int16),
    TensorProto.INT32: np.dtype(np.int32),
    TensorProto.INT64: np.dtype(np.int64),
    TensorProto.STRING: np.dtype(object),
    TensorProto.BOOL: np.dtype(np.bool_),
    TensorProto.FLOAT16: np.dtype(np.float16),
    TensorProto.DOUBLE: np.dtype(np.float64),
    TensorProto.UINT32: np.dtype(np.uint32),
    TensorProto.UINT64: np.dtype(np.uint64),
    TensorProto.COMPLEX64: np.dtype(np.complex64),
    TensorProto.COMPLEX128: np.dtype(np.complex128),
    TensorProto.BFLOAT16: np.dtype(ml_dtypes.bfloat16),
    TensorProto.FLOAT8E4M3FN: np.dtype(ml_dtypes.float8_e4m3fn),
    TensorProto.FLOAT8E4M3FNUZ: np.dtype(ml_dtypes.float8_e4m3fnuz),
    TensorProto.FLOAT8E5M2: np.dtype(ml_dtypes.float8_e5m2),
    TensorProto.FLOAT8E5M2FNUZ: np.dtype(ml_dtypes.float8_e5m2fnuz),
    # By number: not every version of onnx that is supported names these.
    21: np.dtype(ml_dtypes.uint4),
    22: np.dtype(ml_dtypes.int4),
    23: np.dtype(ml_dtypes.float4_e2m1fn),
    24: np.dtype(ml_dtypes.float8_e8m0fnu),
    25: np.dtype(ml_dtypes.uint2),
    26: np.dtype(ml_dtypes.int2),
    27: np.dtype(ml_dtypes.float6_e2m3fn),
    28: np.dtype(ml_dtypes.float6_e3m2fn),
}
ELEMENT_TYPES: dict[np.dtype[Any], int] = {dtype: number for number, dtype in DTYPES.items()}

#: How many bits an element takes where it is not whole bytes.
_BITS = {21: 4, 22: 4, 23: 4, 25: 2, 26: 2, 27: 6, 28: 6}
#: Element types whose typed field, int32_data, has one entry an element.
_IN_INT32 = frozenset({2, 3, 4, 5, 6, 9, 10, 16, 17, 18, 19, 20, 24, 27, 28})
#: Far more than any machine holds, and little enough for numpy to have arrays of that shape without elements.
_MAX_DIM = 1 << 48
#: numpy 1 has no arrays of more dimensions.
MAX_RANK = 32


class TensorError(ValueError):
    """A TensorProto contradicts itself; the text is the end of a sentence about it."""


def raw_bytes(element_type: int, dims: Sequence[int]) -> int:
    """The length of ``raw_data`` for a tensor of that type and shape."""
    bits = _BITS.get(element_type)
    if bits is None:
        return prod(dims) * DTYPES[element_type].itemsize
    return -(-prod(dims) * bits // 8)


@dataclass(frozen=True, slots=True)
class Raw:
    """The ParamData of a tensor whose elements are whole bytes, one after the other, in a storage."""

    payload: Stored
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def read(self) -> Array:
        return np.frombuffer(self.payload.view(), self.dtype).reshape(self.shape)

    def rows(self, start: int, stop: int) -> Array:
        row = prod(self.shape[1:]) * self.dtype.itemsize
        data = self.payload.read(start * row, stop * row)
        return np.frombuffer(data, self.dtype).reshape(stop - start, *self.shape[1:])


@dataclass(frozen=True, slots=True)
class Unread:
    """The ParamData of a weight that is left where it is. Ones stand for its values: any fold survives them."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    known: ClassVar[bool] = False

    def read(self) -> Array:
        return np.broadcast_to(np.ones((), self.dtype), self.shape)

    def rows(self, start: int, stop: int) -> Array:
        return self.read()[start:stop]


@dataclass(frozen=True, slots=True)
class Packed:
    """The ParamData of a tensor in a storage whose elements share bytes."""

    payload: Stored
    tensor: TensorProto

    def read(self) -> Array:
        kind = self.tensor.data_type
        return _unpacked(self.payload.view(), _BITS[kind], DTYPES[kind], tuple(self.tensor.dims))

    def rows(self, start: int, stop: int) -> Array:
        return self.read()[start:stop]


@record
class Inline:
    """The ParamData of a tensor that holds its own elements as whole bytes, one after the other."""

    tensor: TensorProto
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def read(self) -> Array:
        values = np.frombuffer(self.tensor.raw_data, self.dtype)
        return values if len(self.shape) == 1 else values.reshape(self.shape)  # a vector is one already

    def rows(self, start: int, stop: int) -> Array:
        return self.read()[start:stop]


@record
class InlineCoded(Inline):
    """The ParamData of a tensor that holds its own elements in a typed field, or as parts of bytes."""

    def read(self) -> Array:
        kind = self.tensor.data_type
        if self.tensor.HasField("raw_data"):
            return _unpacked(self.tensor.raw_data, _BITS[kind], self.dtype, self.shape)
        values = _typed_values(self.tensor, kind, self.dtype, self.shape)
        values.flags.writeable = False
        return values.reshape(self.shape)


def _typed_values(tensor: TensorProto, kind: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    if kind == TensorProto.STRING:
        return np.array([*tensor.string_data, None], object)[:-1]  # the None keeps numpy from guessing at a string type
    if kind in _IN_INT32 or kind in _BITS:
        entries = np.array(tensor.int32_data, np.int32)
        if dtype.kind in "iu" and kind not in _BITS:
            return entries.astype(dtype)
        codes = entries.astype(f"u{dtype.itemsize}")
        return codes.view(dtype) if kind in _IN_INT32 else _unpacked(codes.tobytes(), _BITS[kind], dtype, shape)
    if dtype.kind == "c":
        return np.array(tensor.float_data or tensor.double_data, dtype.type(0).real.dtype).view(dtype)
    fields: dict[int, Any] = {
        TensorProto.FLOAT: tensor.float_data,
        TensorProto.DOUBLE: tensor.double_data,
        TensorProto.INT64: tensor.int64_data,
    }
    return np.array(fields.get(kind, tensor.uint64_data), dtype)


def _unpacked(data: bytes | memoryview, bits: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    """Elements of ``bits`` bits each, one after the other from the lowest bit on."""
    stream = np.unpackbits(np.frombuffer(data, np.uint8), count=prod(shape) * bits, bitorder="little")
    values = np.packbits(stream.reshape(-1, bits), axis=1, bitorder="little").view(dtype)
    values.flags.writeable = False
    return values.reshape(shape)


def _packed(values: Array, bits: int) -> bytes:
    """The opposite of :func:`_unpacked`."""
    codes = np.ascontiguousarray(values).reshape(-1, 1).view(np.uint8)
    return np.packbits(np.unpackbits(codes, axis=1, count=bits, bitorder="little"), bitorder="little").tobytes()


def to_param(tensor: TensorProto, payload: Stored | None, name: str | None = None) -> Param:
    """The constant that a tensor stands for; its values are not read.

    Raises TensorError where its type, shape and amount of data do not belong together.
    """
    kind = tensor.data_type
    dtype, shape, length = _layout(kind, tuple(tensor.dims[:]))
    if payload is None:
        source: ParamData = _inline(tensor, kind, dtype, shape, length)
    else:
        _check_count(len(payload), length, "bytes", shape)
        source = _stored(tensor, payload, dtype, shape)
    return Param(tensor.name if name is None else name, dtype, shape, source, tensor)


@lru_cache(maxsize=256)
def _layout(kind: int, shape: tuple[int, ...]) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    """What tensors of that element type and shape share: the dtype, the shape, and the length of their raw data."""
    dtype = DTYPES.get(kind)
    if dtype is None:
        raise TensorError(f"has the unknown element type {kind}")
    if len(shape) > MAX_RANK:
        raise TensorError(f"has {len(shape)} dimensions, and no array has more than {MAX_RANK}")
    extent = prod(filter(None, shape)) if 0 in shape else max(shape, default=0)
    if extent > _MAX_DIM or (shape and min(shape) < 0):
        raise TensorError(f"has the impossible shape {list(shape)}")
    return dtype, shape, raw_bytes(kind, shape)


def _stored(tensor: TensorProto, payload: Stored, dtype: np.dtype[Any], shape: tuple[int, ...]) -> ParamData:
    if payload.storage.leaves_out(len(payload), len(shape)) and is_float(dtype):
        return Unread(dtype, shape)
    return Packed(payload, tensor) if tensor.data_type in _BITS else Raw(payload, dtype, shape)


def _inline(tensor: TensorProto, kind: int, dtype: np.dtype[Any], shape: tuple[int, ...], length: int) -> Inline:
    if not tensor.HasField("raw_data"):
        _check_count(*_typed_counts(tensor, kind, prod(shape)), "values", shape)
        return InlineCoded(tensor, dtype, shape)
    if kind == TensorProto.STRING:
        raise TensorError("stores strings as raw bytes")
    _check_count(len(tensor.raw_data), length, "bytes", shape)
    return InlineCoded(tensor, dtype, shape) if kind in _BITS else Inline(tensor, dtype, shape)


def _check_count(have: int, need: int, unit: str, shape: tuple[int, ...]) -> None:
    if have != need:
        described = "×".join(map(str, shape)) or "of a scalar"
        raise TensorError(f"has {have:,} {unit} of data where its shape {described} takes {need:,}")


def _typed_counts(tensor: TensorProto, kind: int, size: int) -> tuple[int, int]:
    """How many values are in the typed field for this element type, and how many there should be."""
    if kind == TensorProto.FLOAT:
        return len(tensor.float_data), size
    if kind == TensorProto.INT64:
        return len(tensor.int64_data), size
    if kind in _IN_INT32:
        return len(tensor.int32_data), size
    if kind in _BITS:
        return len(tensor.int32_data), -(-size * _BITS[kind] // 8)
    if kind == TensorProto.STRING:
        return len(tensor.string_data), size
    if kind == TensorProto.DOUBLE:
        return len(tensor.double_data), size
    if kind == TensorProto.COMPLEX128:
        return len(tensor.double_data), size * 2
    if kind == TensorProto.COMPLEX64:
        return len(tensor.float_data), size * 2
    return len(tensor.uint64_data), size


def to_proto(param: Param) -> TensorProto:
    """A constant as a TensorProto with its values in it. Meant for small ones."""
    header = to_header(param)
    if header.data_type == TensorProto.STRING:
        header.string_data.extend(param.array().ravel().tolist())
    else:
        header.raw_data = raw(param)
    return header


def to_header(param: Param) -> TensorProto:
    """Name, element type and shape of a constant; no data."""
    return TensorProto(name=param.name, data_type=ELEMENT_TYPES[param.dtype], dims=param.shape)


def raw(param: Param) -> bytes:
    """The values of a constant as they stand in ``raw_data``."""
    bits = _BITS.get(ELEMENT_TYPES[param.dtype])
    return param.array().tobytes() if bits is None else _packed(param.array(), bits)
