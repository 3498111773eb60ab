"""Operators that rearrange axes: Transpose, Reshape, Flatten, Squeeze, Unsqueeze, DepthToSpace, SpaceToDepth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bnfold.affine import Affine
from bnfold.graph import Dim, Shape
from bnfold.operators.base import Crossing, Facts, Lifts, Node, Role, Sunk, register
from bnfold.refusal import Refusal


class Rearrangement(Facts):
    """One data input and one output that hold the same elements in another arrangement."""

    role = Role.SHAPE
    grids = True

    def up(self, node: Node, affine: Affine) -> Affine | Refusal:
        """An affine on the output, on the input."""
        raise AssertionError("every rearrangement has its own")

    def down(self, node: Node, affine: Affine) -> Affine | Refusal:
        """An affine on the input, on the output."""
        raise AssertionError("every rearrangement has its own")

    def lift(self, node: Node, affines: Mapping[int, Affine]) -> Lifts:
        moved = affines[0] if affines[0].axis is None else self.up(node, affines[0])
        return moved if isinstance(moved, Refusal) else [Crossing({0: moved})]

    def sink(self, node: Node, affines: Mapping[int, Affine]) -> Sunk:
        if set(affines) != {0}:
            return node.refuse("parameter", "gets the affine in an input that is not its data")
        moved = affines[0] if affines[0].axis is None else self.down(node, affines[0])
        return moved if isinstance(moved, Refusal) else Crossing({0: moved})


def rename_axes(affine: Affine, new: Mapping[int, int] | Sequence[int]) -> Affine:
    """Axis a becomes axis ``new[a]``."""
    axes, scale, shift = affine.arrays()
    return Affine.over([new[axis] for axis in axes], scale, shift)


@register("Transpose")
class Transpose(Rearrangement):
    """Axis ``i`` of the output is axis ``perm[i]`` of the input."""

    @staticmethod
    def perm(node: Node, affine: Affine) -> list[int] | Refusal:
        perm = node.ints("perm")
        if not perm:
            rank = node.rank(0)
            if rank is None:
                return node.refuse("unknown-rank", "reverses the axes of an input of unknown rank")
            perm = list(range(rank))[::-1]
        if any(axis >= len(perm) for axis, _ in affine.axes):
            return node.refuse("rank", "has fewer axes than the affine needs")
        return perm

    def up(self, node: Node, affine: Affine) -> Affine | Refusal:
        perm = self.perm(node, affine)
        return perm if isinstance(perm, Refusal) else rename_axes(affine, perm)

    def down(self, node: Node, affine: Affine) -> Affine | Refusal:
        perm = self.perm(node, affine)
        if isinstance(perm, Refusal):
            return perm
        return rename_axes(affine, {axis: place for place, axis in enumerate(perm)})


def _same(a: Dim, b: Dim) -> bool:
    return a is not None and a == b


def regroup(affine: Affine, source: Shape, target: Shape) -> Affine | None:
    """The affine after a reshape from ``source`` to ``target`` shape; None where it cannot be told.

    Both shapes are cut into common factors, from the left as long as axes are the same, then from
    the right as long as sizes are known. An affine axis that is split becomes a grid over its
    factors; factors that are merged repeat the affine over those it does not vary along. Exact
    comparison then drops what does not vary, so a split and a merge undo each other.
    """
    left = 0
    while left < min(len(source), len(target)) and _same(source[left], target[left]):
        left += 1
    # Factors counted from the right: (source axis, target axis, size), innermost first.
    factors: list[tuple[int, int, int]] = []
    i, j = len(source) - 1, len(target) - 1
    rest_i = source[i] if i >= left else None
    rest_j = target[j] if j >= left else None
    while i >= left and j >= left and isinstance(rest_i, int) and isinstance(rest_j, int):
        if rest_i <= 0 or rest_j <= 0:
            return None
        size = min(rest_i, rest_j)
        if rest_i % size or rest_j % size:
            break
        factors.append((i, j, size))
        rest_i, rest_j = rest_i // size, rest_j // size
        if rest_i == 1:
            i -= 1
            rest_i = source[i] if i >= left else None
        if rest_j == 1:
            j -= 1
            rest_j = target[j] if j >= left else None
    factors.reverse()
    return _refine(affine, left, factors, target)


def _refine(affine: Affine, left: int, factors: list[tuple[int, int, int]], target: Shape) -> Affine | None:
    """Split the affine over the common factors and merge them into the target's axes."""
    axes, scale, shift = affine.arrays()
    for axis, size in zip(axes, scale.shape, strict=True):
        if axis >= left and int(np.prod([f[2] for f in factors if f[0] == axis] or [0])) != size and size != 1:
            return None
    # One dimension for each common leading axis and each factor, 1 where the affine does not vary.
    split_sizes: list[int] = []
    for axis, size in zip(axes, scale.shape, strict=True):
        split_sizes += [size] if axis < left else [f[2] for f in factors if f[0] == axis]
    split = iter(split_sizes)
    full = [next(split) if axis in axes else 1 for axis in range(left)]
    full += [next(split) if f[0] in axes else 1 for f in factors]
    scale, shift = scale.reshape(full), shift.reshape(full)
    # Merge: within one target axis every factor is needed in full as soon as one varies.
    merged: list[tuple[int, int]] = [(axis, full[axis]) for axis in range(left) if full[axis] != 1]
    reach = list(full)
    for target_axis in sorted({f[1] for f in factors}):
        members = [left + k for k, f in enumerate(factors) if f[1] == target_axis]
        if all(full[m] == 1 for m in members):
            continue
        whole = int(np.prod([factors[m - left][2] for m in members]))
        if target[target_axis] != whole:
            return None  # part of the axis lies beyond the known factors
        for m in members:
            reach[m] = factors[m - left][2]
        merged.append((target_axis, whole))
    scale, shift = np.broadcast_to(scale, reach), np.broadcast_to(shift, reach)
    shape = [size for _, size in merged]
    return Affine.over([axis for axis, _ in merged], scale.reshape(shape), shift.reshape(shape))


