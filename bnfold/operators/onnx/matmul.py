"""ONNX's matrix products: Gemm, MatMul and Einsum."""

from __future__ import annotations

from collections.abc import Mapping
from string import ascii_letters

import numpy as np
from numpy.typing import NDArray

from bnfold.affine import Affine, Vector
from bnfold.graph import Param
from bnfold.operators.answers import Absorbed, Crossing, Lifts, NewOp, NewWeights, Reweighted, Sunk, WithResidual
from bnfold.operators.base import Conditions, Node, channels_fit, register, vectors
from bnfold.operators.linear import Layout, LinearFacts
from bnfold.operators.products import lift_product, sink_product
from bnfold.operators.weights import PlainWeight, Weight, weight_of
from bnfold.refusal import Refusal


@register("Gemm")
class Gemm(LinearFacts):
    """``alpha * A' B' + beta * C``: B constant (channels are columns), or A constant (channels are rows)."""

    conditions = Conditions(
        absorb_output="an operand constant, and the bias where it changes; along the channels, or uniform",
        absorb_input="an operand constant, and the bias for a shift; along the channels, or uniform",
        lift="an operand constant and C computed: to C, while the weights take the scale",
    )
    bias_slot = 2

    def bias_gain(self, node: Node) -> float:
        return float(node.attr("beta", 1.0))

    def needs_bias(self, node: Node) -> bool:
        return node.opset < 11

    def layout(self, node: Node) -> Layout | Refusal:
        trans_a, trans_b = bool(node.attr("transA", 0)), bool(node.attr("transB", 0))
        gain = float(node.attr("alpha", 1.0))
        right = weight_of(node, 1)
        if not isinstance(right, Refusal):
            columns, rows = (0, 1) if trans_b else (1, 0)
            shape = right.shape
            return Layout(
                weight=right, out_axis=1, in_axis=int(not trans_a), weight_out=columns, weight_in=rows,
                out_channels=shape[columns], in_channels=shape[rows], gain=gain,
            )  # fmt: skip
        left = weight_of(node, 0)
        if isinstance(left, Refusal):
            return right
        rows, columns = (1, 0) if trans_a else (0, 1)
        shape = left.shape
        return Layout(
            weight=left, weight_slot=0, in_slot=1, out_axis=0, in_axis=int(trans_b), weight_out=rows,
            weight_in=columns, out_channels=shape[rows], in_channels=shape[columns], gain=gain,
        )  # fmt: skip

    def add_bias(self, node: Node, layout: Layout, scale: Vector, shift: Vector) -> Reweighted:
        if node.opset < 7:
            return node.refuse("old-opset", "broadcasts its bias by rules of before opset 7")
        beta = self.bias_gain(node)
        if node.has(2) and beta != 0.0:
            old = node.const(2)
            if old is None:
                return node.refuse("dynamic-bias", "has a bias that is computed at run time")
            values = beta * old.exact()
            name, dtype = old.name, old.dtype
        elif not shift.any():
            return NewWeights()
        else:
            values, name, dtype = np.zeros(1), f"{node.op.outputs[0]}_bias", layout.weight.float_dtype
        rows, columns = (1, 1, *values.shape)[-2:]
        size, along = (columns, (-1,)) if layout.out_axis == 1 else (rows, (-1, 1))
        if size not in (1, layout.out_channels):
            return node.refuse("bias-shape", f"has a bias of {size} values for {layout.out_channels} channels")
        bias = scale.reshape(along) * values + shift.reshape(along)
        return NewWeights({2: Param.of(name, bias, dtype)}, attributes={} if beta == 1.0 else {"beta": 1.0})

    def lift(self, node: Node, affines: Mapping[int, Affine]) -> Lifts:
        """Past a C that is computed: the weights take the scale, and C has to carry it too, and the shift."""
        layout, affine = self.layout(node), affines[0]
        beta = self.bias_gain(node)
        if isinstance(layout, Refusal):
            return layout
        if not node.has(2) or beta == 0.0 or node.const(2) is not None or node.opset < 7:
            return self.blocks(node)
        misfit = channels_fit(node, affine, layout.out_axis, layout.out_channels)
        if misfit is not None:
            return misfit
        axis = None
        if affine.axis is not None:
            rank = node.rank(2)
            axis = None if rank is None else affine.axis - (2 - rank)
            if axis is None or axis < 0 or node.dim(2, axis) != affine.size:
                return node.refuse("dynamic-bias", "has a computed C that may be broadcast along the affine's axis")
        inputs: dict[int, Param | NewOp | str] = {}
        if not affine.is_shift:
            weight = layout.weight.scaled(layout.out_factor(vectors(affine, layout.out_channels)[0]))
            if isinstance(weight, Refusal):
                return weight
            inputs[layout.weight_slot] = weight
        carried = Affine(affine.scale, affine.shift / beta, affine.axis).on_axis(axis)
        return [Crossing({2: carried}, NewWeights(inputs, channel_axis={layout.weight_slot: layout.weight_out}))]

    def output_shape(self, node: Node) -> tuple[int | None, dict[int, int]]:
        layout = self.layout(node)
        if isinstance(layout, Refusal):
            return 2, {}
        assert layout.out_axis is not None
        return 2, {layout.out_axis: layout.out_channels}


