"""The weights of linear operators: plain constants, or integers behind a DequantizeLinear.

Both offer the same three things to the algebra: their shape, their exact values block by block, and
a version of themselves scaled along their channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bnfold.affine import Affine
from bnfold.graph import Param
from bnfold.operators.answers import NewOp
from bnfold.operators.base import Node
from bnfold.records import record
from bnfold.refusal import Refusal

Factor = NDArray[np.float64]


class Weight(Protocol):
    """What the algebra needs to know of a weight, wherever its values are kept."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def float_dtype(self) -> np.dtype[np.generic]:
        """The dtype of the values as the operator sees them."""

    @property
    def is_known(self) -> bool:
        """Are these its values, and not what stands for those that were left unread?"""

    def row_blocks(self) -> Iterator[tuple[int, int]]: ...

    def exact_rows(self, start: int, stop: int) -> NDArray[np.float64]:
        """Values ``[start:stop]`` along the first axis, in float64."""

    def scaled(self, factor: Factor) -> Param | NewOp | Refusal:
        """The weight times a factor that broadcasts against it."""


@record
class PlainWeight:
    """A constant of a floating-point type."""

    param: Param

    @property
    def shape(self) -> tuple[int, ...]:
        return self.param.shape

    @property
    def float_dtype(self) -> np.dtype[np.generic]:
        return self.param.dtype

    @property
    def is_known(self) -> bool:
        return self.param.is_known

    def row_blocks(self) -> Iterator[tuple[int, int]]:
        return self.param.row_blocks()

    def exact_rows(self, start: int, stop: int) -> NDArray[np.float64]:
        return self.param.exact_rows(start, stop)

    def scaled(self, factor: Factor) -> Param:
        return self.param.scaled(factor)


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """``(integers - zero_point) * scale`` by a DequantizeLinear, per tensor or per channel of ``axis``.

    Scaling it changes the quantisation scale alone; a negative factor also mirrors the integers
    about their zero point, which must stay within the integer type. ``scale`` and ``zero_point`` are
    vectors of one length: 1, or the size of ``axis``.
    """

    node: Node
    integers: Param
    scale: NDArray[np.float64]
    zero_point: NDArray[np.int64]
    axis: int

    @property
    def shape(self) -> tuple[int, ...]:
        return self.integers.shape

    @property
    def float_dtype(self) -> np.dtype[np.generic]:
        param = self.node.const(1)
        assert param is not None
        return param.dtype

    @property
    def is_known(self) -> bool:
        return self.integers.is_known

    def row_blocks(self) -> Iterator[tuple[int, int]]:
        return self.integers.row_blocks()

    def _along(self, vector: NDArray[Any]) -> NDArray[Any]:
        shape = [1] * len(self.shape)
        shape[self.axis] = vector.size
        return vector.reshape(shape)

    def exact_rows(self, start: int, stop: int) -> NDArray[np.float64]:
        rows = self.integers.exact_rows(start, stop)
        scale, zero = self._along(self.scale), self._along(self.zero_point)
        if scale.shape[0] > 1:
            scale, zero = scale[start:stop], zero[start:stop]
        return np.asarray((rows - zero) * scale, dtype=np.float64)

    def scaled(self, factor: Factor) -> Param | NewOp | Refusal:
        if (factor == factor.flat[0]).all():
            factor = factor.reshape(-1)[:1].reshape([1] * factor.ndim)
        varies = [axis for axis, size in enumerate(factor.shape) if size > 1]
        per_channel = self.scale.size > 1
        if len(varies) > 1 or (varies and per_channel and varies[0] != self.axis):
            return self.node.refuse("quantized-axis", "quantises along another axis than the affine's")
        axis = varies[0] if varies else self.axis
        if varies and self.node.opset < 13:
            return self.node.refuse("old-opset", "cannot quantise per channel before opset 13")
        channels = max(factor.size, self.scale.size)
        vector = np.broadcast_to(factor.reshape(-1), (channels,))
        if not vector.all():
            return self.node.refuse("zero-scale", "cannot carry a quantisation scale of zero")
        scale = np.broadcast_to(self.scale, (channels,)) * np.abs(vector)
        zero = np.broadcast_to(self.zero_point, (channels,))
        integers = self._mirrored(np.signbit(vector), zero, axis)
        if isinstance(integers, Refusal):
            return integers
        shape: tuple[int, ...] = (channels,) if channels > 1 else ()
        original = self.node.const(1)
        assert original is not None
        inputs: list[Param | str] = [integers, Param.of(original.name, scale.reshape(shape), original.dtype)]
        point = self.node.const(2)
        if point is not None:
            inputs.append(Param.of(point.name, zero.reshape(shape).astype(point.dtype)))
        attributes = {**self.node.op.attributes, **({"axis": axis} if shape else {})}
        return NewOp("DequantizeLinear", tuple(inputs), attributes)

    def _mirrored(self, negative: NDArray[np.bool_], zero: NDArray[np.int64], axis: int) -> Param | Refusal:
        if not negative.any():
            return self.integers
        values = self.integers.array().astype(np.int64)
        shape = [1] * values.ndim
        shape[axis] = negative.size
        mirrored = np.where(negative.reshape(shape), 2 * zero.reshape(shape) - values, values)
        limits = np.iinfo(self.integers.dtype)
        if mirrored.min() < limits.min or mirrored.max() > limits.max:
            return self.node.refuse("integer-overflow", f"holds integers whose mirror images do not fit {limits.dtype}")
        return Param.of(self.integers.name, mirrored.astype(self.integers.dtype))


