"""ValueInfoProto ↔ Tensor."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from onnx import TensorShapeProto, ValueInfoProto

from bnfold.formats.onnx.tensors import DTYPES, ELEMENT_TYPES
from bnfold.graph import Dim, Tensor


def to_tensor(value: ValueInfoProto) -> Tensor:
    """What a value info says about a tensor; sequences, maps and sparse tensors are only named."""
    if value.type.WhichOneof("value") != "tensor_type":
        return Tensor(value.name)
    declared = value.type.tensor_type
    dtype: np.dtype[Any] | None = DTYPES.get(declared.elem_type)
    if not declared.HasField("shape"):
        return Tensor(value.name, dtype)
    return Tensor(value.name, dtype, tuple(_dim(dim) for dim in declared.shape.dim))


def tensors_by_name(values: Iterable[ValueInfoProto]) -> dict[str, Tensor]:
    """What value infos say, by tensor. Few types are of many tensors: each is taken apart once."""
    known: dict[bytes, Tensor] = {}
    tensors = {}
    for value in values:
        kind = value.type.SerializeToString()
        like = known.get(kind)
        if like is None:
            like = known[kind] = to_tensor(value)
        tensors[value.name] = Tensor(value.name, like.dtype, like.shape)
    return tensors


def _dim(dim: TensorShapeProto.Dimension) -> Dim:
    size = dim.dim_value
    if size > 0 or (not size and dim.HasField("dim_value")):
        return size
    # Some exporters write −1 for a size they do not know; text that is not UTF-8 comes as bytes.
    symbol = dim.dim_param
    return symbol if isinstance(symbol, str) and symbol else None


def to_value_info(tensor: Tensor) -> ValueInfoProto:
    """The declaration of a tensor, as far as its dtype and shape are known."""
    value = ValueInfoProto(name=tensor.name)
    if tensor.dtype is None:
        return value
    declared = value.type.tensor_type
    declared.elem_type = ELEMENT_TYPES[tensor.dtype]
    if tensor.shape is not None:
        declared.shape.SetInParent()
        for size in tensor.shape:
            dim = declared.shape.dim.add()
            if isinstance(size, int):
                dim.dim_value = size
            elif size is not None:
                dim.dim_param = size
    return value