@register("MatMul")
class MatMul(LinearFacts):
    """A constant right operand [..., in, out], or a constant left one [..., out, in].

    It has no bias: a shift makes a Gemm of two matrices, and stays behind it as one Add otherwise.
    """

    conditions = Conditions(
        absorb_output="an operand constant; along the output channels, or uniform; "
        "a shift makes a Gemm, or stays as one Add",
        absorb_input="an operand constant; along the input channels, or uniform; "
        "a shift only with one matrix for all of the batch",
        lift="of two matrices computed at run time: a scale, to one that has its axes in full; "
        "a shift beside one that adds up to one, as a softmax does",
        sink="of two matrices computed at run time: scales, not along the axis that is summed over; "
        "a shift beside one that adds up to one, as a softmax does",
    )
    grids = True

    def layout(self, node: Node) -> Layout | Refusal:
        right = weight_of(node, 1)
        if not isinstance(right, Refusal):
            return self._right(node, right)
        left = weight_of(node, 0)
        if isinstance(left, Refusal):
            return right
        return self._left(node, left)

    def _right(self, node: Node, weight: Weight) -> Layout:
        ndim = len(weight.shape)
        rank = node.rank(0)
        out_rank = self._out_rank(node, rank, ndim)
        in_axis = None if rank is None else rank - 1
        out_axis = None if out_rank is None else out_rank - 1
        no_shift = self._batched(node, weight)
        return Layout(
            weight=weight, out_axis=out_axis, in_axis=in_axis, weight_out=ndim - 1, weight_in=ndim - 2,
            out_channels=weight.shape[-1], in_channels=weight.shape[-2], no_shift=no_shift,
        )  # fmt: skip

    def _left(self, node: Node, weight: Weight) -> Layout | Refusal:
        ndim = len(weight.shape)
        rank = node.rank(1)
        out_rank = self._out_rank(node, rank, ndim)
        if rank == 1:
            return node.refuse("vector-weight", "multiplies with a single vector, which leaves no channel axis")
        in_axis = None if rank is None else rank - 2
        out_axis = None if out_rank is None else out_rank - 2
        no_shift = self._batched(node, weight)
        return Layout(
            weight=weight, weight_slot=0, in_slot=1, out_axis=out_axis, in_axis=in_axis, weight_out=ndim - 2,
            weight_in=ndim - 1, out_channels=weight.shape[-2], in_channels=weight.shape[-1], no_shift=no_shift,
        )  # fmt: skip

    @staticmethod
    def _out_rank(node: Node, rank: int | None, ndim: int) -> int | None:
        """That of the product of a tensor of this rank and a constant."""
        return node.out_rank() if rank is None or min(rank, ndim) < 2 else max(rank, ndim)

    @staticmethod
    def _batched(node: Node, weight: Weight) -> Refusal | None:
        if all(size == 1 for size in weight.shape[:-2]):
            return None
        return node.refuse("batched-weight", "has a matrix for each batch entry, so a shift would not be per channel")

    def add_bias(self, node: Node, layout: Layout, scale: Vector, shift: Vector) -> Reweighted:
        if not shift.any():
            return NewWeights()
        two = node.rank(layout.in_slot) == 2 and len(layout.weight.shape) == 2
        if two and node.opset >= 7 and isinstance(layout.weight, PlainWeight):
            bias = shift if layout.weight_slot == 1 else shift.reshape(-1, 1)
            name = f"{node.op.outputs[0]}_bias"
            return NewWeights({2: Param.of(name, bias, layout.weight.float_dtype)}, type="Gemm")
        if layout.out_axis is None:
            if (shift != shift[0]).any():
                return node.refuse("unknown-rank", "has an output of unknown rank, to which no vector can be added")
            shift = shift[:1]
        return WithResidual(NewWeights(), Affine.of(np.ones_like(shift), shift, layout.out_axis))

    def output_shape(self, node: Node) -> tuple[int | None, dict[int, int]]:
        """As many rows or columns as the constant operand has."""
        # Not by way of the layout, which asks for ranks itself.
        rank, right, left = node.graph.rank(node.op.outputs[0]), weight_of(node, 1), weight_of(node, 0)
        if rank is None:
            return None, {}
        if not isinstance(right, Refusal):
            return rank, {rank - 1: right.shape[-1]}
        return rank, {} if isinstance(left, Refusal) or rank < len(left.shape) else {rank - 2: left.shape[-2]}

    def lift(self, node: Node, affines: Mapping[int, Affine]) -> Lifts:
        return lift_product(node, affines[0])

    def sink(self, node: Node, affines: Mapping[int, Affine]) -> Sunk:
        return sink_product(node, affines)


