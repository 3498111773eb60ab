"""Normalisations."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from bnfold.graph import Array
from bnfold.verification.float64.registry import (
    Call,
    NotEvaluatedError,
    broadcast_rank,
    operator,
    positive_axis,
    single,
)

_EPSILON = single(1e-5)


def _normal(x: Array, axes: tuple[int, ...], epsilon: float) -> tuple[Array, Array, Array]:
    """Mean 0 and variance 1 over ``axes``; with the mean and the reciprocal standard deviation."""
    mean = x.mean(axis=axes, keepdims=True)
    centred = x - mean
    scale = 1.0 / np.sqrt(np.square(centred).mean(axis=axes, keepdims=True) + epsilon)
    return centred * scale, mean, scale


@operator("BatchNormalization")
def _batch(call: Call) -> Any:
    x, gamma, beta, mean, variance = call.inputs[:5]
    if call.attribute("training_mode", 0):
        axes = tuple(index for index in range(x.ndim) if index != 1)
        momentum = call.attribute("momentum", single(0.9))
        now, spread = x.mean(axis=axes), x.var(axis=axes)
        y = _scaled(x, gamma, beta, now, spread, call)
        return y, mean * momentum + now * (1 - momentum), variance * momentum + spread * (1 - momentum)
    if call.version < 9 and not call.attribute("spatial", 1):
        scale = gamma / np.sqrt(variance + call.attribute("epsilon", _EPSILON))
        return (x - mean) * scale + beta
    return _scaled(x, gamma, beta, mean, variance, call)


def _scaled(x: Array, gamma: Array, beta: Array, mean: Array, variance: Array, call: Call) -> Array:
    scale = gamma / np.sqrt(variance + call.attribute("epsilon", _EPSILON))
    scale, mean, beta = (broadcast_rank(np.ravel(item), max(x.ndim, 2)) for item in (scale, mean, beta))
    if x.ndim < 2:
        scale, mean, beta = (item[0] for item in (scale, mean, beta))
    return np.asarray((x - mean) * scale + beta)


@operator("InstanceNormalization")
def _instance(call: Call) -> Any:
    x, gamma, beta = call.inputs
    normal, _, _ = _normal(x, tuple(range(2, x.ndim)), call.attribute("epsilon", _EPSILON))
    return normal * broadcast_rank(gamma, x.ndim) + broadcast_rank(beta, x.ndim)


@operator("LayerNormalization")
def _layer(call: Call) -> Any:
    x = call.inputs[0]
    axes = tuple(range(positive_axis(call.attribute("axis", -1), x.ndim), x.ndim))
    normal, mean, scale = _normal(x, axes, call.attribute("epsilon", _EPSILON))
    y = normal * call.inputs[1]
    if call.get(2) is not None:
        y = y + call.inputs[2]
    return y, mean, scale


@operator("RMSNormalization")
def _rms(call: Call) -> Any:
    x = call.inputs[0]
    axes = tuple(range(positive_axis(call.attribute("axis", -1), x.ndim), x.ndim))
    mean = np.square(x).mean(axis=axes, keepdims=True)
    return x / np.sqrt(mean + call.attribute("epsilon", _EPSILON)) * call.inputs[1]


@operator("GroupNormalization")
def _group(call: Call) -> Any:
    x, gamma, beta = call.inputs
    groups = call.attributes["num_groups"]
    parts = x.reshape(x.shape[0], groups, prod(x.shape[1:]) // groups)
    normal, _, _ = _normal(parts, (2,), call.attribute("epsilon", _EPSILON))
    if gamma.size != x.shape[1]:  # Opset 18 has one value for each group, 21 one for each channel.
        gamma, beta = (np.repeat(item, x.shape[1] // groups) for item in (gamma, beta))
    return normal.reshape(x.shape) * broadcast_rank(gamma, x.ndim) + broadcast_rank(beta, x.ndim)


@operator("MeanVarianceNormalization")
def _mean_variance(call: Call) -> Any:
    x = call.inputs[0]
    axes = tuple(call.attribute("axes", [0, 2, 3]))
    centred = x - x.mean(axis=axes, keepdims=True)
    return centred / (np.sqrt(np.square(centred).mean(axis=axes, keepdims=True)) + 1e-9)


@operator("LpNormalization")
def _lp(call: Call) -> Any:
    x, p, axis = call.inputs[0], call.attribute("p", 2), call.attribute("axis", -1)
    size = (np.abs(x) ** p).sum(axis=axis, keepdims=True) ** (1.0 / p)
    return np.where(size == 0.0, 0.0, x / np.where(size == 0.0, 1.0, size))


@operator("LRN")
def _lrn(call: Call) -> Any:
    """Each element over a power of the mean of squares around it, across channels."""
    x, size = call.inputs[0], call.attributes["size"]
    if x.ndim < 2:
        raise NotEvaluatedError("LRN of a vector is not known here")
    alpha, beta = call.attribute("alpha", single(1e-4)), call.attribute("beta", 0.75)
    before = (size - 1) // 2
    pads = [(before, size - 1 - before) if axis == 1 else (0, 0) for axis in range(x.ndim)]
    total = np.cumsum(np.pad(np.square(x), pads), axis=1)
    total = np.concatenate([np.zeros_like(total[:, :1]), total], axis=1)
    total = total[:, size:] - total[:, :-size]
    return x / (call.attribute("bias", 1.0) + alpha / size * total) ** beta
