"""Quantisation, and products of integers."""

from __future__ import annotations

from typing import Any

import numpy as np

from bnfold.graph import Array
from bnfold.verification.float64.elementwise import cast
from bnfold.verification.float64.products import convolution
from bnfold.verification.float64.registry import Call, NotEvaluatedError, operator, positive_axis
from bnfold.verification.float64.tensors import numpy_type


def _spread(values: Array, x: Array, call: Call) -> Array:
    """A scale or zero point in the shape of ``x``: one number, one for each index of an axis, or one a block."""
    values = np.asarray(values)
    block = call.attribute("block_size", 0)
    axis = positive_axis(call.attribute("axis", 1), x.ndim)
    if block and values.ndim == x.ndim:
        return np.repeat(values, block, axis=axis).take(range(x.shape[axis]), axis=axis)
    if values.size == 1:
        return values.reshape(())
    return values.reshape([-1 if index == axis else 1 for index in range(x.ndim)])


def _limits(dtype: np.dtype[Any]) -> tuple[int, int]:
    import ml_dtypes

    found = ml_dtypes.iinfo(dtype)  # type: ignore[no-untyped-call]
    return int(found.min), int(found.max)


def _quantized(x: Array, zero: Array, dtype: np.dtype[Any]) -> Array:
    if "float" in dtype.name:
        from onnx import helper

        return cast(x, helper.np_dtype_to_tensor_dtype(dtype))
    low, high = _limits(dtype)
    return np.asarray(np.clip(np.rint(x) + zero.astype(np.float64), low, high).astype(dtype))


@operator("QuantizeLinear")
def _quantize(call: Call) -> Any:
    x, scale = call.inputs[:2]
    zero, kind = call.get(2), call.attribute("output_dtype", 0)
    dtype = zero.dtype if zero is not None else numpy_type(kind) if kind else np.dtype(np.uint8)
    spread = np.zeros(()) if zero is None else _spread(zero, x, call)
    return _quantized(np.asarray(x, np.float64) / _spread(scale, x, call), spread, dtype)


@operator("DequantizeLinear")
def _dequantize(call: Call) -> Any:
    x, scale = call.inputs[:2]
    zero = call.get(2)
    whole = x.astype(np.float64)
    if zero is not None:
        whole = whole - _spread(zero, x, call).astype(np.float64)
    return whole * _spread(scale, x, call)


@operator("DynamicQuantizeLinear")
def _dynamic(call: Call) -> Any:
    x = call.inputs[0]
    low, high = min(0.0, float(x.min())), max(0.0, float(x.max()))
    scale = (high - low) / 255.0 or 1.0
    zero = np.uint8(np.clip(np.rint(-low / scale), 0, 255))
    return _quantized(x / scale, np.asarray(zero), np.dtype(np.uint8)), np.asarray(scale), np.asarray(zero)


def _less(x: Array, zero: Array | None, axis: int | None = None) -> Array:
    """Integers less their zero point, as real numbers: exact, since products of them stay far below 2**53."""
    whole = x.astype(np.float64)
    if zero is None:
        return whole
    if np.size(zero) > 1 and axis is not None and np.ndim(zero) == 1:
        zero = np.reshape(zero, [-1 if index == axis % x.ndim else 1 for index in range(x.ndim)])
    return whole - (np.asarray(zero, np.float64).reshape(()) if np.size(zero) == 1 else np.asarray(zero, np.float64))


@operator("ConvInteger")
def _conv_integer(call: Call) -> Any:
    x, w = _less(call.inputs[0], call.get(2)), _less(call.inputs[1], call.get(3), 0)
    return convolution(call, x, w, None).astype(np.int32)


@operator("MatMulInteger")
def _matmul_integer(call: Call) -> Any:
    a = _less(call.inputs[0], call.get(2), -2)
    return np.matmul(a, _less(call.inputs[1], call.get(3), -1)).astype(np.int32)


@operator("QLinearConv")
def _qlinear_conv(call: Call) -> Any:
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero = call.inputs[:8]
    bias = call.get(8)
    total = convolution(call, _less(x, x_zero), _less(w, w_zero, 0), None if bias is None else bias.astype(np.float64))
    scale = np.asarray(w_scale, np.float64)
    if scale.size > 1:
        scale = scale.reshape([-1 if index == 1 else 1 for index in range(total.ndim)])
    else:
        scale = scale.reshape(())
    factor = np.ravel(x_scale)[0] * scale / np.ravel(y_scale)[0]
    return _quantized(total * factor, np.asarray(y_zero).reshape(()), np.asarray(y_zero).dtype)


@operator("QLinearMatMul")
def _qlinear_matmul(call: Call) -> Any:
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = call.inputs
    if max(np.size(item) for item in (a_scale, b_scale, y_scale)) > 1:
        raise NotEvaluatedError("QLinearMatMul with several scales is not known here")
    factor = np.ravel(a_scale)[0] * np.ravel(b_scale)[0] / np.ravel(y_scale)[0]
    total = np.matmul(_less(a, a_zero), _less(b, b_zero)) * factor
    return _quantized(total, np.asarray(y_zero).reshape(()), np.asarray(y_zero).dtype)
