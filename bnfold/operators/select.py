"""Operators that cut tensors up, put them together or repeat them along an axis."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bnfold.affine import Affine, concatenate
from bnfold.operators.base import Crossing, Facts, Lifts, Node, Role, Sunk, register
from bnfold.refusal import Refusal


def _parts(affine: Affine, sizes: list[int]) -> list[Affine]:
    """Slices of an affine, one for each of the consecutive ``sizes``."""
    parts, start = [], 0
    for size in sizes:
        parts.append(_simplified(affine.take(slice(start, start + size))))
        start += size
    return parts


def _simplified(affine: Affine) -> Affine:
    return affine.as_uniform() if affine.size and affine.is_uniform else affine


def _joined(node: Node, parts: list[Affine], sizes: list[int | None], axis: int) -> Affine | Refusal:
    """One affine over consecutive parts along ``axis``; the same one for all may run along another axis."""
    first = parts[0]
    if all(part.same_as(first) for part in parts[1:]) and first.axis != axis:
        return first
    if any(part.grid or part.axis not in (None, axis) for part in parts):
        return node.refuse("unequal-parts", "has parts that do not carry the same affine along the same axis")
    if None in sizes:
        return node.refuse("unknown-shape", f"has parts of unknown size along axis {axis}")
    known = [size or 0 for size in sizes]
    if any(part.axis is not None and part.size != size for part, size in zip(parts, known, strict=True)):
        return node.refuse("size-mismatch", "has a part of another size than its affine")
    return _simplified(concatenate(parts, known, axis))


@register("Concat")
class Concat(Facts):
    """Along the joined axis each part has its slice, along another one all parts have the same map."""

    role = Role.JOIN

    @staticmethod
    def axis(node: Node) -> int | None:
        axis = int(node.attr("axis", 1))
        rank = node.out_rank()
        if rank is None:
            rank = node.rank(0)
        if axis >= 0:
            return axis
        return None if rank is None else axis + rank

    def lift(self, node: Node, affines: Mapping[int, Affine]) -> Lifts:
        affine, axis = affines[0], self.axis(node)
        slots = range(len(node.op.inputs))
        if affine.axis is None or (axis is not None and affine.axis != axis):
            return [Crossing(dict.fromkeys(slots, affine))]
        if axis is None:
            return node.refuse("unknown-rank", "joins tensors of unknown rank")
        sizes = [node.dim(slot, axis) for slot in slots]
        if None in sizes or sum(size or 0 for size in sizes) != affine.size:
            return node.refuse("unknown-shape", f"joins parts of unknown size along axis {axis}")
        parts = _parts(affine, [size or 0 for size in sizes])
        return [Crossing({slot: part for slot, part in zip(slots, parts, strict=True) if not part.is_identity})]

    def sink(self, node: Node, affines: Mapping[int, Affine]) -> Sunk:
        axis = self.axis(node)
        if axis is None:
            return node.refuse("unknown-rank", "joins tensors of unknown rank")
        slots = range(len(node.op.inputs))
        parts = [affines.get(slot, Affine.identity()) for slot in slots]
        joined = _joined(node, parts, [node.dim(slot, axis) for slot in slots], axis)
        return joined if isinstance(joined, Refusal) else Crossing({0: joined})


@register("Split")
class Split(Facts):
    """The reverse of a Concat: its used outputs must all carry an affine for it to be lifted."""

    role = Role.SHAPE

    @staticmethod
    def axis(node: Node) -> int | None:
        axis = int(node.attr("axis", 0))
        rank = node.rank(0)
        if axis >= 0:
            return axis
        return None if rank is None else axis + rank

    def lift(self, node: Node, affines: Mapping[int, Affine]) -> Lifts:
        axis = self.axis(node)
        if axis is None:
            return node.refuse("unknown-rank", "splits a tensor of unknown rank")
        used = [index for index in range(len(node.op.outputs)) if node.used(index)]
        parts = [affines.get(index, Affine.identity()) for index in used]
        if len(used) == len(node.op.outputs):
            joined = _joined(node, parts, self.sizes(node, axis), axis)
        else:
            every = [affines.get(index, Affine.identity()) for index in range(len(node.op.outputs))]
            same = all(part.same_as(parts[0]) for part in parts) and parts[0].axis != axis
            joined = parts[0] if same else _joined(node, every, self.sizes(node, axis), axis)
        return joined if isinstance(joined, Refusal) else [Crossing({0: joined})]

    @staticmethod
    def sizes(node: Node, axis: int) -> list[int | None]:
        sizes: list[int | None] = []
        for index in range(len(node.op.outputs)):
            shape = node.out_shape(index) if node.op.outputs[index] else None
            size = shape[axis] if shape is not None and axis < len(shape) else None
            sizes.append(size if isinstance(size, int) else None)
        declared = node.const_ints(1, "split") if node.has(1) or "split" in node.op.attributes else None
        return list(declared) if declared and len(declared) == len(sizes) else sizes

    def sink(self, node: Node, affines: Mapping[int, Affine]) -> Sunk:
        axis = self.axis(node)
        if set(affines) != {0} or axis is None:
            return node.refuse("unknown-rank", "splits a tensor of unknown rank")
        affine = affines[0]
        outputs = [index for index, name in enumerate(node.op.outputs) if name]
        if affine.axis != axis:
            return Crossing(dict.fromkeys(outputs, affine))
        sizes = self.sizes(node, axis)
        if None in sizes or sum(size or 0 for size in sizes) != affine.size:
            return node.refuse("unknown-shape", f"splits into parts of unknown size along axis {axis}")
        parts = _parts(affine, [size or 0 for size in sizes])
        return Crossing({index: parts[index] for index in outputs if not parts[index].is_identity})


class Selection(Facts):
    """Takes some entries along axes: the affine's entries go with them."""

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
            if taken.size and (taken.min() < -affine.size or taken.max() >= affine.size):
                return node.refuse("out-of-range", "takes entries that do not exist")
            affine = affine.take(taken.reshape(-1))
        if place is None:
            if affine.size != 1:
                return node.refuse("not-per-channel", "spreads the affine's axis over several")
            return Crossing({0: Affine(affine.scale, affine.shift, None)})
        return Crossing({0: _simplified(affine).on_axis(place)})

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
        if size is None or taken.size != affine.size or (taken.size and (taken.min() < -size or taken.max() >= size)):
            return node.refuse("unknown-shape", f"takes entries of axis {axis}, whose size is not known")
        scale, shift = np.ones(size), np.zeros(size)
        scale[taken], shift[taken] = affine.scale, affine.shift
        lifted = Affine(scale, shift, axis)
        if not lifted.take(taken).same_as(affine.on_axis(axis)):
            return node.refuse("unequal-copies", "takes one entry several times, with different maps")
        return [Crossing({0: lifted})]


