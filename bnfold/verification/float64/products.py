"""Convolutions and matrix products."""

from __future__ import annotations

import itertools
from math import prod
from typing import Any

import numpy as np

from bnfold.graph import Array
from bnfold.verification.float64.registry import Call, NotEvaluatedError, broadcast_rank, operator
from bnfold.verification.float64.windows import Geometry, geometry, padded, windows

#: A convolution gathers at most about so many elements of its input at a time.
_GATHERED = 1 << 24


@operator("Conv")
def _conv(call: Call) -> Any:
    x, w = call.inputs[:2]
    return convolution(call, x, w, call.get(2))


def convolution(call: Call, x: Array, w: Array, bias: Array | None) -> Array:
    """``x`` (N, C, *spatial) with kernels ``w`` (M, C / groups, *kernel): (N, M, *output)."""
    groups = int(call.attribute("group", 1))
    shape = geometry(call, x.shape[2:], w.shape[2:])
    if x.shape[1] != w.shape[1] * groups:
        raise NotEvaluatedError(f"Conv has weights for {w.shape[1] * groups} channels and an input of {x.shape[1]}")
    x = padded(x, shape, 0.0)
    if w.shape[1] == 1 and groups == x.shape[1]:
        result = _depthwise(x, w, shape)
    else:
        result = np.empty((x.shape[0], w.shape[0], *shape.output))
        taken, given = w.shape[1], w.shape[0] // groups
        for group in range(groups):
            part = x[:, group * taken : (group + 1) * taken]
            kernels = w[group * given : (group + 1) * given]
            result[:, group * given : (group + 1) * given] = _dense(part, kernels, shape)
    return result if bias is None else result + broadcast_rank(bias, result.ndim)


def _dense(x: Array, w: Array, shape: Geometry) -> Array:
    """One group, by one matrix product for as many rows of the output as fit into memory."""
    count, size = x.shape[0], prod(shape.output)
    result = np.empty((count, w.shape[0], *shape.output))
    matrix = w.reshape(w.shape[0], -1)
    if prod(shape.kernel) == 1 and prod(shape.strides) == 1:
        np.matmul(matrix, x.reshape(count, x.shape[1], size), out=result.reshape(count, w.shape[0], size))
        return result
    view = windows(x, shape)
    rank = len(shape.output)
    order = (0, *range(1 + rank, 1 + 2 * rank), *range(1, 1 + rank))
    rows = shape.output[0]
    step = max(1, min(rows, _GATHERED // max(1, matrix.shape[1] * (size // rows))))
    for sample, start in itertools.product(range(count), range(0, rows, step)):
        block = view[sample, :, start : start + step].transpose(order)
        columns = np.ascontiguousarray(block).reshape(matrix.shape[1], -1)
        result[sample, :, start : start + step] = (matrix @ columns).reshape(w.shape[0], -1, *shape.output[1:])
    return result


def _depthwise(x: Array, w: Array, shape: Geometry) -> Array:
    """Every channel by itself: a sum over the kernel's positions."""
    each = w.shape[0] // x.shape[1]
    x = np.repeat(x, each, axis=1) if each > 1 else x
    result = np.zeros((x.shape[0], w.shape[0], *shape.output))
    sizes = zip(shape.dilations, shape.strides, shape.output, strict=True)
    spans = [[(k * d, s, o) for k in range(n)] for n, (d, s, o) in zip(shape.kernel, sizes, strict=True)]
    for place, chosen in zip(np.ndindex(*shape.kernel), itertools.product(*spans), strict=True):
        region = tuple(slice(start, start + s * (o - 1) + 1, s) for start, s, o in chosen)
        result += x[(slice(None), slice(None), *region)] * broadcast_rank(w[(slice(None), 0, *place)], x.ndim)
    return result


@operator("ConvTranspose")
def _conv_transpose(call: Call) -> Any:
    """Every input element adds its multiple of the kernel to the output."""
    x, w = call.inputs[:2]
    rank, groups = x.ndim - 2, int(call.attribute("group", 1))
    strides, dilations = call.attribute("strides", [1] * rank), call.attribute("dilations", [1] * rank)
    extra, kernel = call.attribute("output_padding", [0] * rank), w.shape[2:]
    full = [s * (n - 1) + d * (k - 1) + 1 for s, n, d, k in zip(strides, x.shape[2:], dilations, kernel, strict=True)]
    whole = [size + more for size, more in zip(full, extra, strict=True)]
    first, wanted = _transposed_pads(call, x.shape[2:], whole, strides)
    taken, given = w.shape[0] // groups, w.shape[1]
    canvas = np.zeros(
        (x.shape[0], groups * given, *(max(a, f + b) for a, f, b in zip(whole, first, wanted, strict=True)))
    )
    flat = x.reshape(x.shape[0], groups, taken, prod(x.shape[2:]))
    kernels = w.reshape(groups, taken, given, *kernel)
    for place in np.ndindex(*kernel):
        # (N, groups, given, positions)
        part = np.matmul(kernels[(..., *place)].transpose(0, 2, 1), flat)
        starts = [p * d for p, d in zip(place, dilations, strict=True)]
        spans = zip(starts, strides, x.shape[2:], strict=True)
        region = tuple(slice(start, start + s * (n - 1) + 1, s) for start, s, n in spans)
        canvas[(slice(None), slice(None), *region)] += part.reshape(x.shape[0], groups * given, *x.shape[2:])
    cut = tuple(slice(max(f, 0), max(f, 0) + size) for f, size in zip(first, wanted, strict=True))
    result = canvas[(slice(None), slice(None), *cut)]
    return result if call.get(2) is None else result + broadcast_rank(call.get(2), result.ndim)


def _transposed_pads(call: Call, spatial: Any, whole: list[int], strides: Any) -> tuple[list[int], list[int]]:
    """How much is cut off at the beginning of each axis, and the sizes that remain."""
    rank, auto = len(whole), call.attribute("auto_pad", "NOTSET")
    pads, shape = call.attribute("pads", [0] * (2 * rank)), call.attribute("output_shape")
    if shape is None and auto in ("SAME_UPPER", "SAME_LOWER"):
        shape = [size * stride for size, stride in zip(spatial, strides, strict=True)]
    if shape is None:
        if auto == "VALID":
            pads = [0] * (2 * rank)
        return list(pads[:rank]), [size - pads[i] - pads[i + rank] for i, size in enumerate(whole)]
    shape = list(shape)[-rank:]
    total = [max(size - wanted, 0) for size, wanted in zip(whole, shape, strict=True)]
    return [t // 2 if auto == "SAME_UPPER" or (auto == "NOTSET" and t % 2 == 0) else t - t // 2 for t in total], shape


@operator("MatMul")
def _matmul(call: Call) -> Any:
    return np.matmul(*call.inputs[:2])


@operator("Gemm")
def _gemm(call: Call) -> Any:
    a, b = call.inputs[:2]
    a = a.T if call.attribute("transA", 0) else a
    b = b.T if call.attribute("transB", 0) else b
    result = a @ b
    if result.dtype.kind == "f":
        result = call.attribute("alpha", 1.0) * result
    c = call.get(2)
    if c is None:
        return result
    return result + (call.attribute("beta", 1.0) * c if result.dtype.kind == "f" else c)


@operator("Einsum")
def _einsum(call: Call) -> Any:
    return np.einsum(call.attributes["equation"].replace(" ", ""), *call.inputs, optimize=True)


@operator("Det")
def _det(call: Call) -> Any:
    return np.linalg.det(call.inputs[0])