def _as_long_as(affine: Affine, shape: Shape) -> Shape:
    """The shape of a tensor that the affine fits: unknown sizes along its axes are its own."""
    sizes = dict(affine.axes)
    return tuple(dim if isinstance(dim, int) else sizes.get(axis, dim) for axis, dim in enumerate(shape))


@register("Reshape", "Flatten")
class Reshape(Rearrangement):
    """Row-major order stays. Sizes must be known where the affine's axis is split or merged."""

    def shapes(self, node: Node) -> tuple[Shape | None, Shape | None]:
        """Input and output shape, completed by what the operator itself says."""
        source, target = node.shape(0), node.out_shape()
        wanted = node.const_ints(1, "shape")
        if wanted is None:
            return source, target
        known = target if target is not None and len(target) == len(wanted) else (None,) * len(wanted)
        keep_zero = bool(node.attr("allowzero", 0))
        full: list[Dim] = []
        for place, (want, have) in enumerate(zip(wanted, known, strict=True)):
            if want == 0 and not keep_zero:
                full.append(source[place] if source is not None and place < len(source) else have)
            else:
                full.append(want if want >= 0 else have)
        return source, tuple(full)

    def _move(self, node: Node, affine: Affine, *, upward: bool) -> Affine | Refusal:
        source, target = self.shapes(node)
        if source is None or target is None:
            return node.refuse("unknown-shape", "reshapes between shapes that are not known")
        moved = (
            regroup(affine, _as_long_as(affine, target), source)
            if upward
            else regroup(affine, _as_long_as(affine, source), target)
        )
        return moved or node.refuse("reshape", "mixes the affine's axis with others in a way that cannot be followed")

    def up(self, node: Node, affine: Affine) -> Affine | Refusal:
        return self._move(node, affine, upward=True)

    def down(self, node: Node, affine: Affine) -> Affine | Refusal:
        return self._move(node, affine, upward=False)


