"""ONNX's convolutions: Conv and ConvTranspose, and the Conv that a merged convolution is written as."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bnfold.affine import Vector
from bnfold.graph import Param
from bnfold.operators.answers import NewOp, Reweighted
from bnfold.operators.base import Conditions, Node, register
from bnfold.operators.convolution import Convolution, same_padding
from bnfold.operators.linear import Layout, LinearFacts, vector_bias
from bnfold.operators.weights import Weight, weight_of
from bnfold.refusal import Refusal


class _WithBiasSlot(LinearFacts):
    """Conv and ConvTranspose: weight in slot 1, bias vector in slot 2, channels on axis 1."""

    bias_slot = 2

    def add_bias(self, node: Node, layout: Layout, scale: Vector, shift: Vector) -> Reweighted:
        return vector_bias(node, layout, self.bias_slot, scale, shift)

    def output_shape(self, node: Node) -> tuple[int | None, dict[int, int]]:
        layout = self.layout(node)
        if isinstance(layout, Refusal):
            return None, {}
        return len(layout.weight.shape), {1: layout.out_channels}


def group_count(node: Node, weight: Weight | Param) -> int | Refusal:
    """The number of groups. Nobody has compared it with the weight where the checker does not look."""
    groups = int(node.attr("group", 1))
    if groups < 1 or weight.shape[0] % groups:
        return node.refuse("weight-shape", f"has a weight of shape {weight.shape}, which {groups} groups do not share")
    return groups


def pads_zeros(node: Node, kernel: Sequence[int]) -> bool:
    """May a window of that size reach over the border, where zeros stand?"""
    auto_pad = node.text("auto_pad", "NOTSET")
    if auto_pad in ("NOTSET", ""):
        return any(node.ints("pads"))
    return auto_pad != "VALID" and any(size != 1 for size in kernel)


@register("Conv")
class Conv(_WithBiasSlot):
    """Weight [out, in/groups, *kernel]."""

    conditions = Conditions(
        absorb_input="weights constant; along the input channels, or uniform; a shift only without zero padding",
    )

    def layout(self, node: Node) -> Layout | Refusal:
        weight = weight_of(node, 1)
        if isinstance(weight, Refusal):
            return weight
        groups = group_count(node, weight)
        if isinstance(groups, Refusal):
            return groups
        out, within = weight.shape[0], weight.shape[1]
        return Layout(
            weight=weight, out_axis=1, in_axis=1, weight_out=0, weight_in=1, out_channels=out,
            in_channels=within * groups, groups=groups, no_shift=self.no_shift(node, weight),
        )  # fmt: skip

    def no_shift(self, node: Node, weight: Weight) -> Refusal | None:
        """Why a shift before it would not reach every output alike, where it would not."""
        if not pads_zeros(node, weight.shape[2:]):
            return None
        return node.refuse("zero-padding", "pads with zeros, so a shift before it would be lost at the border")

    def convolution(self, node: Node) -> Convolution | None:
        weight, bias = node.const(1), node.const(2)
        if weight is None or not weight.is_float or len(weight.shape) < 3 or (node.has(2) and bias is None):
            return None
        values = np.zeros(weight.shape[0]) if bias is None else bias.exact()
        kernel = weight.shape[2:]
        ones = (1,) * len(kernel)
        strides, dilations = tuple(node.ints("strides", ones)), tuple(node.ints("dilations", ones))
        groups = group_count(node, weight)
        # In a subgraph, nobody has compared the weight's shape with the attributes and the bias.
        if {len(strides), len(dilations)} != {len(kernel)} or values.shape != weight.shape[:1]:
            return None
        padding = _padding(node, kernel, strides, dilations)
        if padding is None or isinstance(groups, Refusal):
            return None
        begins, ends, sizes = padding
        slack = tuple(
            begin + end - dilation * (size - 1)
            for begin, end, dilation, size in zip(begins, ends, dilations, kernel, strict=True)
        )
        return Convolution(
            shape=weight.shape, load=weight.exact, bias=values, groups=groups, strides=strides, dilations=dilations,
            begins=begins, slack=slack, sizes=sizes, dtype=weight.dtype, macs=float(weight.size),
        )  # fmt: skip


def _padding(
    node: Node, kernel: tuple[int, ...], strides: tuple[int, ...], dilations: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int | None, ...]] | None:
    """Zeros before and after each spatial axis, and the static sizes of the input; None where that cannot be told."""
    spatial = len(kernel)
    mode = node.text("auto_pad", "NOTSET")
    known = tuple(node.dim(0, axis) for axis in range(2, 2 + spatial))
    if mode == "VALID":
        return (0,) * spatial, (0,) * spatial, known
    if mode in ("NOTSET", ""):
        pads = tuple(node.ints("pads", (0,) * (2 * spatial)))
        return (pads[:spatial], pads[spatial:], known) if len(pads) == 2 * spatial else None
    padding = same_padding(known, kernel, strides, dilations, lower=mode == "SAME_LOWER")
    return None if padding is None else (*padding, known)


def conv_op(data: str, convolution: Convolution, stem: str) -> NewOp | None:
    """A Conv with explicit pads; ONNX has none for channels on another axis than 1."""
    if convolution.channel_axis != 1:
        return None
    weight = Param.of(f"{stem}_weight", convolution.load(), convolution.dtype)
    inputs: list[Param | str] = [data, weight]
    if convolution.bias.any():
        inputs.append(Param.of(f"{stem}_bias", convolution.bias, convolution.dtype))
    attributes = {
        "kernel_shape": list(convolution.kernel),
        "strides": list(convolution.strides),
        "dilations": list(convolution.dilations),
        "pads": [*convolution.begins, *convolution.ends],
        "group": convolution.groups,
    }
    return NewOp("Conv", tuple(inputs), attributes)


@register("DeformConv")
class DeformConv(Conv):
    """A Conv whose taps are moved by offsets (slot 2), its bias in slot 3; outside of the image it reads zeros."""

    conditions = Conditions(absorb_input="weights constant; a scale along the input channels, or uniform")
    bias_slot = 3

    def no_shift(self, node: Node, weight: Weight) -> Refusal | None:
        return node.refuse("zero-padding", "reads zeros outside of the image, where its offsets may lead")

    def convolution(self, node: Node) -> Convolution | None:
        return None


@register("ConvTranspose")
class ConvTranspose(_WithBiasSlot):
    """Weight [in, out/groups, *kernel]: output channel ``g * out/groups + j`` for the inputs of group g."""

    conditions = Conditions(
        absorb_input="weights constant; along the input channels, or uniform; "
        "a shift only for one tap without stride or padding",
    )

    def layout(self, node: Node) -> Layout | Refusal:
        weight = weight_of(node, 1)
        if isinstance(weight, Refusal):
            return weight
        groups = group_count(node, weight)
        if isinstance(groups, Refusal):
            return groups
        no_shift = None
        pointwise = (
            all(size == 1 for size in weight.shape[2:])
            and all(stride == 1 for stride in node.ints("strides"))
            and not any(node.ints("output_padding"))
            and "output_shape" not in node.op.attributes
            and not pads_zeros(node, weight.shape[2:])
        )
        if not pointwise:
            no_shift = node.refuse(
                "uneven-taps",
                "gives output positions different taps, so a shift before it would not stay constant",
            )
        return Layout(
            weight=weight, out_axis=1, in_axis=1, weight_out=1, weight_in=0, out_channels=weight.shape[1] * groups,
            in_channels=weight.shape[0], groups=groups, no_shift=no_shift,
        )  # fmt: skip
