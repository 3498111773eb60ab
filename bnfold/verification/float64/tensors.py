"""Tensors and attributes of a file as numpy arrays and Python values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bnfold.graph import Array
from bnfold.verification.float64.registry import NotEvaluatedError

if TYPE_CHECKING:
    from onnx import AttributeProto, NodeProto, SparseTensorProto, TensorProto

#: TensorProto's numbers of the types whose values are computed with as real numbers.
REALS = {1: "float32", 10: "float16", 11: "float64", 16: "bfloat16"}


def widened(values: Any) -> Any:
    """Real numbers in float64; anything else as it is."""
    if isinstance(values, (list, tuple)):
        return [widened(item) for item in values]
    if values is None:
        return None
    array = np.asarray(values)
    if array.dtype.kind == "f" or array.dtype.name == "bfloat16":
        return array.astype(np.float64)
    return array


def tensor_values(tensor: TensorProto, folder: str) -> Array:
    """A constant's values, read from ``folder`` if they lie outside of the file. Raises NotEvaluatedError."""
    result: Array = widened(stored_values(tensor, folder))
    return result


def stored_values(tensor: TensorProto, folder: str) -> Array:
    """The same in the type that they are stored in."""
    from onnx import checker, numpy_helper

    try:
        values = numpy_helper.to_array(tensor, folder)
    except (OSError, ValueError, TypeError, RuntimeError, checker.ValidationError) as error:
        raise NotEvaluatedError(f"the values of {tensor.name!r} cannot be read: {error}") from error
    if values.dtype.kind == "S":
        values = np.array([item.decode("utf-8", "replace") for item in values.ravel()], object).reshape(values.shape)
    return values


def sparse_values(tensor: SparseTensorProto, folder: str) -> Array:
    """The same tensor with its zeros."""
    values, places = tensor_values(tensor.values, folder), tensor_values(tensor.indices, folder)
    dense = np.zeros(tuple(tensor.dims), values.dtype)
    if places.ndim == 1:
        dense.reshape(-1)[places] = values
    else:
        dense[tuple(places.T)] = values
    return dense


def attribute_values(node: NodeProto, folder: str) -> dict[str, Any]:
    """A node's attributes by name; subgraphs are left out."""
    found = {}
    for attribute in node.attribute:
        if not attribute.ref_attr_name:
            value = attribute_value(attribute, folder)
            if value is not None:
                found[attribute.name] = value
    return found


def attribute_value(attribute: AttributeProto, folder: str) -> Any:
    """One attribute; None for graphs and types."""
    kind = attribute.type
    if kind == attribute.FLOAT:
        return attribute.f
    if kind == attribute.INT:
        return attribute.i
    if kind == attribute.STRING:
        return attribute.s.decode("utf-8", "replace")
    if kind == attribute.TENSOR:
        return tensor_values(attribute.t, folder)
    if kind == attribute.SPARSE_TENSOR:
        return sparse_values(attribute.sparse_tensor, folder)
    if kind == attribute.FLOATS:
        return list(attribute.floats)
    if kind == attribute.INTS:
        return list(attribute.ints)
    if kind == attribute.STRINGS:
        return [item.decode("utf-8", "replace") for item in attribute.strings]
    return None


def numpy_type(number: int) -> np.dtype[Any]:
    """The type in which a tensor of that declared type is kept here: float64 for every real number."""
    from onnx import helper

    if number in REALS:
        return np.dtype(np.float64)
    return np.dtype(helper.tensor_dtype_to_np_dtype(number))
