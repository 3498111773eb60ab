"""Operators that compute each element by itself, with broadcasting."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import numpy as np

from bnfold.graph import Array
from bnfold.verification.float64.erf import erf
from bnfold.verification.float64.registry import (
    OPERATORS,
    Call,
    NotEvaluatedError,
    broadcast_rank,
    operator,
    positive_axis,
    single,
)
from bnfold.verification.float64.tensors import REALS, numpy_type, widened

#: TensorProto's numbers of STRING and BOOL.
_STRING, _BOOL = 8, 9
_SELU_ALPHA, _SELU_GAMMA = single(1.6732632423543772), single(1.0507009873554804)


def _sigmoid(x: Array) -> Array:
    return np.where(x >= 0, 1.0 / (1.0 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1.0 + np.exp(-np.abs(x))))


def _softplus(x: Array) -> Array:
    return np.logaddexp(0.0, x)


def _round_half_even(x: Array) -> Array:
    return np.asarray(np.rint(x))


UNARY: dict[str, Callable[[Array], Any]] = {
    "Abs": np.abs,
    "Acos": np.arccos,
    "Acosh": np.arccosh,
    "Asin": np.arcsin,
    "Asinh": np.arcsinh,
    "Atan": np.arctan,
    "Atanh": np.arctanh,
    "Ceil": np.ceil,
    "Cos": np.cos,
    "Cosh": np.cosh,
    "Erf": erf,
    "Exp": np.exp,
    "Floor": np.floor,
    "Identity": lambda x: x,
    "IsNaN": np.isnan,
    "Log": np.log,
    "Neg": np.negative,
    "Not": np.logical_not,
    "BitwiseNot": np.bitwise_not,
    "Reciprocal": lambda x: 1.0 / x,
    "Relu": lambda x: np.maximum(x, x.dtype.type(0)),
    "Round": _round_half_even,
    "Sigmoid": _sigmoid,
    "Sign": np.sign,
    "Sin": np.sin,
    "Sinh": np.sinh,
    "Softplus": _softplus,
    "Softsign": lambda x: x / (1.0 + np.abs(x)),
    "Sqrt": np.sqrt,
    "Tan": np.tan,
    "Tanh": np.tanh,
    "Mish": lambda x: x * np.tanh(_softplus(x)),
    "HardSwish": lambda x: x * np.clip(x / 6.0 + 0.5, 0.0, 1.0),
}


def _divided(a: Array, b: Array) -> Array:
    if a.dtype.kind == "f":
        return np.asarray(a / b)
    # Integers are divided towards zero.
    quotient = np.abs(a) // np.where(b == 0, 1, np.abs(b))
    return np.asarray((quotient * (np.sign(a) * np.sign(b))).astype(a.dtype) if a.dtype.kind == "i" else quotient)


def _power(a: Array, b: Array) -> Array:
    if a.dtype.kind == "f":
        return np.asarray(np.power(a, np.asarray(b, np.float64)))
    if np.asarray(b).dtype.kind == "f":
        return np.asarray(np.power(a.astype(np.float64), b).astype(a.dtype))
    return np.asarray(np.power(a, b.astype(a.dtype)))


BINARY: dict[str, Callable[[Array, Array], Any]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": _divided,
    "Pow": _power,
    "And": np.logical_and,
    "Or": np.logical_or,
    "Xor": np.logical_xor,
    "Equal": np.equal,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "BitwiseAnd": np.bitwise_and,
    "BitwiseOr": np.bitwise_or,
    "BitwiseXor": np.bitwise_xor,
}
#: ``alpha`` and the like of activations, with their defaults.
ACTIVATIONS: dict[str, tuple[Callable[..., Any], dict[str, float]]] = {
    "Celu": (lambda x, alpha: np.maximum(x, 0) + np.minimum(0, alpha * np.expm1(x / alpha)), {"alpha": 1.0}),
    "Elu": (lambda x, alpha: np.where(x < 0, alpha * np.expm1(np.minimum(x, 0)), x), {"alpha": 1.0}),
    "HardSigmoid": (
        lambda x, alpha, beta: np.clip(alpha * x + beta, 0.0, 1.0),
        {"alpha": single(0.2), "beta": single(0.5)},
    ),
    "LeakyRelu": (lambda x, alpha: np.where(x < 0, alpha * x, x), {"alpha": single(0.01)}),
    "Selu": (
        lambda x, alpha, gamma: gamma * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))),
        {"alpha": _SELU_ALPHA, "gamma": _SELU_GAMMA},
    ),
    "Shrink": (
        lambda x, lambd, bias: np.where(x < -lambd, x + bias, np.where(x > lambd, x - bias, 0.0)),
        {"lambd": 0.5, "bias": 0.0},
    ),
    "Swish": (lambda x, alpha: x * _sigmoid(alpha * x), {"alpha": 1.0}),
    "ThresholdedRelu": (lambda x, alpha: np.where(x > alpha, x, 0.0), {"alpha": 1.0}),
}


def _aligned(call: Call) -> tuple[Array, Array]:
    """Both operands; before opset 7 the second one was aligned by an axis."""
    a, b = call.inputs
    if call.version < 7 and "axis" in call.attributes:
        axis = positive_axis(call.attributes["axis"], a.ndim)
        b = b.reshape(b.shape + (1,) * (a.ndim - axis - b.ndim))
    return a, b


def _apply_unary(function: Callable[[Array], Any], call: Call) -> Any:
    return function(call.inputs[0])


def _apply_binary(function: Callable[[Array, Array], Any], call: Call) -> Any:
    return function(*_aligned(call))


def _apply_activation(function: Callable[..., Any], defaults: dict[str, float], call: Call) -> Any:
    return function(call.inputs[0], **{key: call.attribute(key, value) for key, value in defaults.items()})


OPERATORS.update({("", name): partial(_apply_unary, unary) for name, unary in UNARY.items()})
OPERATORS.update({("", name): partial(_apply_binary, binary) for name, binary in BINARY.items()})
OPERATORS.update({("", name): partial(_apply_activation, *entry) for name, entry in ACTIVATIONS.items()})


@operator("Sum")
def _sum(call: Call) -> Any:
    return reduce(np.add, call.inputs)


@operator("Max")
def _max(call: Call) -> Any:
    return reduce(np.maximum, call.inputs)


@operator("Min")
def _min(call: Call) -> Any:
    return reduce(np.minimum, call.inputs)


@operator("Mean")
def _mean(call: Call) -> Any:
    return reduce(np.add, call.inputs) / len(call.inputs)


@operator("PRelu")
def _prelu(call: Call) -> Any:
    x, slope = call.inputs
    if call.version < 7 and slope.size > 1:
        slope = broadcast_rank(slope, x.ndim)
    return np.where(x < 0, x * slope, x)


@operator("Gelu")
def _gelu(call: Call) -> Any:
    x = call.inputs[0]
    if call.attribute("approximate", "none") == "tanh":
        return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1.0 + erf(x / math.sqrt(2.0)))


@operator("Clip")
def _clip(call: Call) -> Any:
    x = call.inputs[0]
    if call.version < 11:
        low, high = call.attribute("min"), call.attribute("max")
    else:
        low, high = call.get(1), call.get(2)
    if low is not None:
        x = np.maximum(x, np.asarray(low, x.dtype))
    return x if high is None else np.minimum(x, np.asarray(high, x.dtype))


@operator("Mod")
def _mod(call: Call) -> Any:
    a, b = call.inputs
    return np.fmod(a, b) if call.attribute("fmod", 0) else np.mod(a, b)


@operator("BitShift")
def _bit_shift(call: Call) -> Any:
    a, b = call.inputs
    return np.left_shift(a, b) if call.attributes["direction"] == "LEFT" else np.right_shift(a, b)


@operator("IsInf")
def _is_inf(call: Call) -> Any:
    x = call.inputs[0]
    positive = np.isposinf(x) if call.attribute("detect_positive", 1) else np.zeros(x.shape, bool)
    return positive | (np.isneginf(x) if call.attribute("detect_negative", 1) else False)


@operator("Where")
def _where(call: Call) -> Any:
    return np.where(*call.inputs)


@operator("Dropout")
def _dropout(call: Call) -> Any:
    x = call.inputs[0]
    ratio, training = call.get(1), call.get(2)
    if training is not None and bool(np.ravel(training)[0]) and (ratio is None or float(np.ravel(ratio)[0]) > 0):
        raise NotEvaluatedError("Dropout in training draws at random")
    if not call.wants(1):
        return x
    return x, np.ones(x.shape, bool if call.version >= 10 else x.dtype)


@operator("Cast")
def _cast(call: Call) -> Any:
    return cast(call.inputs[0], call.attributes["to"], bool(call.attribute("saturate", 1)))


@operator("CastLike")
def _cast_like(call: Call) -> Any:
    from onnx import helper

    x, like = call.inputs
    return cast(x, helper.np_dtype_to_tensor_dtype(like.dtype), bool(call.attribute("saturate", 1)))


def cast(x: Array, to: int, saturate: bool = True) -> Array:
    """As Cast does; between types of real numbers nothing changes, except that those of 8 bits round for good."""
    if to == _STRING:
        raise NotEvaluatedError("Cast to strings is not known here")
    if x.dtype.kind in "OUS":
        if to not in REALS:
            return np.asarray(x.astype(str).astype(np.float64), numpy_type(to))
        return np.asarray(x.astype(str), np.float64)
    if to in REALS or to == _BOOL:
        return np.asarray(widened(x)).astype(np.float64 if to in REALS else bool)
    target = numpy_type(to)
    if target.kind == "V" or "float" in target.name:  # floats of 8 bits and fewer
        if not saturate:
            raise NotEvaluatedError(f"Cast to {target} without saturation is not known here")
        return _rounded(x, target)
    return x.astype(target)


def _rounded(x: Array, target: Any) -> Array:
    """To a float of 8 bits or fewer, values beyond its largest become that."""
    import ml_dtypes

    try:
        largest = float(ml_dtypes.finfo(target).max)  # type: ignore[no-untyped-call]
    except ValueError as error:
        raise NotEvaluatedError(f"Cast to {target} is not known here") from error
    # By way of float32, as the runtimes do: what is rounded is a float32 there.
    return np.asarray(np.clip(np.asarray(x, np.float64), -largest, largest).astype(np.float32).astype(target))