def weight_of(node: Node, slot: int, rank: int = 2) -> Weight | Refusal:
    """The constant weight in a slot, plain or dequantised, of at least ``rank`` dimensions, or why there is none."""
    weight = _weight(node, slot)
    if not isinstance(weight, Refusal) and len(weight.shape) < rank:
        return node.refuse("vector-weight", "multiplies by a single vector or number, which leaves no channel axis")
    return weight


def _weight(node: Node, slot: int) -> Weight | Refusal:
    tensor = node.op.input(slot)
    producer = node.graph.producer(tensor)
    if producer is not None and producer.type == "DequantizeLinear" and not producer.domain:
        return _quantized(Node(node.graph, producer))
    param = node.graph.constant(tensor)
    if param is None:
        if tensor in node.graph.overridable:
            return node.refuse("overridable", f"has weights ({tensor}) that the caller may override")
        return node.refuse("dynamic-weights", "has weights that are computed at run time")
    if not param.is_float:
        return node.refuse("integer-weights", f"has weights of type {param.dtype}")
    return PlainWeight(param)


def _quantized(node: Node) -> Weight | Refusal:
    integers, scale, zero = node.const(0), node.const(1), node.const(2)
    if integers is None or scale is None or (node.has(2) and zero is None):
        return node.refuse("dynamic-weights", "dequantises values that are computed at run time")
    rank = len(integers.shape)
    if integers.dtype.kind not in "iu" or 0 in (rank, integers.size) or node.attr("block_size", 0):
        return node.refuse("quantized-form", f"dequantises {integers.dtype} in blocks or of a type that is not handled")
    factors = scale.exact().reshape(-1)
    points = np.zeros_like(factors, np.int64) if zero is None else zero.array().astype(np.int64).reshape(-1)
    axis = int(node.attr("axis", 1)) if factors.size != 1 else 0
    axis = axis + rank if axis < 0 else axis
    if points.size != factors.size or (factors.size != 1 and (axis, factors.size) not in enumerate(integers.shape)):
        return node.refuse("quantized-form", "has a quantisation scale that does not fit its axis")
    return QuantizedWeight(node, integers, factors, points, axis)


def constant_values(node: Node, slot: int) -> NDArray[np.float64] | None:
    """The exact values of a constant vector, through a DequantizeLinear if need be; None if there is none."""
    weight = weight_of(node, slot, rank=1)
    if isinstance(weight, Refusal):
        return None
    return weight.exact_rows(0, weight.shape[0])


def mapped(param: Param, affine: Affine) -> Param | None:
    """A constant with an affine applied to it; None where it is broadcast along the affine's axis."""
    rank = len(param.shape)
    if any(axis >= rank or param.shape[axis] != size for axis, size in affine.axes):
        return None
    scale, shift = affine.broadcastable(rank)
    new = param if affine.is_shift else param.scaled(scale)
    return new if affine.is_scale else new.shifted(shift)
