"""The algebra of a per-channel affine map ``y = scale * x + shift`` along one axis.

Everything here is exact algebra on float64 vectors; rounding to a model's own dtype happens once,
where a weight is written (:class:`bnfold.graph.Param`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bnfold.records import record

Vector = NDArray[np.float64]

#: Vectors that a repetition would make longer than this stay where they are: a file may claim any size.
MAX_CHANNELS = 1 << 24
#: Relative to their size: what one map composed in two orders may differ by, some hundred roundings of float64.
_ROUNDING = 2.0**-46


def _vector(values: ArrayLike) -> Vector:
    vector = np.atleast_1d(np.asarray(values, dtype=np.float64))
    if vector.ndim != 1:
        raise ValueError(f"a per-channel vector has one dimension, not shape {vector.shape}")
    return vector


def _all(mask: NDArray[np.bool_]) -> bool:
    """Is everything true? Counting takes a third of the time that numpy's own ``all`` takes for a few channels."""
    return bool(np.count_nonzero(mask) == mask.size)


def _is_uniform(vector: NDArray[np.float64]) -> bool:
    """Is it the same number throughout? That its ends differ is found out in a fifth of the time."""
    return vector.item(0) == vector.item(-1) and _all(vector == vector[0])


def same_values(first: Vector, second: Vector) -> bool:
    """Do two vectors, of one length or one of them of length 1, hold the same, but for the rounding of float64?"""
    if first.size != second.size and 1 not in (first.size, second.size):
        return False
    return _all(np.abs(first - second) <= _ROUNDING * np.maximum(np.abs(first), np.abs(second)))


