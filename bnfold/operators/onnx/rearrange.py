"""Operators that rearrange axes: Transpose, Reshape, Flatten, Squeeze, Unsqueeze, DepthToSpace, SpaceToDepth."""

from __future__ import annotations

from bnfold.affine import MAX_CHANNELS, Affine
from bnfold.graph import Dim, Shape
from bnfold.operators.axes import Rearrangement, regroup, rename_axes
from bnfold.operators.base import Conditions, Node, register
from bnfold.refusal import Refusal


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

    def source_axis(self, node: Node, axis: int) -> int | None:
        perm = self.perm(node, Affine.identity())
        return None if isinstance(perm, Refusal) or axis >= len(perm) else perm[axis]


def _as_long_as(affine: Affine, shape: Shape) -> Shape:
    """The shape of a tensor that the affine fits: unknown sizes along its axes are its own."""
    sizes = dict(affine.axes)
    return tuple(dim if isinstance(dim, int) else sizes.get(axis, dim) for axis, dim in enumerate(shape))


@register("Reshape", "Flatten")
class Reshape(Rearrangement):
    """Row-major order stays. Sizes must be known where the affine's axis is split or merged."""

    conditions = Conditions(
        cross="of known sizes where the affine's axis is split or merged, and without mixing it with other axes",
    )
    merges_axes = True

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

    conditions = Conditions(cross="known axes, of which none is the affine's")

    def up(self, node: Node, affine: Affine) -> Affine | Refusal:
        return self._move(node, affine, upward=True)

    def down(self, node: Node, affine: Affine) -> Affine | Refusal:
        return self._move(node, affine, upward=False)

    def _move(self, node: Node, affine: Affine, *, upward: bool) -> Affine | Refusal:
        squeeze = node.op.type.endswith("Squeeze")
        axes, rank = self._axes(node), node.rank(0)
        if axes is None or rank is None:
            return node.refuse("dynamic-axes", "removes or adds axes that are not known")
        if not squeeze:
            rank += len(axes)
        thin = {axis % rank for axis in axes}
        wide = [axis for axis in range(rank) if axis not in thin]
        varying, scale, shift = affine.arrays()
        from_wide = squeeze != upward  # the affine lies on the tensor that has all the axes
        if any(axis >= (len(wide) + len(thin) if from_wide else len(wide)) for axis in varying):
            return node.refuse("rank", "has fewer axes than the affine needs")
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

    conditions = Conditions(
        lift="along channels, which repeat for each place of a block, or the batch",
        sink="along channels that carry the same at each place of a block, or the batch",
    )

    def _move(self, node: Node, affine: Affine, *, spread: bool, inner: bool = False) -> Affine | Refusal:
        """``spread``: every channel once for each place in a block; otherwise one for all places.

        The places of a block run inside or outside of the channels.
        """
        if affine.grid or affine.axis not in (0, 1):
            return node.refuse("spatial-axis", "moves elements between the affine's axis and the channels")
        if affine.axis == 0:
            return affine
        block = int(node.attr("blocksize")) ** 2
        if spread and affine.size * block > MAX_CHANNELS:
            return node.refuse("too-many", f"would repeat {affine.size} channels {block} times")
        if spread:
            return affine.repeat(block) if inner else affine.tile(block)
        if affine.size % block:
            return node.refuse("size-mismatch", f"has channels that are no multiple of {block}")
        shape, axes = ((-1, block), (1, 2)) if inner else ((block, -1), (2, 1))
        moved = Affine.over(axes, affine.scale.reshape(shape), affine.shift.reshape(shape))
        if 2 in dict(moved.axes):  # the places
            return node.refuse("not-per-channel", "moves channels of different maps into one")
        return moved


@register("DepthToSpace")
class DepthToSpace(BlockMove):
    """DCR: input channel ``k * C + c``; CRD: input channel ``c * blocks + k``, for output channel c."""

    def up(self, node: Node, affine: Affine) -> Affine | Refusal:
        return self._move(node, affine, spread=True, inner=node.text("mode") == "CRD")

    def down(self, node: Node, affine: Affine) -> Affine | Refusal:
        return self._move(node, affine, spread=False, inner=node.text("mode") == "CRD")


@register("SpaceToDepth")
class SpaceToDepth(BlockMove):
    """Output channel ``k * C + c`` for input channel c."""

    conditions = Conditions(
        lift="along channels that carry the same at each place of a block, or the batch",
        sink="along channels, which repeat for each place of a block, or the batch",
    )

    def up(self, node: Node, affine: Affine) -> Affine | Refusal:
        return self._move(node, affine, spread=False)

    def down(self, node: Node, affine: Affine) -> Affine | Refusal:
        return self._move(node, affine, spread=True)