@register("Einsum")
class Einsum(LinearFacts):
    """Two operands, one of them constant; the affine runs along a label of the constant."""

    conditions = Conditions(
        absorb_output="an operand constant; along a label that it has, or uniform; a shift stays as one Add",
        absorb_input="an operand constant; along a label that it has, or uniform; "
        "a shift only where it becomes one value a channel",
    )

    def layout(self, node: Node) -> Layout | Refusal:
        return node.refuse("einsum", "is described by its equation")

    def absorb_output(self, node: Node, affine: Affine) -> Absorbed:
        parsed = _equation(node)
        if isinstance(parsed, Refusal):
            return parsed
        slot, weight, own, _, out = parsed
        vectors = _over_labels(node, affine, out, own, weight)
        if isinstance(vectors, Refusal):
            return vectors
        residual = None if affine.is_scale else affine.shift_part()
        inputs = {} if affine.is_shift else {slot: weight.scaled(vectors[0])}
        changed = NewWeights(inputs)
        return changed if residual is None else WithResidual(changed, residual)

    def absorb_input(self, node: Node, affines: Mapping[int, Affine]) -> Absorbed:
        parsed = _equation(node)
        if isinstance(parsed, Refusal):
            return parsed
        slot, weight, own, other, out = parsed
        if set(affines) != {1 - slot}:
            return node.refuse("dynamic-weights", "gets the affine in an input that is not its data")
        affine = affines[1 - slot]
        vectors = _over_labels(node, affine, other, own, weight)
        if isinstance(vectors, Refusal):
            return vectors
        scale, shift = vectors
        residual = None
        if not affine.is_scale:
            shared = {at for at in own if at in other}
            kept = [at for at in own if at in out]
            # An axis of size 1 in the weight may be broadcast: then it stands for more taps than it has.
            narrow = any(weight.shape[own.index(at)] != node.dim(1 - slot, other.index(at)) for at in shared)
            if narrow or len(kept) != 1 or shared != set(other) - set(out):
                return node.refuse("uneven-taps", "would not turn the shift into one value per channel")
            total = (weight.exact() * shift).sum(axis=tuple(i for i, at in enumerate(own) if at not in kept))
            residual = Affine.of(np.ones_like(total), total, out.index(kept[0]))
        inputs = {} if affine.is_shift else {slot: weight.scaled(scale)}
        changed = NewWeights(inputs)
        return changed if residual is None else WithResidual(changed, residual)


def _over_labels(
    node: Node, affine: Affine, labels: str, own: str, weight: Param
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | Refusal:
    """Scale and shift of an affine on a tensor of ``labels``, shaped to broadcast against the weight of ``own``."""
    shape = [1] * len(own)
    if affine.axis is not None:
        at = own.find(labels[affine.axis]) if affine.axis < len(labels) else -1
        if at < 0:
            return node.refuse("other-axis", "has no weights along the affine's axis")
        if weight.shape[at] != affine.size:
            return node.refuse("size-mismatch", "has another number of channels than the affine")
        shape[at] = affine.size
    return affine.scale.reshape(shape), affine.shift.reshape(shape)


def _equation(node: Node) -> tuple[int, Param, str, str, str] | Refusal:
    """(slot of the constant, it, its labels, the other operand's labels, the output's labels)."""
    text = node.text("equation", "").replace(" ", "")
    terms, arrow, out = text.partition("->")
    parts = terms.split(",")
    if len(parts) != 2:
        return node.refuse("einsum", f"has an equation that is not handled ({text})")
    labels = terms.replace("...", "").replace(",", "")
    if not arrow:  # the labels that occur once, in alphabetical order, behind what is broadcast
        out = "..." + "".join(sorted(label for label in labels if labels.count(label) == 1))
    if "..." in terms:
        widths = [_width(node, slot, part) for slot, part in enumerate(parts)]
        if None in widths:
            return node.refuse("unknown-rank", f"has an ellipsis in its equation ({text}) for a tensor of unknown rank")
        known = [width or 0 for width in widths]
        spare = [letter for letter in ascii_letters if letter not in text][: max(known)]
        parts = [part.replace("...", "".join(spare[max(known) - w :])) for part, w in zip(parts, known, strict=True)]
        out = out.replace("...", "".join(spare))
    else:
        out = out.replace("...", "")
    if any(len(set(part)) != len(part) for part in (*parts, out)):
        return node.refuse("einsum", f"has an equation that is not handled ({text})")
    for slot in (1, 0):
        weight = node.const(slot)
        if weight is not None and weight.is_float and len(weight.shape) == len(parts[slot]):
            return slot, weight, parts[slot], parts[1 - slot], out
    return node.refuse("dynamic-weights", "has no constant operand")


def _width(node: Node, slot: int, term: str) -> int | None:
    """How many axes an ellipsis in a term stands for; None where the operand's rank is not known."""
    if "..." not in term:
        return 0
    rank = node.rank(slot)
    return None if rank is None or rank < len(term) - 3 else rank - (len(term) - 3)