@record
class Affine:
    """``y[..., c, ...] = scale[c] * x[..., c, ...] + shift[c]``, ``c`` running along ``axis``.

    ``scale`` and ``shift`` are float64 vectors of one length C. ``axis`` counts from the left and
    is never negative. A map that is the same for every element is *uniform*: its axis is ``None``
    and its vectors have length 1; it then fits a tensor of any rank.

    A reshape may split the channel axis for a while (a channel shuffle does). The vectors then
    run, in row-major order, over the several axes of ``grid``, pairs of axis and size in ascending
    order; ``axis`` is the first of them.
    """

    scale: Vector
    shift: Vector
    axis: int | None
    grid: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if self.scale.shape != self.shift.shape or self.scale.ndim != 1:
            raise ValueError(f"scale {self.scale.shape} and shift {self.shift.shape} must be vectors of one length")
        if self.axis is None and self.scale.size != 1:
            raise ValueError("a uniform affine has one scale and one shift")
        if self.axis is not None and self.axis < 0:
            raise ValueError("the axis of an affine counts from the left")

    @classmethod
    def of(cls, scale: ArrayLike, shift: ArrayLike, axis: int | None) -> Affine:
        """Build from anything array-like; a scalar scale or shift is repeated to the other's length."""
        a, b = np.broadcast_arrays(_vector(scale), _vector(shift))
        return cls(np.ascontiguousarray(a, np.float64), np.ascontiguousarray(b, np.float64), axis)

    @classmethod
    def over(cls, axes: Sequence[int], scale: ArrayLike, shift: ArrayLike) -> Affine:
        """From arrays with one dimension for each of ``axes``: axes along which nothing varies are dropped."""
        a: NDArray[Any] = np.asarray(scale, np.float64)
        b: NDArray[Any] = np.asarray(shift, np.float64)
        if a.shape != b.shape:
            a, b = np.broadcast_arrays(a, b)
        if a.ndim != len(axes):
            raise ValueError(f"{a.ndim}-dimensional arrays for {len(axes)} axes")
        if not a.size:
            raise ValueError("an affine has at least one channel")
        if not axes:
            return cls(a.reshape(1).copy(), b.reshape(1).copy(), None)
        if len(axes) == 1:  # the rule
            if _is_uniform(a) and _is_uniform(b):
                return cls(a[:1].copy(), b[:1].copy(), None)
            return cls(np.ascontiguousarray(a), np.ascontiguousarray(b), axes[0])
        order = sorted(range(len(axes)), key=axes.__getitem__)
        a, b = a.transpose(order), b.transpose(order)
        kept: list[int] = []
        for index in order:
            first = (slice(None),) * len(kept) + (slice(0, 1),)
            if (a == a[first]).all() and (b == b[first]).all():
                a, b = a.take(0, len(kept)), b.take(0, len(kept))
            else:
                kept.append(axes[index])
        if not kept:
            return cls(a.reshape(1).copy(), b.reshape(1).copy(), None)
        grid = tuple(zip(kept, a.shape, strict=True)) if len(kept) > 1 else ()
        return cls(np.ascontiguousarray(a).reshape(-1), np.ascontiguousarray(b).reshape(-1), kept[0], grid)

    def arrays(self) -> tuple[tuple[int, ...], NDArray[np.float64], NDArray[np.float64]]:
        """The axes and, with one dimension for each, scale and shift: the inverse of :meth:`over`."""
        if self.axis is None:
            return (), self.scale.reshape(()), self.shift.reshape(())
        if not self.grid:
            return (self.axis,), self.scale, self.shift
        sizes = [size for _, size in self.grid]
        return tuple(axis for axis, _ in self.grid), self.scale.reshape(sizes), self.shift.reshape(sizes)

    @classmethod
    def identity(cls) -> Affine:
        return cls(np.ones(1), np.zeros(1), None)

    @property
    def size(self) -> int:
        """The number of channels (1 for a uniform map)."""
        return int(self.scale.size)

    @property
    def is_uniform(self) -> bool:
        """Does every channel carry the same map (whatever the axis)?"""
        return _is_uniform(self.scale) and _is_uniform(self.shift)

    @property
    def is_scale(self) -> bool:
        """Is the shift zero everywhere?"""
        return not np.count_nonzero(self.shift)

    @property
    def is_shift(self) -> bool:
        """Is the scale one everywhere, but for the rounding of float64?"""
        if self.scale.size and not 0.99 < self.scale[0] < 1.01:  # of one channel: the rule
            return False
        return _all(np.abs(self.scale - 1.0) <= _ROUNDING)

    @property
    def is_identity(self) -> bool:
        return self.is_scale and self.is_shift

    @property
    def is_finite(self) -> bool:
        if self.scale.size == 1:  # numpy takes five times as long for one number
            return math.isfinite(self.scale[0]) and math.isfinite(self.shift[0])
        return _all(np.isfinite(self.scale)) and _all(np.isfinite(self.shift))

    def scale_part(self) -> Affine:
        """The scale alone: ``self == self.scale_part().then(self.shift_part())``."""
        return replace(self, shift=np.zeros_like(self.shift))

    def shift_part(self) -> Affine:
        """The shift alone, to be applied after the scale."""
        return replace(self, scale=np.ones_like(self.scale))

    @property
    def axes(self) -> tuple[tuple[int, int], ...]:
        """The axes along which the map varies, with their sizes: none of a uniform one."""
        return self.grid or (() if self.axis is None else ((self.axis, self.size),))

    def on_axis(self, axis: int | None) -> Affine:
        """The same vectors along another axis; a uniform map has none to rename.

        Raises ValueError for a map over several axes.
        """
        if self.grid:
            raise ValueError("a map over several axes cannot be put on one")
        return self if self.axis is None else Affine(self.scale, self.shift, axis)

    def shifted_axes(self, by: int) -> Affine:
        """The same map on a tensor with ``by`` more axes in front (fewer, if negative)."""
        if self.axis is None:
            return self
        return Affine(self.scale, self.shift, self.axis + by, tuple((axis + by, size) for axis, size in self.grid))

    def as_uniform(self) -> Affine:
        """Drop the axis of a map that is the same for every channel."""
        if not self.is_uniform:
            raise ValueError("the map differs between channels")
        return Affine(self.scale[:1].copy(), self.shift[:1].copy(), None)

    def then(self, after: Affine) -> Affine:
        """First this map, then ``after``: ``after(self(x))``. Axes must agree where both have one."""
        if not self.composes(after):
            raise ValueError(f"{self!r} and {after!r} do not compose")
        which = self if self.axis is not None else after
        with np.errstate(over="ignore", invalid="ignore"):
            scale = self.scale * after.scale
            shift = self.shift * after.scale + after.shift
        return Affine(scale, shift, which.axis, which.grid)

    def composes(self, after: Affine) -> bool:
        """Would :meth:`then` accept ``after``?"""
        if self.axis is None or after.axis is None:
            return True
        return self.axis == after.axis and self.grid == after.grid and self.scale.size == after.scale.size

    def inverse(self) -> Affine:
        """The map that undoes this one. Raises ValueError where a scale is zero."""
        if not self.scale.all():
            raise ValueError("a map with a zero scale cannot be undone")
        return Affine(1.0 / self.scale, -self.shift / self.scale, self.axis, self.grid)

    def take(self, indices: NDArray[np.intp] | slice) -> Affine:
        """The map on the selected channels, in that order (Slice, Gather, a part of a Concat)."""
        if self.axis is None:
            return self
        return Affine(self.scale[indices].copy(), self.shift[indices].copy(), self.axis)

    def repeat(self, times: int) -> Affine:
        """Each channel ``times`` in a row: merging the axis with a faster-running one of that size."""
        if self.axis is None:
            return self
        return Affine(np.repeat(self.scale, times), np.repeat(self.shift, times), self.axis)

    def tile(self, times: int) -> Affine:
        """The whole run of channels ``times`` over: merging with a slower-running axis of that size."""
        if self.axis is None:
            return self
        return Affine(np.tile(self.scale, times), np.tile(self.shift, times), self.axis)

    def expand(self, size: int) -> Affine:
        """Repeat a map of one channel to ``size`` channels; one that has ``size`` already is kept."""
        if self.size == size:
            return self
        if self.size != 1:
            raise ValueError(f"{self.size} channels do not expand to {size}")
        return Affine(np.repeat(self.scale, size), np.repeat(self.shift, size), self.axis)

    def broadcastable(self, rank: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Scale and shift shaped to broadcast against a tensor of ``rank`` dimensions."""
        shape = [1] * rank
        for axis, size in self.axes:
            shape[axis] = size
        return self.scale.reshape(shape), self.shift.reshape(shape)

    def same_as(self, other: Affine) -> bool:
        """Are these the same map on the same axis, but for the rounding of float64?"""
        return (
            (self.axis, self.grid) == (other.axis, other.grid)
            and same_values(self.scale, other.scale)
            and same_values(self.shift, other.shift)
        )

    def __repr__(self) -> str:
        return f"Affine({self.size} channels, axis={self.axis}, scale={self.scale[:3]}…, shift={self.shift[:3]}…)"


def concatenate(parts: Mapping[int, Affine], sizes: Sequence[int], axis: int) -> Affine:
    """One map over the concatenation, along ``axis``, of tensors with ``sizes`` channels each.

    ``parts`` are by number; tensors without one keep their values. A uniform part is expanded to its size.
    Raises ValueError where a part lies along another axis or has another size.
    """
    ends = np.cumsum(sizes)
    scale, shift = np.ones(ends[-1]), np.zeros(ends[-1])
    for index, part in parts.items():
        if part.axis not in (None, axis):
            raise ValueError("a part lies along another axis")
        if part.size not in (1, sizes[index]):
            raise ValueError(f"{part.size} channels for a part of {sizes[index]}")
        at = slice(ends[index] - sizes[index], ends[index])
        scale[at], shift[at] = part.scale, part.shift
    return Affine(scale, shift, axis)
