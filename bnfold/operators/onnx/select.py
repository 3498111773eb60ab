"""Operators that cut tensors up, put them together or repeat them along an axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bnfold.affine import MAX_CHANNELS, Affine
from bnfold.operators.answers import Crossing, Lifts, Sunk
from bnfold.operators.base import Conditions, Facts, Node, Role, register
from bnfold.operators.concatenation import axis_of, joined_parts, parts_of, simplified
from bnfold.refusal import Refusal


@register("Split")
class Split(Facts):
    """The reverse of a Concat: its used outputs must all carry an affine for it to be lifted."""

    conditions = Conditions(
        lift="what its used outputs carry, one slice each; along another axis the same from all",
        sink="along the split axis, one slice to each part of known size; else the same to all",
    )
    role = Role.SHAPE

    def lift(self, node: Node, affines: Mapping[int, Affine]) -> Lifts:
        axis = axis_of(node, 0)
        if axis is None:
            return node.refuse("unknown-rank", "splits a tensor of unknown rank")
        # What nobody reads may carry anything: along another axis, the same as the others.
        first, identity = next(iter(affines.values())), Affine.identity()
        unused = identity if first.axis == axis else first
        outputs = range(len(node.op.outputs))
        parts = {index: affines.get(index, identity if node.used(index) else unused) for index in outputs}
        joined = joined_parts(node, parts, self.sizes(node, axis), axis)
        return joined if isinstance(joined, Refusal) else [Crossing({0: joined})]

    @staticmethod
    def sizes(node: Node, axis: int) -> Sequence[int | None]:
        declared = node.const_ints(1, "split")
        if declared is not None and len(declared) == len(node.op.outputs):
            return declared
        return [node.graph.dim(output, axis) for output in node.op.outputs]

    def output_shape(self, node: Node) -> tuple[int | None, dict[int, int]]:
        axis, rank = axis_of(node, 0), node.graph.rank(node.op.input(0))
        size = None if axis is None else self.sizes(node, axis)[0]
        return rank, {} if axis is None or size is None else {axis: size}

    def sink(self, node: Node, affines: Mapping[int, Affine]) -> Sunk:
        axis = axis_of(node, 0)
        if set(affines) != {0} or axis is None:
            return node.refuse("unknown-rank", "splits a tensor of unknown rank")
        affine = affines[0]
        if affine.axis != axis:
            return Crossing(dict.fromkeys(range(len(node.op.outputs)), affine))
        parts = parts_of(affine, self.sizes(node, axis))
        if parts is None:
            return node.refuse("unknown-shape", f"splits into parts of unknown size along axis {axis}")
        return Crossing(dict(enumerate(parts)))


class Selection(Facts):
    """Takes some entries along axes: the affine's entries go with them."""

    conditions = Conditions(
        lift="to the entries that are taken, by constants from an axis of known size; copies alike",
        sink="with the entries that are taken, by constants where they are the affine's",
    )
    role = Role.SHAPE

    def indices(self, node: Node, axis: int) -> np.ndarray | Refusal | None:
        """The entries taken along an axis of the input; None where all are, in order."""
        raise AssertionError("every selection has its own")

    def to_output(self, node: Node, axis: int) -> int | None:
        """Where an axis of the input is in the output; None where it vanishes."""
        return axis

    def to_input(self, node: Node, axis: int) -> int | None:
        """Where an axis of the output is in the input; None where it is new."""
        return axis

    def sink(self, node: Node, affines: Mapping[int, Affine]) -> Sunk:
        if set(affines) != {0}:
            return node.refuse("parameter", "gets the affine in an input that is not its data")
        affine = affines[0]
        if affine.axis is None:
            return Crossing({0: affine})
        taken = self.indices(node, affine.axis)
        if isinstance(taken, Refusal):
            return taken
        place = self.to_output(node, affine.axis)
        if taken is not None:
            if not _exist(taken, affine.size):
                return node.refuse("out-of-range", "takes entries that do not exist")
            affine = simplified(affine.take(taken.reshape(-1)))
        if place is None and affine.axis is not None:
            return node.refuse("not-per-channel", "spreads the affine's axis over several, or nobody knows where to")
        return Crossing({0: affine.on_axis(place)})

    def lift(self, node: Node, affines: Mapping[int, Affine]) -> Lifts:
        affine = affines[0]
        if affine.axis is None:
            return [Crossing({0: affine})]
        axis = self.to_input(node, affine.axis)
        if axis is None:
            return node.refuse("new-axis", "makes the affine's axis out of indices")
        taken = self.indices(node, axis)
        if isinstance(taken, Refusal):
            return taken
        if taken is None:
            return [Crossing({0: affine.on_axis(axis)})]
        size = node.dim(0, axis)
        taken = taken.reshape(-1)
        if size is None or taken.size != affine.size or not _exist(taken, size):
            return node.refuse("unknown-shape", f"takes entries of axis {axis}, whose size is not known")
        scale, shift = np.ones(size), np.zeros(size)
        scale[taken], shift[taken] = affine.scale, affine.shift
        lifted = Affine(scale, shift, axis)
        if not lifted.take(taken).same_as(affine.on_axis(axis)):
            return node.refuse("unequal-copies", "takes one entry several times, with different maps")
        return [Crossing({0: lifted})]


