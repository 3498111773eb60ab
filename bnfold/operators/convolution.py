"""Convolutions as values: what parallel and consecutive linear operators compute together.

Between nonlinearities a graph of Conv, BatchNormalization, Identity and Add computes one linear map
of its input. :class:`Convolution` is such a map in one canonical layout, so that two of them can be
added (:func:`add`) or chained (:func:`chain`) whatever operators they came from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import gcd, prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bnfold.affine import Affine

Kernel = NDArray[np.float64]


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Convolution:
    """A weight of ``shape`` [out, in/groups, *kernel] and a ``bias`` [out] in float64, over zero-padded input.

    ``load`` reads or computes the weight in float64: only for what is really merged.

    Tap k of a dimension reads the input at ``stride * position + k * dilation - begin``. ``slack`` is
    ``begin + end - dilation * (kernel - 1)``: the output has ``(size + slack - 1) // stride + 1``
    positions. ``size`` is set, by dimension, where the padding was computed from the input's size.
    ``pointwise`` operators that are no convolution in the graph (a BN, an identity) have ``plain``.
    """

    shape: tuple[int, ...]
    load: Callable[[], Kernel]
    bias: Kernel
    groups: int
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    slack: tuple[int, ...]
    sizes: tuple[int | None, ...]
    #: That of the weights, and of the data where they have none.
    dtype: np.dtype[Any]
    #: Multiply-adds for one output position of the operators that this stands for.
    macs: float
    #: The per-channel map this is, where it is no more than that.
    plain: Affine | None = None
    #: The channel axis of the data.
    channel_axis: int = 1

    @property
    def kernel(self) -> tuple[int, ...]:
        return self.shape[2:]

    @property
    def channels(self) -> tuple[int, int]:
        """(in, out)."""
        return self.shape[1] * self.groups, self.shape[0]

    @property
    def own_macs(self) -> float:
        """Multiply-adds for one output position, if it were one operator."""
        return float(prod(self.shape))

    @property
    def ends(self) -> tuple[int, ...]:
        reach = [d * (k - 1) for k, d in zip(self.kernel, self.dilations, strict=True)]
        return tuple(s + r - b for s, r, b in zip(self.slack, reach, self.begins, strict=True))

    @property
    def is_pointwise(self) -> bool:
        """One tap, every position, no padding."""
        return all(k == 1 for k in self.kernel) and all(s == 1 for s in self.strides) and not self.is_padded

    @property
    def is_padded(self) -> bool:
        return any(self.begins) or any(self.ends)

    def positions(self, dim: int) -> list[int]:
        """Where the taps of one dimension lie, relative to ``stride * position``."""
        return [k * self.dilations[dim] - self.begins[dim] for k in range(self.kernel[dim])]

    def regrouped(self, groups: int) -> Kernel:
        """The weight with as many or fewer groups: zeros where a group did not look."""
        weight = self.load()
        out, within = self.shape[:2]
        share = self.groups // groups
        wide = np.zeros((out, within * share, *self.kernel))
        rows = out // self.groups
        for group in range(self.groups):
            start, place = group * rows, (group % share) * within
            wide[start : start + rows, place : place + within] = weight[start : start + rows]
        return wide


def per_channel(
    affine: Affine, channels: int, spatial: int, dtype: np.dtype[Any], macs: float, channel_axis: int = 1
) -> Convolution:
    """A per-channel map as a convolution of one tap and one group a channel."""
    shape = (channels, 1) + (1,) * spatial
    scale = np.broadcast_to(affine.scale, (channels,)).reshape(shape)
    shift = np.broadcast_to(affine.shift, (channels,)).copy()
    ones, zeros, free = (1,) * spatial, (0,) * spatial, (None,) * spatial
    return Convolution(
        shape=shape, load=scale.copy, bias=shift, groups=channels, strides=ones, dilations=ones, begins=zeros,
        slack=zeros, sizes=free, dtype=dtype, macs=macs, plain=affine, channel_axis=channel_axis,
    )  # fmt: skip


def same_padding(
    sizes: Sequence[int | None],
    window: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    *,
    lower: bool = False,
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Zeros before and after each axis that make the output ``ceil(size / stride)`` long.

    An odd one goes to the end, or with ``lower`` to the beginning. With a stride the size must be known.
    """
    begins, ends = [], []
    for size, taps, stride, dilation in zip(sizes, window, strides, dilations, strict=True):
        reach = dilation * (taps - 1)
        if stride == 1:
            total = reach
        elif size is None:
            return None
        else:
            total = max((-(-size // stride) - 1) * stride + reach + 1 - size, 0)
        small = total // 2
        begins.append(total - small if lower else small)
        ends.append(small if lower else total - small)
    return tuple(begins), tuple(ends)


def add(parts: Sequence[Convolution]) -> Convolution | None:
    """The sum of convolutions of the same input as one, or None where there is none as cheap."""
    dtypes = {part.dtype for part in parts if part.plain is None}
    if len({(p.channels, p.strides, len(p.shape), p.channel_axis) for p in parts}) != 1 or len(dtypes) != 1:
        return None
    first = next(part for part in parts if part.plain is None)
    slack = _common_slack(parts)
    if slack is None:
        return None
    groups = gcd(*(part.groups for part in parts))
    windows = [_window(parts, dim) for dim in range(len(first.kernel))]
    shape = (first.channels[1], first.channels[0] // groups, *(window.taps for window in windows))
    if any(window.begin < 0 for window in windows) or prod(shape) > sum(part.macs for part in parts):
        return None

    def load() -> Kernel:
        weight = np.zeros(shape)
        for part in parts:
            view = weight[(slice(None), slice(None), *(window.span(part) for window in windows))]
            view += part.regrouped(groups)
        return weight

    total = replace(
        first,
        shape=shape,
        load=load,
        bias=np.sum([part.bias for part in parts], axis=0),
        groups=groups,
        dilations=tuple(window.step for window in windows),
        begins=tuple(window.begin for window in windows),
        slack=slack,
        sizes=tuple(_size(parts, dim) for dim in range(len(windows))),
        macs=float(prod(shape)),
        plain=None,
    )
    return total if all(end >= 0 for end in total.ends) else None


class _Window(NamedTuple):
    """The taps along one axis of a kernel that has those of several: how many, how far apart, what is before them."""

    dim: int
    begin: int
    step: int
    taps: int

    def span(self, part: Convolution) -> slice:
        """Where the taps of one of them are, which are evenly spaced."""
        places = [(place + self.begin) // self.step for place in part.positions(self.dim)]
        return slice(places[0], places[-1] + 1, places[1] - places[0] if len(places) > 1 else 1)


def _window(parts: Sequence[Convolution], dim: int) -> _Window:
    places = sorted({place for part in parts for place in part.positions(dim)})
    step = gcd(*(place - places[0] for place in places)) or 1
    return _Window(dim, -places[0], step, (places[-1] - places[0]) // step + 1)


def add_plain(parts: Sequence[Convolution]) -> Affine | None:
    """The sum of per-channel maps as one map, None if one of them is more than that."""
    total: Affine | None = None
    for part in parts:
        if part.plain is None:
            return None
        plain = part.plain
        if total is None:
            total = plain
            continue
        if part.channel_axis != parts[0].channel_axis:
            return None
        axis = total.axis if total.axis is not None else plain.axis
        total = Affine.of(total.scale + plain.scale, total.shift + plain.shift, axis)
    return total


def _common_slack(parts: Sequence[Convolution]) -> tuple[int, ...] | None:
    """The slack of a sum: the same for all, or giving the same output size for a static input size."""
    slack = []
    for dim, stride in enumerate(parts[0].strides):
        values = {part.slack[dim] for part in parts}
        size = _size(parts, dim)
        if len(values) > 1 and (size is None or len({(size + value - 1) // stride for value in values}) > 1):
            return None
        slack.append(max(values))
    return tuple(slack)


def _size(parts: Sequence[Convolution], dim: int) -> int | None:
    """The size of the input along a spatial axis, if one of the parts knows it."""
    return next((part.sizes[dim] for part in parts if part.sizes[dim] is not None), None)


def chain(first: Convolution, second: Convolution) -> Convolution | None:
    """``second(first(x))`` as one convolution, where one of the two has a single tap."""
    if (first.channels[1], len(first.shape)) != (second.channels[0], len(second.shape)):
        return None
    if first.dtype != second.dtype and first.plain is None and second.plain is None:
        return None
    if not (first.is_pointwise or second.is_pointwise) or first.channel_axis != second.channel_axis:
        return None
    if first.bias.any() and second.is_padded:
        return None  # the padding would have to hold the first one's bias
    groups = gcd(first.groups, second.groups)
    outer = second if first.is_pointwise else first
    inside, out = first.channels[0] // groups, second.channels[1]
    shape = (out, inside, *outer.kernel)

    def load() -> Kernel:
        a, b = first.regrouped(groups), second.regrouped(groups)
        middle = a.shape[0] // groups
        blocks = [
            np.einsum(
                "omk,mil->oikl",
                b[group * (out // groups) : (group + 1) * (out // groups)].reshape(out // groups, middle, -1),
                a[group * middle : (group + 1) * middle].reshape(middle, inside, -1),
            )
            for group in range(groups)
        ]
        return np.concatenate(blocks).reshape(shape)

    through = _constant_output(second, first.bias) if first.bias.any() else np.zeros(out)
    strides = prod(second.strides) if first.is_pointwise else 1
    return replace(
        outer,
        shape=shape,
        load=load,
        bias=second.bias + through,
        groups=groups,
        dtype=second.dtype if first.plain is not None else first.dtype,
        macs=first.macs * strides + second.macs,
        plain=None if first.plain is None or second.plain is None else first.plain.then(second.plain),
    )


def _constant_output(convolution: Convolution, values: Kernel) -> Kernel:
    """[out] what it makes, apart from its bias, of an input that holds one of ``values`` in each channel."""
    groups, spatial = convolution.groups, tuple(range(2, len(convolution.shape)))
    sums = convolution.load().sum(axis=spatial).reshape(groups, -1, convolution.shape[1])
    return np.asarray(np.einsum("goi,gi->go", sums, values.reshape(groups, -1)).reshape(-1))
