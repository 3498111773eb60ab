"""TensorProto ↔ Param: element types, sizes, and values that are read only when asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import ml_dtypes
import numpy as np
from onnx import TensorProto

from bnfold.formats.onnx.payloads import Stored
from bnfold.graph import Array, Param

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

#: Element types that are stored in fewer than 8 bits, and in how many.
_BITS = {21: 4, 22: 4, 23: 4, 25: 2, 26: 2, 27: 6, 28: 6}
_IN_INT32 = frozenset({2, 3, 4, 5, 6, 9, 10, 16, 17, 18, 19, 20, 24, 27, 28})


def element_bits(element_type: int) -> int:
    """How many bits one element takes in ``raw_data``."""
    return _BITS.get(element_type) or DTYPES[element_type].itemsize * 8


def raw_bytes(element_type: int, dims: Sequence[int]) -> int:
    """The length of ``raw_data`` for a tensor of that type and shape."""
    return -(-prod(dims) * element_bits(element_type) // 8)


def tensor_fault(tensor: TensorProto, payload: Stored | None) -> str | None:
    """What is wrong with a tensor's type, dims or amount of data, as the end of a sentence; or None."""
    kind, dims = tensor.data_type, tensor.dims
    if kind not in DTYPES:
        return f"has the unknown element type {kind}"
    if any(dim < 0 for dim in dims):
        return f"has a negative size in its shape {list(dims)}"
    if payload is not None:
        have, need, unit = len(payload), raw_bytes(kind, dims), "bytes"
    elif tensor.HasField("raw_data"):
        if kind == TensorProto.STRING:
            return "stores strings as raw bytes"
        have, need, unit = len(tensor.raw_data), raw_bytes(kind, dims), "bytes"
    else:
        have, need, unit = *_typed_counts(tensor, kind, prod(dims)), "values"
    if have == need:
        return None
    shape = "×".join(map(str, dims)) or "a scalar"
    return f"has {have:,} {unit} of data where its shape {shape} needs {need:,}"


def _typed_counts(tensor: TensorProto, kind: int, size: int) -> tuple[int, int]:
    """The number of values in the typed field that belongs to this element type, and how many there should be."""
    if kind == TensorProto.FLOAT:
        return len(tensor.float_data), size
    if kind == TensorProto.INT64:
        return len(tensor.int64_data), size
    if kind in _IN_INT32:
        return len(tensor.int32_data), size
    if kind in _BITS:
        # onnx has written these both as one byte and as four bytes an entry.
        packed = -(-size * _BITS[kind] // 8)
        have = len(tensor.int32_data)
        return have, -(-packed // 4) if have < packed else packed
    if kind == TensorProto.STRING:
        return len(tensor.string_data), size
    if kind in (TensorProto.DOUBLE, TensorProto.COMPLEX128):
        return len(tensor.double_data), size * (2 if kind == TensorProto.COMPLEX128 else 1)
    if kind == TensorProto.COMPLEX64:
        return len(tensor.float_data), size * 2
    return len(tensor.uint64_data), size


@dataclass(frozen=True, slots=True)
class Raw:
    """The Source of a tensor whose elements are whole bytes, one after the other, in a storage."""

    payload: Stored
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def read(self) -> Array:
        return np.frombuffer(self.payload.view(), self.dtype).reshape(self.shape)

    def rows(self, start: int, stop: int) -> Array:
        row = prod(self.shape[1:]) * self.dtype.itemsize
        data = self.payload.read(start * row, stop * row)
        return np.frombuffer(data, self.dtype).reshape(-1 if row else stop - start, *self.shape[1:])


@dataclass(frozen=True, slots=True)
class Encoded:
    """The Source of a tensor that has to be decoded as a whole: in typed fields, or packed below 8 bits."""

    decode: Callable[[], Array]

    def read(self) -> Array:
        return self.decode()

    def rows(self, start: int, stop: int) -> Array:
        return self.decode()[start:stop]


def decode(tensor: TensorProto) -> Array:
    """The values of a tensor that holds its own data, read-only."""
    from onnx import numpy_helper

    dtype = DTYPES[tensor.data_type]
    if tensor.data_type == TensorProto.STRING:
        values: Array = np.empty(len(tensor.string_data), object)
        values[:] = list(tensor.string_data)
        values = values.reshape(tuple(tensor.dims))
    elif tensor.HasField("raw_data") and tensor.data_type not in _BITS:
        return np.frombuffer(tensor.raw_data, dtype).reshape(tuple(tensor.dims))
    else:
        values = np.asarray(numpy_helper.to_array(tensor)).astype(dtype, copy=False)
    values.flags.writeable = False
    return values


def to_param(tensor: TensorProto, payload: Stored | None, name: str | None = None) -> Param:
    """The constant that a tensor, checked before with :func:`tensor_fault`, stands for."""
    dtype, shape = DTYPES[tensor.data_type], tuple(tensor.dims)
    name = tensor.name if name is None else name
    if payload is None:
        return Param(name, dtype, shape, Encoded(lambda: decode(tensor)), tensor)
    if tensor.data_type not in _BITS:
        return Param(name, dtype, shape, Raw(payload, dtype, shape), tensor)

    def unpack() -> Array:
        whole = TensorProto(data_type=tensor.data_type, dims=tensor.dims, raw_data=bytes(payload.view()))
        return decode(whole)

    return Param(name, dtype, shape, Encoded(unpack), tensor)


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
    if ELEMENT_TYPES[param.dtype] in _BITS:
        from onnx import numpy_helper

        return numpy_helper.from_array(param.array()).raw_data
    return param.array().tobytes()