def _exist(taken: np.ndarray, size: int) -> bool:
    """Are these indices, from the left or the right, of an axis of that size?"""
    return bool(((taken >= -size) & (taken < size)).all())


@register("Slice")
class Slice(Selection):
    """A range with a step along each of some axes."""

    def indices(self, node: Node, axis: int) -> np.ndarray | Refusal | None:
        rank = node.rank(0)
        starts, ends, axes = (node.const_ints(slot, name) for slot, name in ((1, "starts"), (2, "ends"), (3, "axes")))
        if axes is None:
            if node.has(3) or starts is None:
                return node.refuse("dynamic-axes", "slices axes that are chosen at run time")
            axes = list(range(len(starts)))
        if rank is None and any(a < 0 for a in axes):
            return node.refuse("unknown-rank", "slices a tensor of unknown rank")
        axes = [a % rank if rank is not None else a for a in axes]
        if axis not in axes:
            return None
        size, steps = node.dim(0, axis), node.const_ints(4) if node.has(4) else [1] * len(axes)
        if size is None or starts is None or ends is None or steps is None or 0 in steps:
            return node.refuse("dynamic-range", f"slices axis {axis} by a range that is not known")
        k = axes.index(axis)
        # As in ONNX, what lies beyond either end means that end.
        return np.arange(size)[slice(starts[k], ends[k], steps[k])]


@register("Gather")
class Gather(Selection):
    """Entries by index along one axis; the indices' axes take its place."""

    is_lookup = True

    def indices(self, node: Node, axis: int) -> np.ndarray | Refusal | None:
        if axis != axis_of(node, 0):
            return None
        param = node.const(1)
        if param is None:
            return node.refuse("dynamic-indices", "takes entries along the affine's axis that are chosen at run time")
        return np.asarray(param.array(), dtype=np.int64)

    def to_output(self, node: Node, axis: int) -> int | None:
        at, depth = axis_of(node, 0), node.rank(1)
        if at is None or depth is None:
            return None
        if axis > at:
            return axis + depth - 1
        return axis if axis < at or depth == 1 else None

    def to_input(self, node: Node, axis: int) -> int | None:
        at, depth = axis_of(node, 0), node.rank(1)
        if at is None or depth is None:
            return None
        if axis < at:
            return axis
        if axis < at + depth:
            return at if depth == 1 else None
        return axis - depth + 1


@register("Compress")
class Compress(Selection):
    """The entries along one axis for which a condition holds; of all elements in a row where it names no axis."""

    def indices(self, node: Node, axis: int) -> np.ndarray | Refusal | None:
        if "axis" not in node.op.attributes:
            return node.refuse("not-per-channel", "puts all elements in a row")
        at, param = axis_of(node, 0), node.const(1)
        if at is None:
            return node.refuse("unknown-rank", "takes entries of a tensor of unknown rank")
        if axis != at:
            return None
        if param is None:
            return node.refuse("dynamic-indices", "takes entries along the affine's axis that are chosen at run time")
        return np.flatnonzero(param.array())

    def output_shape(self, node: Node) -> tuple[int | None, dict[int, int]]:
        # onnx's inference gives up on an axis that counts from the right.
        flattens, param = "axis" not in node.op.attributes, node.const(1)
        at = 0 if flattens else axis_of(node, 0)
        sizes = {} if at is None or param is None else {at: int(np.count_nonzero(param.array()))}
        return 1 if flattens else node.rank(0), sizes