@register("Slice")
class Slice(Selection):
    """A range with a step along each of some axes."""

    def indices(self, node: Node, axis: int) -> np.ndarray | Refusal | None:
        rank = node.rank(0)
        starts, ends = node.const_ints(1, "starts"), node.const_ints(2, "ends")
        axes = node.const_ints(3, "axes") if node.has(3) or "axes" in node.op.attributes else None
        if axes is None and node.has(3):
            return node.refuse("dynamic-axes", "slices axes that are chosen at run time")
        steps = node.const_ints(4) if node.has(4) else None
        if axes is None:
            count = len(starts or ends or [])
            if not count:
                return node.refuse("dynamic-range", "slices a range that is chosen at run time")
            axes = list(range(count))
        if rank is None and any(a < 0 for a in axes):
            return node.refuse("unknown-rank", "slices a tensor of unknown rank")
        axes = [a % rank if rank is not None else a for a in axes]
        if axis not in axes:
            return None
        size = node.dim(0, axis)
        if starts is None or ends is None or (node.has(4) and steps is None) or size is None:
            return node.refuse("dynamic-range", f"slices axis {axis} by a range that is not known")
        k = axes.index(axis)
        step = steps[k] if steps is not None else 1
        return np.arange(size)[_python_slice(starts[k], ends[k], step, size)]


def _python_slice(start: int, end: int, step: int, size: int) -> slice:
    """ONNX clamps an end below -size to "past the first", which Python writes as None."""
    if step < 0 and end < -size:
        return slice(start, None, step)
    return slice(start, end, step)


@register("Gather")
class Gather(Selection):
    """Entries by index along one axis; the indices' axes take its place."""

    @staticmethod
    def axis(node: Node) -> int | None:
        axis = int(node.attr("axis", 0))
        rank = node.rank(0)
        if axis >= 0:
            return axis
        return None if rank is None else axis + rank

    def indices(self, node: Node, axis: int) -> np.ndarray | Refusal | None:
        if axis != self.axis(node):
            return None
        param = node.const(1)
        if param is None:
            return node.refuse("dynamic-indices", "takes entries along the affine's axis that are chosen at run time")
        return np.asarray(param.array(), dtype=np.int64)

    def to_output(self, node: Node, axis: int) -> int | None:
        at, depth = self.axis(node), node.rank(1)
        if at is None or depth is None:
            return None
        if axis == at:
            return axis if depth == 1 else None
        return axis if axis < at else axis + depth - 1

    def to_input(self, node: Node, axis: int) -> int | None:
        at, depth = self.axis(node), node.rank(1)
        if at is None or depth is None:
            return None
        if axis < at:
            return axis
        if axis < at + depth:
            return at if depth == 1 else None
        return axis - depth + 1

    def sink(self, node: Node, affines: Mapping[int, Affine]) -> Sunk:
        if self.axis(node) is None or node.rank(1) is None:
            return node.refuse("unknown-rank", "takes entries of a tensor of unknown rank")
        return super().sink(node, affines)


@register("Expand", "Tile")
class Repeat(Facts):
    """Repeats a tensor along axes: an affine along an axis that is not repeated passes as it is."""

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
        if affine.size != size * times or not lifted.tile(times).same_as(affine.on_axis(axis)):
            return node.refuse("unequal-copies", "repeats entries that carry different maps")
        return [Crossing({0: _simplified(lifted)})]

    @staticmethod
    def _times(node: Node, axis: int, size: int) -> int | Refusal:
        """How often the entries along an input axis are repeated."""
        if node.op.type == "Tile":
            repeats = node.const_ints(1)
            if repeats is None or axis >= len(repeats):
                return node.refuse("dynamic-repeats", "repeats by counts that are chosen at run time")
            return repeats[axis]
        return 1 if size > 1 else node.refuse("broadcast", "broadcasts along the affine's axis")