@register("Squeeze", "Unsqueeze")
class Squeeze(Rearrangement):
    """Axes of size 1 go or come; the others are renamed."""

    def up(self, node: Node, affine: Affine) -> Affine | Refusal:
        return self._move(node, affine, upward=True)

    def down(self, node: Node, affine: Affine) -> Affine | Refusal:
        return self._move(node, affine, upward=False)

    def _move(self, node: Node, affine: Affine, *, upward: bool) -> Affine | Refusal:
        squeeze = node.op.type == "Squeeze"
        axes, rank = self._axes(node), node.rank(0)
        if axes is None or rank is None:
            return node.refuse("dynamic-axes", "removes or adds axes that are not known")
        if not squeeze:
            rank += len(axes)
        thin = {axis % rank for axis in axes}
        wide = [axis for axis in range(rank) if axis not in thin]
        varying, scale, shift = affine.arrays()
        from_wide = squeeze != upward  # the affine lies on the tensor that has all the axes
        if from_wide:
            if any(axis in thin for axis in varying):
                return node.refuse("squeezed-axis", "removes the affine's axis")
            return Affine.over([wide.index(axis) for axis in varying], scale, shift)
        return Affine.over([wide[axis] for axis in varying], scale, shift)

    @staticmethod
    def _axes(node: Node) -> list[int] | None:
        if node.has(1) or "axes" in node.op.attributes:
            return node.const_ints(1, "axes")
        shape = node.shape(0)
        if shape is None or not all(isinstance(dim, int) for dim in shape):
            return None
        return [axis for axis, dim in enumerate(shape) if dim == 1]


class BlockMove(Rearrangement):
    """DepthToSpace and SpaceToDepth: channels are repeated or must repeat in the blocks' order."""

    def _blocks(self, node: Node, affine: Affine) -> int | Refusal:
        if affine.axis is not None and (affine.grid or affine.axis > 1):
            return node.refuse("spatial-axis", "moves elements between the affine's axis and the channels")
        return int(node.attr("blocksize", 1)) ** 2

    @staticmethod
    def spread(affine: Affine, count: int, *, inner: bool) -> Affine:
        """Every channel of the small tensor, for each of ``count`` places in a block."""
        return affine.repeat(count) if inner else affine.tile(count)

    @staticmethod
    def gather(node: Node, affine: Affine, count: int, *, inner: bool) -> Affine | Refusal:
        if affine.size % count:
            return node.refuse("size-mismatch", f"has channels that are no multiple of {count}")
        shape = (-1, count) if inner else (count, -1)
        along = 1 if inner else 0
        scale, shift = affine.scale.reshape(shape), affine.shift.reshape(shape)
        first = (slice(None), slice(0, 1)) if inner else (slice(0, 1), slice(None))
        if not ((scale == scale[first]).all() and (shift == shift[first]).all()):
            return node.refuse("not-per-channel", "moves channels of different maps into one")
        return Affine.over((1,), scale.take(0, along), shift.take(0, along))


@register("DepthToSpace")
class DepthToSpace(BlockMove):
    """DCR: input channel ``k * C + c``; CRD: input channel ``c * blocks + k``, for output channel c."""

    @staticmethod
    def inner(node: Node) -> bool:
        return node.text("mode", "DCR") == "CRD"

    def up(self, node: Node, affine: Affine) -> Affine | Refusal:
        count = self._blocks(node, affine)
        if isinstance(count, Refusal) or affine.axis == 0:
            return count if isinstance(count, Refusal) else affine
        return self.spread(affine, count, inner=self.inner(node))

    def down(self, node: Node, affine: Affine) -> Affine | Refusal:
        count = self._blocks(node, affine)
        if isinstance(count, Refusal) or affine.axis == 0:
            return count if isinstance(count, Refusal) else affine
        return self.gather(node, affine, count, inner=self.inner(node))


@register("SpaceToDepth")
class SpaceToDepth(BlockMove):
    """Output channel ``k * C + c`` for input channel c."""

    def up(self, node: Node, affine: Affine) -> Affine | Refusal:
        count = self._blocks(node, affine)
        if isinstance(count, Refusal) or affine.axis == 0:
            return count if isinstance(count, Refusal) else affine
        return self.gather(node, affine, count, inner=False)

    def down(self, node: Node, affine: Affine) -> Affine | Refusal:
        count = self._blocks(node, affine)
        if isinstance(count, Refusal) or affine.axis == 0:
            return count if isinstance(count, Refusal) else affine
        return self.spread(affine, count, inner=False)