@register("GatherElements")
class GatherElements(Selection):
    """Every output element comes from another place along one axis, and from its own place along the others."""

    conditions = Conditions(cross="not along the axis that is gathered along; of known sizes, or uniform")

    def indices(self, node: Node, axis: int) -> np.ndarray | Refusal | None:
        at = axis_of(node, 0)
        if at is None:
            return node.refuse("unknown-rank", "takes entries of a tensor of unknown rank")
        if axis == at:
            return node.refuse("not-per-channel", "takes other entries of the affine's axis at every place")
        size, taken = node.dim(0, axis), node.dim(1, axis)
        if size is None or taken is None:
            return node.refuse("unknown-shape", f"takes entries of axis {axis}, whose size is not known")
        return None if taken == size else np.arange(taken)


@register("ReverseSequence")
class ReverseSequence(Selection):
    """Turns around the beginning of each sequence of a batch."""

    conditions = Conditions(cross="not along the time axis")

    def indices(self, node: Node, axis: int) -> np.ndarray | Refusal | None:
        if axis == int(node.attr("time_axis", 0)):
            return node.refuse("not-per-channel", "reorders the affine's axis, differently for each sequence")
        return None


@register("Expand", "Tile")
class Repeat(Facts):
    """Repeats a tensor along axes: an affine along an axis that is not repeated passes as it is."""

    conditions = Conditions(
        lift="along an axis that is not broadcast; copies alike",
        sink="along an axis that is not broadcast, repeated where it is tiled",
    )
    role = Role.SHAPE

    def sink(self, node: Node, affines: Mapping[int, Affine]) -> Sunk:
        if set(affines) != {0}:
            return node.refuse("parameter", "gets the affine in an input that is not its data")
        affine = affines[0]
        if affine.axis is None:
            return Crossing({0: affine})
        rank, out_rank = node.rank(0), node.out_rank()
        if rank is None or out_rank is None:
            return node.refuse("unknown-rank", "repeats a tensor of unknown rank")
        times = self._times(node, affine.axis, affine.size)
        if isinstance(times, Refusal):
            return times
        return Crossing({0: affine.tile(times).on_axis(affine.axis + out_rank - rank)})

    def lift(self, node: Node, affines: Mapping[int, Affine]) -> Lifts:
        affine = affines[0]
        if affine.axis is None:
            return [Crossing({0: affine})]
        rank, out_rank = node.rank(0), node.out_rank()
        if rank is None or out_rank is None:
            return node.refuse("unknown-rank", "repeats a tensor of unknown rank")
        axis = affine.axis - (out_rank - rank)
        size = node.dim(0, axis) if axis >= 0 else None
        if not size:
            return node.refuse("new-axis", "makes the affine's axis by repetition")
        times = self._times(node, axis, size)
        if isinstance(times, Refusal):
            return times
        lifted = affine.take(slice(0, size)).on_axis(axis)
        if not lifted.tile(times).same_as(affine.on_axis(axis)):
            return node.refuse("unequal-copies", "repeats entries that carry different maps")
        return [Crossing({0: simplified(lifted)})]

    @staticmethod
    def _times(node: Node, axis: int, size: int) -> int | Refusal:
        """How often the entries along an input axis are repeated."""
        if node.op.type == "Tile":
            repeats = node.const_ints(1)
            if repeats is None or axis >= len(repeats):
                return node.refuse("dynamic-repeats", "repeats by counts that are chosen at run time")
            if size * repeats[axis] > MAX_CHANNELS:
                return node.refuse("too-many", f"repeats {size} entries {repeats[axis]} times")
            return repeats[axis]
        return 1 if size > 1 else node.refuse("broadcast", "broadcasts along the affine's axis")
