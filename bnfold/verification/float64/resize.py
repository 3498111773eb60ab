"""Resize and Upsample: one matrix for each axis."""

from __future__ import annotations

from typing import Any

import numpy as np

from bnfold.graph import Array
from bnfold.verification.float64.registry import Call, NotEvaluatedError, operator


@operator("Upsample")
def _upsample(call: Call) -> Any:
    x = call.inputs[0]
    scales = [float(item) for item in (call.attribute("scales") if call.version < 9 else call.inputs[1])]
    mode = call.attribute("mode", "nearest")
    sizes = [int(np.floor(size * scale)) for size, scale in zip(x.shape, scales, strict=True)]
    settings = Call("Resize", "", 10, (), (), {"mode": "linear" if mode in ("linear", "bilinear") else mode})
    return _resized(x, settings, list(range(x.ndim)), sizes, scales, None)


@operator("Resize")
def _resize(call: Call) -> Any:
    x = call.inputs[0]
    if call.version < 11:
        scales = [float(item) for item in call.inputs[1]]
        sizes = [int(np.floor(size * scale)) for size, scale in zip(x.shape, scales, strict=True)]
        return _resized(x, call, list(range(x.ndim)), sizes, scales, None)
    axes = [axis % x.ndim for axis in call.attribute("axes", range(x.ndim))]
    given = call.get(3)
    if given is not None and np.size(given):
        sizes = [int(item) for item in given]
        scales = [size / x.shape[axis] for size, axis in zip(sizes, axes, strict=True)]
        policy = call.attribute("keep_aspect_ratio_policy", "stretch")
        if policy != "stretch":
            scale = (min if policy == "not_larger" else max)(scales)
            scales = [scale] * len(axes)
            sizes = [int(np.floor(scale * x.shape[axis] + 0.5)) for axis in axes]
    else:
        scales = [float(item) for item in call.inputs[2]]
        sizes = [int(np.floor(x.shape[axis] * scale)) for axis, scale in zip(axes, scales, strict=True)]
    roi = call.get(1)
    return _resized(x, call, axes, sizes, scales, None if roi is None or not np.size(roi) else np.ravel(roi))


def _resized(x: Array, call: Call, axes: list[int], sizes: list[int], scales: list[float], roi: Array | None) -> Array:
    outside = np.zeros((), bool)
    cropping = _mode(call) == "tf_crop_and_resize"
    for index, (axis, size, scale) in enumerate(zip(axes, sizes, scales, strict=True)):
        if size == x.shape[axis] and scale == 1.0 and not cropping:
            continue
        part = None if roi is None else (float(roi[index]), float(roi[index + len(axes)]))
        places = _coordinates(call, x.shape[axis], size, scale, part)
        matrix = _weights(call, places, x.shape[axis], scale)
        x = np.moveaxis(np.tensordot(matrix, x, axes=(1, axis)), 0, axis).astype(x.dtype)
        if cropping:
            beyond = (places < 0) | (places > matrix.shape[1] - 1)
            outside = outside | beyond.reshape([-1 if other == axis else 1 for other in range(x.ndim)])
    if cropping:
        x = np.where(outside, call.attribute("extrapolation_value", 0.0), x)
    return x


def _mode(call: Call) -> str:
    """How positions are related; before opset 11 always in proportion."""
    return call.attribute("coordinate_transformation_mode", "half_pixel") if call.version >= 11 else "asymmetric"


def _coordinates(call: Call, old: int, new: int, scale: float, roi: tuple[float, float] | None) -> Array:
    """Where each element of the output lies in the input."""
    at, mode = np.arange(new, dtype=np.float64), _mode(call)
    if mode == "asymmetric":
        return at / scale
    if mode == "align_corners":
        return at * (old - 1) / (new - 1) if new > 1 else np.zeros(1)
    if mode == "pytorch_half_pixel":
        return (at + 0.5) / scale - 0.5 if new > 1 else np.zeros(1)
    if mode == "half_pixel":
        return (at + 0.5) / scale - 0.5
    if mode == "half_pixel_symmetric":
        adjusted = new / (old * scale)
        return old / 2.0 * (1.0 - adjusted) + (at + 0.5) / scale - 0.5
    if mode == "tf_half_pixel_for_nn":
        return (at + 0.5) / scale
    if mode == "tf_crop_and_resize" and roi is not None:
        start, end = roi
        if new > 1:
            return start * (old - 1) + at * (end - start) * (old - 1) / (new - 1)
        return np.array([0.5 * (start + end) * (old - 1)])
    raise NotEvaluatedError(f"Resize with {mode} is not known here")


def _weights(call: Call, places: Array, old: int, scale: float) -> Array:
    """The matrix (new, old) that interpolates."""
    mode, matrix = call.attribute("mode", "nearest"), np.zeros((places.size, old))
    rows = np.arange(places.size)
    if mode == "nearest":
        matrix[rows, np.clip(_nearest(call, places), 0, old - 1)] = 1.0
        return matrix
    filters = {"linear": (1, _linear), "cubic": (2, _cubic(call.attribute("cubic_coeff_a", -0.75)))}
    if mode not in filters:
        raise NotEvaluatedError(f"Resize with {mode} is not known here")
    reach, weigh = filters[mode]
    # Shrinking with antialias widens the filter to what becomes one element.
    narrow = min(scale, 1.0) if call.attribute("antialias", 0) else 1.0
    reach = int(np.ceil(reach / narrow))
    first = np.floor(places).astype(int)
    for offset in range(1 - reach, reach + 1):
        at = first + offset
        weight = weigh((at - places) * narrow)
        if call.attribute("exclude_outside", 0):
            weight = np.where((at < 0) | (at >= old), 0.0, weight)
        np.add.at(matrix, (rows, np.clip(at, 0, old - 1)), weight)
    total = matrix.sum(axis=1, keepdims=True)
    return matrix / np.where(total == 0.0, 1.0, total)


def _nearest(call: Call, places: Array) -> Array:
    how = call.attribute("nearest_mode", "round_prefer_floor") if call.version >= 11 else "floor"
    # Coordinates are computed in float32 by the runtimes: what that makes a half or a whole is one.
    near = np.rint(places * 2.0) / 2.0
    places = np.where(np.abs(places - near) < 1e-5, near, places)
    if how == "round_prefer_floor":
        return np.ceil(places - 0.5).astype(int)
    if how == "round_prefer_ceil":
        return np.floor(places + 0.5).astype(int)
    return (np.floor(places) if how == "floor" else np.ceil(places)).astype(int)


def _linear(distance: Array) -> Array:
    return np.maximum(0.0, 1.0 - np.abs(distance))


def _cubic(a: float) -> Any:
    def weigh(distance: Array) -> Array:
        d = np.abs(distance)
        near = ((a + 2) * d - (a + 3)) * d * d + 1
        far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
        return np.where(d <= 1, near, np.where(d < 2, far, 0.0))

    return weigh
