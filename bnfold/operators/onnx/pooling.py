"""Pooling over space and reductions."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np

from bnfold.affine import Affine
from bnfold.operators.answers import Crossing, Lifts, Sunk
from bnfold.operators.arithmetic import rising
from bnfold.operators.base import Conditions, Facts, Node, Role, register
from bnfold.operators.convolution import Convolution
from bnfold.operators.onnx.conv import pads_zeros
from bnfold.refusal import Refusal


class Pool(Facts):
    """Windows over the axes from 2 on: batch and channel axes stay what they are."""

    conditions = Conditions(cross="along batch or channels, or uniform")
    role = Role.POOL

    def allows(self, node: Node, affine: Affine) -> Refusal | None:
        """What besides the axis stands in the way."""
        return None

    def _checked(self, node: Node, affine: Affine) -> Refusal | None:
        if affine.axis is not None and affine.axis > 1:
            return node.refuse("pooled-axis", f"pools over axis {affine.axis}, along which the affine runs")
        return self.allows(node, affine)

    def lift(self, node: Node, affines: Mapping[int, Affine]) -> Lifts:
        if set(affines) != {0}:
            return self.blocks(node)
        return self._checked(node, affines[0]) or [Crossing({0: affines[0]})]

    def sink(self, node: Node, affines: Mapping[int, Affine]) -> Sunk:
        return self._checked(node, affines[0]) or Crossing({0: affines[0]})


def _may_be_empty(node: Node) -> bool:
    """May a window lie in the padding alone?

    Its taps stand ``dilation`` apart. As long as no axis is shorter than that, and none is padded by more than the
    taps span, at least one of them falls on the axis.
    """
    window = node.ints("kernel_shape")
    if not window or not (pads_zeros(node, window) or node.attr("ceil_mode", 0)):
        return False
    ones = [1] * len(window)
    dilations, pads = node.ints("dilations", ones), node.ints("pads", [0] * 2 * len(window))
    if len(dilations) != len(window) or len(pads) != 2 * len(window):
        return True  # in a subgraph, nobody has compared the attributes
    for place, (size, dilation) in enumerate(zip(window, dilations, strict=True)):
        length = node.dim(0, 2 + place)
        if dilation > 1 and (length is None or length < dilation):
            return True
        if max(pads[place], pads[place + len(window)]) > (size - 1) * dilation:
            return True
    return False


@register("GlobalAveragePool")
class GlobalAverage(Pool):
    """The mean of each channel."""


@register("AveragePool")
class Average(Pool):
    """A shift passes only if every window averages over elements, never over padding."""

    conditions = Conditions(
        cross="along batch or channels, or uniform; a shift only where windows average elements alone"
    )

    def allows(self, node: Node, affine: Affine) -> Refusal | None:
        if affine.is_scale:
            return None
        if _may_be_empty(node):
            return node.refuse("empty-window", "may have windows of padding alone, whose average is always 0")
        if not node.attr("count_include_pad", 0):
            return None
        if pads_zeros(node, node.ints("kernel_shape")) or node.attr("ceil_mode", 0):
            return node.refuse("padding-counted", "counts padding zeros in its averages, so no shift passes")
        return None

    def convolution(self, node: Node) -> Convolution | None:
        """A depthwise convolution of equal taps, where every window averages over as many elements."""
        window, channels = tuple(node.ints("kernel_shape")), node.dim(0, 1)
        dtype = node.graph.tensor(node.op.input(0)).dtype
        counted = node.attr("count_include_pad", 0) or not pads_zeros(node, list(window))
        if channels is None or dtype is None or not counted or node.attr("ceil_mode", 0):
            return None
        if node.text("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
            return None
        ones = (1,) * len(window)
        strides, dilations = tuple(node.ints("strides", ones)), tuple(node.ints("dilations", ones))
        pads = node.ints("pads", (0,) * (2 * len(window)))
        begins, ends = tuple(pads[: len(window)]), tuple(pads[len(window) :])
        slack = tuple(b + e - d * (k - 1) for b, e, d, k in zip(begins, ends, dilations, window, strict=True))
        sizes = tuple(node.dim(0, axis) for axis in range(2, 2 + len(window)))
        shape, taps = (channels, 1, *window), prod(window)
        return Convolution(
            shape=shape, load=lambda: np.full(shape, 1.0 / taps), bias=np.zeros(channels), groups=channels,
            strides=strides, dilations=dilations, begins=begins, slack=slack, sizes=sizes, dtype=dtype,
            macs=float(channels * taps),
        )  # fmt: skip


@register("MaxPool", "GlobalMaxPool")
class Maximum(Pool):
    """Every scale that is not negative passes; padding is -infinity."""

    conditions = Conditions(cross="along batch or channels, or uniform; no negative scale; no window in padding alone")

    def allows(self, node: Node, affine: Affine) -> Refusal | None:
        if node.used(1) and not (affine.scale > 0).all():
            return node.refuse("indices", "also returns where its maxima are, which a scale of zero would change")
        if _may_be_empty(node):
            return node.refuse("empty-window", "may have windows of padding alone, whose maximum is the lowest number")
        return rising(node, affine)


@register("LpPool", "GlobalLpPool")
class Norm(Pool):
    """A p-norm: scales that are not negative pass, shifts do not."""

    conditions = Conditions(cross="along batch or channels, or uniform; a scale that is nowhere negative")

    def allows(self, node: Node, affine: Affine) -> Refusal | None:
        if not affine.is_scale:
            return node.refuse("nonlinear", "takes a norm, so no shift passes")
        return rising(node, affine)


class Reduction(Facts):
    """Reduces over some axes; an affine along another one passes."""

    conditions = Conditions(cross="along an axis that is not reduced, or uniform")
    role = Role.POOL

    def through(self, node: Node, affine: Affine, *, upward: bool) -> Affine | Refusal:
        """The affine on the other side, apart from its axis."""
        raise AssertionError("every reduction has its own")

    def lift(self, node: Node, affines: Mapping[int, Affine]) -> Lifts:
        moved = self._move(node, affines[0], upward=True)
        return moved if isinstance(moved, Refusal) else [Crossing({0: moved})]

    def sink(self, node: Node, affines: Mapping[int, Affine]) -> Sunk:
        if set(affines) != {0}:
            return self.blocks(node)
        moved = self._move(node, affines[0], upward=False)
        return moved if isinstance(moved, Refusal) else Crossing({0: moved})

    def _move(self, node: Node, affine: Affine, *, upward: bool) -> Affine | Refusal:
        if affine.axis is None:
            return self.through(node, affine, upward=upward)
        axes, rank = reduced_axes(node), node.rank(0)
        if axes is None:
            return node.refuse("dynamic-axes", "reduces over axes that are not known")
        assert rank is not None  # or the axes would not be known
        # Where each axis of the smaller tensor is in the larger one.
        places = [axis for axis in range(rank) if axis not in axes or node.attr("keepdims", 1)]
        axis = places[affine.axis] if upward else affine.axis
        if axis in axes:
            return node.refuse("reduced-axis", f"reduces over axis {axis}, along which the affine runs")
        moved = self.through(node, affine, upward=upward)
        if isinstance(moved, Refusal):
            return moved
        return moved.on_axis(axis if upward else places.index(axis))


def reduced_axes(node: Node) -> list[int] | None:
    """The axes a Reduce operator works on, counted from the left; None where they are not known."""
    axes = node.const_ints(1, "axes") if node.has(1) or "axes" in node.op.attributes else []
    rank = node.rank(0)
    if axes is None or rank is None:
        return None
    if not axes and not node.attr("noop_with_empty_axes", 0):
        return list(range(rank))
    return [axis % rank for axis in axes]


@register("ReduceMean")
class ReduceMean(Reduction):
    """Everything passes."""

    def through(self, node: Node, affine: Affine, *, upward: bool) -> Affine | Refusal:
        return affine


@register("ReduceMax", "ReduceMin")
class ReduceExtreme(Reduction):
    """Every scale that is not negative passes."""

    conditions = Conditions(cross="along an axis that is not reduced, or uniform; no negative scale")

    def through(self, node: Node, affine: Affine, *, upward: bool) -> Affine | Refusal:
        return rising(node, affine) or affine


@register("ReduceL1", "ReduceL2")
class ReduceNorm(Reduction):
    """A norm: scales that are not negative pass, shifts do not."""

    conditions = Conditions(cross="along an axis that is not reduced, or uniform; a scale that is nowhere negative")

    def through(self, node: Node, affine: Affine, *, upward: bool) -> Affine | Refusal:
        if not affine.is_scale:
            return node.refuse("nonlinear", "takes a norm, so no shift passes")
        return rising(node, affine) or affine


@register("ReduceSum")
class ReduceSum(Reduction):
    """A shift is multiplied by the number of elements summed, which must be known."""

    conditions = Conditions(
        cross="along an axis that is not reduced, or uniform; a shift only over a known number of elements",
    )

    def through(self, node: Node, affine: Affine, *, upward: bool) -> Affine | Refusal:
        if affine.is_scale:
            return affine
        count = _summed(node)
        if count is None:
            return node.refuse("unknown-shape", "sums over an unknown number of elements, so no shift passes")
        if count == 0:
            return node.refuse("empty", "sums over no elements")
        factor = 1.0 / count if upward else float(count)
        return Affine(affine.scale, affine.shift * factor, affine.axis)


def _summed(node: Node) -> int | None:
    """The number of elements that a reduction makes one of; None where it is not known."""
    count = 1
    axes = reduced_axes(node)
    for size in [None] if axes is None else [node.dim(0, axis) for axis in axes]:
        if size is None:
            return None
        count *= size
    return count
