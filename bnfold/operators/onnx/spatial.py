"""Pad and Resize: operators that invent or interpolate elements."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bnfold.affine import Affine
from bnfold.graph import Param
from bnfold.operators.answers import Crossing, Lifts, NewWeights, Sunk
from bnfold.operators.arithmetic import rising
from bnfold.operators.base import Conditions, Facts, Node, Role, register
from bnfold.refusal import Refusal


@register("Pad")
class Pad(Facts):
    """A constant border changes with the affine; a mirrored or repeated one follows by itself."""

    conditions = Conditions(
        cross="not along a padded axis; the constant of the border changes along and stays one number"
    )
    role = Role.SHAPE
    keeps_axes = True

    def lift(self, node: Node, affines: Mapping[int, Affine]) -> Lifts:
        crossing = self._cross(node, affines[0], upward=True)
        return crossing if isinstance(crossing, Refusal) else [crossing]

    def sink(self, node: Node, affines: Mapping[int, Affine]) -> Sunk:
        if set(affines) != {0}:
            return node.refuse("parameter", "gets the affine in an input that is not its data")
        return self._cross(node, affines[0], upward=False)

    def _cross(self, node: Node, affine: Affine, *, upward: bool) -> Crossing | Refusal:
        if affine.axis is not None:
            padded = self._is_padded(node, affine.axis)
            if isinstance(padded, Refusal):
                return padded
            if padded:
                return node.refuse("padded-channels", "pads the affine's own axis")
        if node.text("mode", "constant") != "constant":
            return Crossing({0: affine})
        value = self._value(node)
        if value is None:
            return node.refuse("dynamic-value", "pads with a value that is computed at run time")
        changed = self._border(node, affine, value, upward=upward)
        if isinstance(changed, Refusal):
            return changed
        return Crossing({0: affine}, None if changed == value else self._with_value(node, changed))

    @staticmethod
    def _border(node: Node, affine: Affine, value: float, *, upward: bool) -> float | Refusal:
        """What the border has to hold on the other side: one number, the same for every channel."""
        if not upward and not affine.scale.all():
            return node.refuse("zero-scale", "pads with a constant that a scale of zero cannot produce")
        with np.errstate(invalid="ignore", divide="ignore"):
            lifted, sunk = affine.scale * value + affine.shift, (value - affine.shift) / affine.scale
        borders = lifted if upward else sunk
        if not (borders == borders[0]).all():  # nor is one that is not a number equal to itself
            return node.refuse("uneven-border", "pads with one constant, which would have to differ by channel")
        return float(borders[0])

    @staticmethod
    def _is_padded(node: Node, axis: int) -> bool | Refusal:
        pads = node.const_ints(1, "pads")
        if pads is None:
            return node.refuse("dynamic-pads", "pads by amounts that are chosen at run time")
        axes = list(range(len(pads) // 2))
        if node.has(3):
            given, rank = node.const_ints(3), node.rank(0)
            if given is None or rank is None:
                return node.refuse("dynamic-axes", "pads axes that are chosen at run time")
            axes = [a % rank for a in given]
        # The amounts before every axis stand in front of those behind.
        return axis in axes and any(pads[axes.index(axis) :: len(axes)])

    @staticmethod
    def _value(node: Node) -> float | None:
        if node.opset < 11:
            return float(node.attr("value", 0.0))
        if not node.has(2):
            return 0.0
        param = node.const(2)
        if param is None or not param.is_float or param.size != 1:
            return None
        return float(param.exact().reshape(()))

    @staticmethod
    def _with_value(node: Node, value: float) -> NewWeights | None:
        if node.opset < 11:
            return NewWeights(attributes={"value": value})
        dtype = node.graph.tensor(node.op.input(0)).dtype
        old = node.const(2)
        name = old.name if old is not None else f"{node.op.outputs[0]}_border"
        kind = old.dtype if old is not None else (dtype if dtype is not None else np.dtype(np.float32))
        return NewWeights({2: Param.of(name, np.asarray(value, dtype=np.float64), kind)})


class Sampling(Facts):
    """Puts out elements of its data, or averages of them, in other places; its other inputs say where."""

    conditions = Conditions(cross="along an axis that stays as it is, or uniform")
    role = Role.SHAPE

    def allows(self, node: Node, affine: Affine) -> Refusal | None:
        """What stands in the way of an affine."""
        raise AssertionError("every operator has its own conditions")

    def lift(self, node: Node, affines: Mapping[int, Affine]) -> Lifts:
        return self.allows(node, affines[0]) or [Crossing({0: affines[0]})]

    def sink(self, node: Node, affines: Mapping[int, Affine]) -> Sunk:
        if set(affines) != {0}:
            return node.refuse("parameter", "gets the affine in an input that is not its data")
        return self.allows(node, affines[0]) or Crossing({0: affines[0]})


@register("Resize", "Upsample")
class Resize(Sampling):
    """Every output element is an average of input elements, with weights that sum to one."""

    conditions = Conditions(cross="not along a resized axis, nor with a constant outside (tf_crop_and_resize)")
    keeps_axes = True

    def allows(self, node: Node, affine: Affine) -> Refusal | None:
        if node.text("coordinate_transformation_mode", "") == "tf_crop_and_resize":
            return node.refuse("extrapolation", "fills what lies outside with a constant (tf_crop_and_resize)")
        if affine.axis is not None and not self._untouched(node, affine.axis):
            return node.refuse("resized-axis", "resizes the affine's axis, or may at run time")
        return None

    @staticmethod
    def _untouched(node: Node, axis: int) -> bool:
        axes = node.ints("axes") if "axes" in node.op.attributes else None
        if axes is not None:
            rank = node.rank(0)
            if rank is None:
                return False
            axes = [a % rank for a in axes]
            if axis not in axes:
                return True
        place = axes.index(axis) if axes is not None else axis
        scales = _scales(node)
        if place < len(scales):
            return scales[place] == 1.0
        size = node.dim(0, axis)
        return size is not None and node.graph.dim(node.op.outputs[0], axis) == size


def _scales(node: Node) -> list[float]:
    """How many times as long the axes become; none where sizes are given, or where it is not known."""
    if "scales" in node.op.attributes:
        return [float(scale) for scale in node.attr("scales")]
    param = node.const(1 if node.opset < 11 else 2)
    return [] if param is None else [float(scale) for scale in param.array().reshape(-1)]


@register("GridSample")
class GridSample(Sampling):
    """Interpolates between elements, with weights that sum to one; what lies outside of the image is padding."""

    conditions = Conditions(
        cross="along batch or channels, or uniform; a shift only where the border is repeated or mirrored",
    )

    def allows(self, node: Node, affine: Affine) -> Refusal | None:
        if affine.axis is not None and affine.axis > 1:
            return node.refuse("resized-axis", "samples along the affine's axis")
        if not affine.is_scale and node.text("padding_mode", "zeros") == "zeros":
            return node.refuse("zero-padding", "reads zeros outside of the image, so no shift passes")
        return None


@register("CenterCropPad")
class CenterCropPad(Sampling):
    """Crops axes, or pads them with zeros."""

    conditions = Conditions(cross="not along an axis whose size changes; a shift only where nothing is padded")

    def allows(self, node: Node, affine: Affine) -> Refusal | None:
        rank, wanted = node.rank(0), node.const_ints(1)
        if rank is None or wanted is None:
            return node.refuse("dynamic-range", "crops or pads to a size that is not known")
        axes = [axis % rank for axis in node.ints("axes", range(rank))]
        sizes = dict(zip(axes, wanted, strict=False))
        changed = [axis for axis, size in sizes.items() if node.dim(0, axis) != size]
        if affine.axis in changed:
            return node.refuse("resized-axis", "crops or pads the affine's axis, or may at run time")
        lengths = [node.dim(0, axis) for axis in changed]
        if affine.is_scale or all(
            length is not None and length >= sizes[axis] for axis, length in zip(changed, lengths, strict=True)
        ):
            return None
        return node.refuse("zero-padding", "pads with zeros, or may at run time, so no shift passes")


@register("RoiAlign")
class RoiAlign(Sampling):
    """Averages, or takes the largest, of interpolated elements of one image a region; zeros outside of it."""

    conditions = Conditions(cross="along channels, or uniform; a scale, not negative for maxima")

    def allows(self, node: Node, affine: Affine) -> Refusal | None:
        if affine.axis not in (None, 1):
            return node.refuse("resized-axis", "takes regions along the affine's axis")
        if not affine.is_scale:
            return node.refuse("zero-padding", "reads zeros outside of the image, so no shift passes")
        return rising(node, affine) if node.text("mode", "avg") == "max" else None
