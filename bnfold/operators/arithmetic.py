"""Elementwise arithmetic: an affine map when one operand is constant, a join of tensors otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bnfold.affine import Affine, same_values
from bnfold.graph import Param
from bnfold.operators.answers import Crossing, Lifts, Sunk
from bnfold.operators.base import Combination, Conditions, Node, Role, dim_of, rank_of
from bnfold.operators.batchnorm import AffineFacts
from bnfold.refusal import Refusal

Values = NDArray[np.float64]


def broadcast_constant(node: Node, param: Param, data: int) -> tuple[list[int], Values] | Refusal:
    """The axes of the data along which a broadcast constant varies, and its values over them.

    ONNX aligns shapes from the right. The constant must not enlarge the data: where it has more
    than one entry the data must be known to be as long.
    """
    if not param.is_float or not param.size:
        return node.refuse("integer", "computes with integers, or with nothing")
    old = _old_broadcasting(node)
    if old is not None:
        return old
    shape, tensor = param.shape, node.op.input(data)
    known = node.graph.tensor(tensor).shape
    rank = rank_of(node.graph, tensor) if known is None else len(known)
    if rank is None:
        if not shape:
            return [], param.exact()
        return node.refuse("unknown-rank", "has an input of unknown rank, so the axis of its constant cannot be told")
    if len(shape) > rank:
        return node.refuse("broadcast", "has a constant of higher rank than its input")
    wide = [axis for axis, size in enumerate(shape) if size != 1]
    axes = [axis + rank - len(shape) for axis in wide]
    for axis, own in zip(axes, wide, strict=True):
        size = known[axis] if known is not None else None
        if not isinstance(size, int):
            size = dim_of(node.graph, tensor, axis)
        if size is None:
            return node.refuse(
                "unknown-shape", f"has an input of unknown size on axis {axis}, where its constant varies"
            )
        if size != shape[own]:
            return node.refuse("broadcast", f"has a constant that enlarges its input along axis {axis}")
    return axes, param.exact().reshape([shape[axis] for axis in wide])


def onto_operand(node: Node, slot: int, affine: Affine) -> Affine | None:
    """An affine on the output, as this operand carries it; None where the operand is broadcast along its axis."""
    if affine.axis is None:
        return affine
    rank, out_rank = node.rank(slot), node.out_rank()
    if rank is None or out_rank is None:
        return None
    extra = out_rank - rank
    if any(axis < extra or node.dim(slot, axis - extra) != size for axis, size in affine.axes):
        return None
    return affine.shifted_axes(-extra)


def onto_output(node: Node, slot: int, affine: Affine) -> Affine | Refusal:
    """An affine on an operand, as the output carries it."""
    if affine.axis is None:
        return affine
    rank, out_rank = node.rank(slot), node.out_rank()
    if rank is None or out_rank is None:
        return node.refuse("unknown-rank", "has operands of unknown rank")
    return affine.shifted_axes(out_rank - rank)


def lift_sum(node: Node, signs: Mapping[int, float], affine: Affine) -> Lifts:
    """``s * sum(sign_i * x_i) + t``: the scale to every operand, the shift to any one of them."""
    carried = {slot: onto_operand(node, slot, affine) for slot in signs}
    if not affine.is_shift and None in carried.values():
        return node.refuse("broadcast", "adds an operand that is broadcast along the affine's axis")
    scales = {slot: part.scale_part() for slot, part in carried.items() if part is not None}
    if affine.is_scale:
        return [Crossing(scales)]
    ways = []
    for slot, part in carried.items():
        if part is not None:
            shifted = replace(part, shift=signs[slot] * part.shift)
            ways.append(Crossing({**scales, slot: shifted}))
    if not ways:
        return node.refuse("broadcast", "adds operands that are broadcast along the affine's axis")
    return ways


def sink_sum(node: Node, signs: Mapping[int, float], affines: Mapping[int, Affine]) -> Sunk:
    """Shifts add up; a scale passes when every operand carries the same one."""
    total: Affine | None = None
    for slot, sign in signs.items():
        moved = onto_output(node, slot, affines.get(slot, Affine.identity()))
        if isinstance(moved, Refusal):
            return moved
        moved = replace(moved, shift=sign * moved.shift)
        if total is None:
            total = moved
            continue
        if not total.composes(moved) or not same_values(total.scale, moved.scale):
            return node.refuse("unequal-scales", "adds operands that do not carry the same scale")
        wide = total if total.axis is not None else moved
        total = replace(wide, shift=total.shift + moved.shift)
    assert total is not None
    return Crossing({0: total})


def lift_gate(node: Node, slots: tuple[int, ...], affine: Affine) -> Lifts:
    """A scale of a product belongs to any one factor that has the axis in full."""
    if not affine.is_scale:
        return node.refuse("product", "multiplies two tensors, so no shift passes")
    ways = [Crossing({slot: part}) for slot in slots if (part := onto_operand(node, slot, affine)) is not None]
    return ways or node.refuse("broadcast", "has operands that are broadcast along the affine's axis")


def sink_gate(node: Node, affines: Mapping[int, Affine], divisor: int | None = None) -> Sunk:
    """Scales of the factors multiply; that of the operand in slot ``divisor`` is inverted."""
    total = Affine.identity()
    for slot, affine in affines.items():
        if not affine.is_scale:
            return node.refuse("product", "multiplies two tensors, so no shift passes")
        if slot == divisor:
            if not affine.scale.all():
                return node.refuse("zero-scale", "divides by its input, whose scale is zero")
            affine = affine.inverse()
        moved = onto_output(node, slot, affine)
        if isinstance(moved, Refusal):
            return moved
        if not total.composes(moved):
            return node.refuse("two-axes", "would carry affines along two axes")
        total = total.then(moved)
    return Crossing({0: total})


def _old_broadcasting(node: Node) -> Refusal | None:
    """Before opset 7 an attribute let the second operand be broadcast, from an axis that another one gave."""
    if node.attr("broadcast", 0):
        return node.refuse("old-opset", "broadcasts by rules of before opset 7")
    return None


class Arithmetic(AffineFacts):
    """Mul, Add, Sub and Div: which of the two they are shows in the graph."""

    conditions = Conditions(as_affine="one operand constant, finite, floating-point and not enlarging the other")
    role = Role.JOIN

    def data_slot(self, node: Node) -> int:
        return 1 if node.const(1) is None and node.const(0) is not None else 0

    def as_affine(self, node: Node) -> Affine | Refusal:
        data, param = 0, node.const(1)
        if param is None:
            data, param = 1, node.const(0)
        if param is None:
            return node.refuse("two-tensors", "joins two tensors that are computed at run time")
        found = broadcast_constant(node, param, data)
        if isinstance(found, Refusal):
            return found
        affine = self.affine_of(node, data, *found)
        if isinstance(affine, Affine) and not affine.is_finite:
            return node.refuse("not-finite", "divides by zero or has a constant that is not finite")
        return affine

    def affine_of(self, node: Node, data: int, axes: list[int], values: Values) -> Affine | Refusal:
        """The map for constant ``values`` that vary along ``axes``, with x in slot ``data``."""
        raise AssertionError("every operator has its own")

    def output_shape(self, node: Node) -> tuple[int | None, dict[int, int]]:
        """Where a constant has more than one entry, the output has as many, whatever the data's own size."""
        param, rank = node.const(1 - self.data_slot(node)), node.graph.rank(node.op.outputs[0])
        if param is None or rank is None or _old_broadcasting(node) is not None:
            return None, {}
        first = rank - len(param.shape)
        return rank, {first + axis: size for axis, size in enumerate(param.shape) if size > 1}

    def broadcast_with(self, node: Node) -> tuple[int, ...] | None:
        param = node.const(1 - self.data_slot(node))
        return None if param is None or _old_broadcasting(node) is not None else param.shape


