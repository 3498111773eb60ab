"""Operators that move values and compute shapes."""

from __future__ import annotations

from math import prod
from typing import Any
from zlib import crc32

import numpy as np

from bnfold.graph import Array
from bnfold.verification.float64.registry import Call, NotEvaluatedError, operator, positive_axis
from bnfold.verification.float64.tensors import numpy_type, widened


@operator("Constant")
def _constant(call: Call) -> Any:
    for name, value in call.attributes.items():
        if name in ("value", "sparse_value"):
            return value
        if name in ("value_float", "value_floats"):
            return np.asarray(value, np.float64)
        if name in ("value_int", "value_ints"):
            return np.asarray(value, np.int64)
        if name in ("value_string", "value_strings"):
            return np.asarray(value, object)
    raise NotEvaluatedError("Constant without a value")


@operator("ConstantOfShape")
def _constant_of_shape(call: Call) -> Any:
    value = call.attribute("value", np.zeros(1))
    return np.full([int(size) for size in call.inputs[0]], value.ravel()[0], value.dtype)


@operator("Shape")
def _shape(call: Call) -> Any:
    shape = np.array(np.shape(call.inputs[0]), np.int64)
    return shape[call.attribute("start", 0) : call.attribute("end")]


@operator("Size")
def _size(call: Call) -> Any:
    return np.array(np.size(call.inputs[0]), np.int64)


@operator("Reshape")
def _reshape(call: Call) -> Any:
    x = call.inputs[0]
    wanted = call.numbers(1, "shape") or []
    if not call.attribute("allowzero", 0):
        wanted = [x.shape[index] if size == 0 else size for index, size in enumerate(wanted)]
    return x.reshape(wanted)


@operator("Flatten")
def _flatten(call: Call) -> Any:
    x = call.inputs[0]
    axis = positive_axis(call.attribute("axis", 1), x.ndim)
    return x.reshape(prod(x.shape[:axis]), prod(x.shape[axis:]))


@operator("Squeeze")
def _squeeze(call: Call) -> Any:
    axes = call.numbers(1, "axes")
    return np.squeeze(call.inputs[0], None if axes is None else tuple(axes))


@operator("Unsqueeze")
def _unsqueeze(call: Call) -> Any:
    return np.expand_dims(call.inputs[0], tuple(call.numbers(1, "axes") or ()))


@operator("Transpose")
def _transpose(call: Call) -> Any:
    return np.transpose(call.inputs[0], call.attribute("perm"))


@operator("Expand")
def _expand(call: Call) -> Any:
    x = call.inputs[0]
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(int(size) for size in call.inputs[1])))


@operator("Tile")
def _tile(call: Call) -> Any:
    if call.version < 6:
        raise NotEvaluatedError("Tile of an operator set before 6 is not known here")
    return np.tile(call.inputs[0], [int(count) for count in call.inputs[1]])


@operator("Concat")
def _concat(call: Call) -> Any:
    return np.concatenate(call.inputs, axis=call.attribute("axis", 1))