class Additive(Arithmetic):
    """Add and Sub: both operands carry the scale, either one the shift."""

    conditions = Conditions(
        lift="a scale to both operands, which have the axis in full; the shift to either one",
        sink="shifts, which add up; scales that both operands carry alike",
    )
    combination = Combination.SUM
    #: The sign of the second operand.
    sign: float

    def addends(self, node: Node) -> Mapping[int, float] | None:
        return {0: 1.0, 1: self.sign} if _old_broadcasting(node) is None else None

    def lift(self, node: Node, affines: Mapping[int, Affine]) -> Lifts:
        return _old_broadcasting(node) or lift_sum(node, {0: 1.0, 1: self.sign}, affines[0])

    def sink(self, node: Node, affines: Mapping[int, Affine]) -> Sunk:
        return _old_broadcasting(node) or sink_sum(node, {0: 1.0, 1: self.sign}, affines)


class Add(Additive):
    """``a + b``."""

    sign = 1.0

    def affine_of(self, node: Node, data: int, axes: list[int], values: Values) -> Affine:
        return Affine.over(axes, np.ones_like(values), values)


class Sub(Additive):
    """``a - b``: with a constant a it is an affine of scale -1."""

    sign = -1.0

    def affine_of(self, node: Node, data: int, axes: list[int], values: Values) -> Affine:
        sign = 1.0 if data == 0 else -1.0
        return Affine.over(axes, np.full_like(values, sign), -sign * values)


class Mul(Arithmetic):
    """``a * b``; of two tensors it is a gate."""

    conditions = Conditions(
        lift="a scale, to a factor that has the axis in full",
        sink="scales, which multiply; along one axis",
    )
    combination = Combination.PRODUCT

    def affine_of(self, node: Node, data: int, axes: list[int], values: Values) -> Affine:
        return Affine.over(axes, values, np.zeros(values.shape))

    def lift(self, node: Node, affines: Mapping[int, Affine]) -> Lifts:
        return _old_broadcasting(node) or lift_gate(node, (0, 1), affines[0])

    def sink(self, node: Node, affines: Mapping[int, Affine]) -> Sunk:
        return _old_broadcasting(node) or sink_gate(node, affines)


class Div(Arithmetic):
    """``a / b``: by a constant it is a scale; a constant by x is not linear."""

    conditions = Conditions(
        as_affine="the divisor constant, finite and nowhere zero",
        lift="a scale, to the dividend",
        sink="scales, that of the divisor inverted and nowhere zero; along one axis",
    )
    combination = Combination.QUOTIENT

    def affine_of(self, node: Node, data: int, axes: list[int], values: Values) -> Affine | Refusal:
        if data == 1:
            return node.refuse("reciprocal", "divides a constant by its input, which is not linear")
        with np.errstate(divide="ignore", over="ignore"):
            scale = 1.0 / values
        return Affine.over(axes, scale, np.zeros(values.shape))

    def lift(self, node: Node, affines: Mapping[int, Affine]) -> Lifts:
        return _old_broadcasting(node) or lift_gate(node, (0,), affines[0])

    def sink(self, node: Node, affines: Mapping[int, Affine]) -> Sunk:
        return _old_broadcasting(node) or sink_gate(node, affines, divisor=1)


def rising(node: Node, affine: Affine) -> Refusal | None:
    """Refuse a negative scale before or after an operator that compares values."""
    if (affine.scale < 0).any():
        return node.refuse("negative-scale", "compares values, and a negative scale would turn their order around")
    return None