@operator("Split")
def _split(call: Call) -> Any:
    x, axis = call.inputs[0], call.attribute("axis", 0)
    size, count = x.shape[axis], len(call.outputs)
    sizes = call.numbers(1, "split")
    if sizes is None:
        each = -(-size // count)
        sizes = [min(each, max(0, size - index * each)) for index in range(count)]
    return tuple(np.split(x, np.cumsum(sizes)[:-1], axis))


@operator("Slice")
def _slice(call: Call) -> Any:
    x = call.inputs[0]
    starts, ends = call.numbers(1, "starts") or [], call.numbers(2, "ends") or []
    axes = call.numbers(3, "axes") or list(range(len(starts)))
    steps = call.numbers(4, "steps") or [1] * len(starts)
    region = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = x.shape[axis]
        # Python reads an end below −size as a position from the end too, so it is clamped first.
        stop: int | None = max(end + size, -1) if end < 0 else end
        first = max(start + size, 0 if step > 0 else -1) if start < 0 else start
        if step < 0 and stop is not None and stop < 0:
            stop = None
        if step < 0 and first < 0:
            first, stop = 0, 0
        region[axis] = slice(first, stop if step < 0 or stop is None else max(stop, 0), step)
    return x[tuple(region)]


@operator("Pad")
def _pad(call: Call) -> Any:
    x, mode = call.inputs[0], call.attribute("mode", "constant")
    pads = call.numbers(1, "pads") or call.attribute("paddings") or []
    value = call.get(2) if call.version >= 11 else call.attribute("value", 0.0)
    axes = call.numbers(3, "axes") or list(range(x.ndim))
    before, after = [0] * x.ndim, [0] * x.ndim
    for index, axis in enumerate(axes):
        before[axis], after[axis] = pads[index], pads[index + len(axes)]
    # Negative paddings cut.
    x = x[tuple(slice(max(-b, 0), n - max(-a, 0)) for b, a, n in zip(before, after, x.shape, strict=True))]
    widths = [(max(b, 0), max(a, 0)) for b, a in zip(before, after, strict=True)]
    if mode == "constant":
        fill = x.dtype.type(0) if value is None else np.ravel(value)[0]
        return np.pad(x, widths, constant_values=fill)
    if mode not in ("reflect", "edge", "wrap"):
        raise NotEvaluatedError(f"Pad with {mode} is not known here")
    return np.pad(x, widths, mode=mode)


@operator("DepthToSpace")
def _depth_to_space(call: Call) -> Any:
    x, block = call.inputs[0], call.attributes["blocksize"]
    n, c, h, w = x.shape
    if call.attribute("mode", "DCR") == "DCR":
        parts = x.reshape(n, block, block, c // block**2, h, w).transpose(0, 3, 4, 1, 5, 2)
    else:
        parts = x.reshape(n, c // block**2, block, block, h, w).transpose(0, 1, 4, 2, 5, 3)
    return parts.reshape(n, c // block**2, h * block, w * block)


@operator("SpaceToDepth")
def _space_to_depth(call: Call) -> Any:
    x, block = call.inputs[0], call.attributes["blocksize"]
    n, c, h, w = x.shape
    order = (0, 3, 5, 1, 2, 4) if call.attribute("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    parts = x.reshape(n, c, h // block, block, w // block, block).transpose(order)
    return parts.reshape(n, c * block**2, h // block, w // block)


@operator("Range")
def _range(call: Call) -> Any:
    start, limit, delta = (np.ravel(value)[0] for value in call.inputs)
    count = max(0, int(np.ceil((limit - start) / delta)))
    return (start + np.arange(count) * delta).astype(call.inputs[0].dtype)


@operator("EyeLike")
def _eye_like(call: Call) -> Any:
    x = call.inputs[0]
    dtype = x.dtype if call.attribute("dtype") is None else numpy_type(call.attributes["dtype"])
    return np.eye(x.shape[0], x.shape[1], k=call.attribute("k", 0), dtype=dtype)


@operator("ReverseSequence")
def _reverse_sequence(call: Call) -> Any:
    x, lengths = call.inputs
    batch, time = call.attribute("batch_axis", 1), call.attribute("time_axis", 0)
    moved = np.moveaxis(x, (batch, time), (0, 1)).copy()
    for index, length in enumerate(lengths):
        moved[index, :length] = moved[index, :length][::-1].copy()
    return np.moveaxis(moved, (0, 1), (batch, time))


@operator("Trilu")
def _trilu(call: Call) -> Any:
    x = call.inputs[0]
    k = 0 if call.get(1) is None else int(np.ravel(call.inputs[1])[0])
    keep = np.tri(x.shape[-2], x.shape[-1], k - 1 if call.attribute("upper", 1) else k, dtype=bool)
    return np.where(~keep if call.attribute("upper", 1) else keep, x, x.dtype.type(0))


@operator("CenterCropPad")
def _center_crop_pad(call: Call) -> Any:
    x = call.inputs[0]
    axes = call.attribute("axes", list(range(x.ndim)))
    for axis, size in zip(axes, call.inputs[1], strict=True):
        have, want = x.shape[axis], int(size)
        if want < have:
            start = (have - want) // 2
            x = x[tuple(slice(start, start + want) if i == axis % x.ndim else slice(None) for i in range(x.ndim))]
        elif want > have:
            first = (want - have) // 2
            x = np.pad(x, [(first, want - have - first) if i == axis % x.ndim else (0, 0) for i in range(x.ndim)])
    return x


# -- random numbers ------------------------------------------------------------------------------


@operator("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli")
def _random(call: Call) -> Any:
    """Numbers that depend on the name of the output alone, so that they are the same in two models that share it."""
    x = call.get(0)
    shape = call.attributes["shape"] if x is None else np.shape(x)
    rng = np.random.default_rng(crc32(call.outputs[0].encode()))
    if call.op_type == "Bernoulli":
        drawn: Array = rng.random(shape) < x
        return drawn.astype(np.float64 if call.attribute("dtype") is None else numpy_type(call.attributes["dtype"]))
    if "Normal" in call.op_type:
        values = call.attribute("mean", 0.0) + call.attribute("scale", 1.0) * rng.standard_normal(shape)
    else:
        low, high = call.attribute("low", 0.0), call.attribute("high", 1.0)
        values = low + (high - low) * rng.random(shape)
    # What the runtime is fed with in their place is of a shorter type.
    return widened(values.astype(np.float32).astype(np.float16))
