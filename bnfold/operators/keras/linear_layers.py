"""Keras's linear layers: Dense, EinsumDense, the convolutions, Embedding and the recurrent layers.

Input slots and attributes are those that ``bnfold.formats.keras.layers`` documents: the data first,
then the weights, with every axis counted from the left. Unlike ONNX's, all weights of these layers are
constants of a floating-point type.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bnfold.affine import Affine, Vector
from bnfold.graph import Param
from bnfold.operators.answers import Absorbed, NewOp, NewWeights, Reweighted
from bnfold.operators.base import Conditions, Facts, Node, Role, channels_fit, register, vectors
from bnfold.operators.convolution import Convolution, same_padding
from bnfold.operators.keras.layer import DOMAIN, channel_axis, weight_of
from bnfold.operators.linear import Layout, LinearFacts, vector_bias
from bnfold.operators.weights import PlainWeight, Weight, mapped
from bnfold.refusal import Refusal


class KerasLinear(LinearFacts):
    """A kernel and, in the slot after it, a bias vector, where the layer has one."""

    conditions = Conditions(
        absorb_output="along the output channels, or uniform",
        absorb_input="along the input channels, or uniform",
    )
    bias_slot = 2

    def add_bias(self, node: Node, layout: Layout, scale: Vector, shift: Vector) -> Reweighted:
        return vector_bias(node, layout, self.bias_slot, scale, shift)


@register("Dense", domain=DOMAIN)
class Dense(KerasLinear):
    """Kernel [in, out], channels on the last axis."""

    def layout(self, node: Node) -> Layout | Refusal:
        kernel, axis = PlainWeight(weight_of(node, 1)), channel_axis(node)
        inside, out = kernel.shape
        return Layout(
            weight=kernel, out_axis=axis, in_axis=axis, weight_out=1, weight_in=0, out_channels=out, in_channels=inside
        )


@register("EinsumDense", domain=DOMAIN)
class EinsumDense(KerasLinear):
    """A kernel of one input and one output label, such as ``...x,xy->...y``."""

    conditions = Conditions(
        absorb_output="one output label, which is last; along the output channels, or uniform",
        absorb_input="one input label; along the input channels, or uniform",
    )

    def layout(self, node: Node) -> Layout | Refusal:
        weight, last = PlainWeight(weight_of(node, 1)), channel_axis(node)
        terms, _, result = str(node.attr("equation")).replace(" ", "").partition("->")
        data, kernel = terms.split(",")
        made, summed = set(kernel) - set(data), set(kernel) & set(data)
        if (len(kernel), len(made), len(summed)) != (2, 1, 1):
            return node.refuse("einsum", f"has an equation that is not handled ({node.attr('equation')})")
        (out,), (inside,) = made, summed
        if not result.endswith(out):
            return node.refuse("einsum", "has its output channels on another axis than the last")
        if sorted(result) != sorted(data.replace(inside, out)):
            return node.refuse("einsum", "sums over more axes than that of its channels, or repeats one")
        labels = data.replace("...", "." * (last + 1 - len(data.replace("...", ""))))
        rows, columns = kernel.index(out), kernel.index(inside)
        return Layout(
            weight=weight, out_axis=last, in_axis=labels.index(inside), weight_out=rows, weight_in=columns,
            out_channels=weight.shape[rows], in_channels=weight.shape[columns],
        )  # fmt: skip

    def add_bias(self, node: Node, layout: Layout, scale: Vector, shift: Vector) -> Reweighted:
        bias = node.const(2)
        if bias is not None and bias.shape[-1] != layout.out_channels:
            return node.refuse("bias-shape", "has a bias that runs along another axis than its output channels")
        return super().add_bias(node, layout, scale, shift)


class Windowed(KerasLinear):
    """Convolutions with a kernel [*window, …, …] that may be padded with zeros."""

    conditions = Conditions(absorb_input="along the input channels, or uniform; a shift only without zero padding")

    def layout(self, node: Node) -> Layout:
        raise AssertionError("every kind has its own")

    def convolution(self, node: Node) -> Convolution | None:
        layout, bias, padding = self.layout(node), node.const(2), _padding(node)
        if padding is None:
            return None
        begins, ends = padding
        window = layout.weight.shape[:-2]
        shape = (layout.out_channels, layout.in_channels // layout.groups, *window)
        strides, dilations = tuple(node.ints("strides")), tuple(node.ints("dilation_rate"))
        slack = tuple(b + e - d * (k - 1) for b, e, d, k in zip(begins, ends, dilations, window, strict=True))
        kernel = weight_of(node, 1)

        def load() -> NDArray[np.float64]:
            # A depthwise [*window, in, multiplier] is [*window, 1, in * multiplier] for as many groups.
            values = kernel.exact().reshape(*window, shape[1], shape[0])
            return np.ascontiguousarray(np.moveaxis(values, (-1, -2), (0, 1)))

        return Convolution(
            shape=shape, load=load, bias=np.zeros(shape[0]) if bias is None else bias.exact(), groups=layout.groups,
            strides=strides, dilations=dilations, begins=begins, slack=slack, sizes=_sizes(node), dtype=kernel.dtype,
            macs=float(kernel.size), channel_axis=channel_axis(node),
        )  # fmt: skip


@register("Conv1D", "Conv2D", "Conv3D", domain=DOMAIN)
class Conv(Windowed):
    """Kernel [*window, in/groups, out]."""

    def layout(self, node: Node) -> Layout:
        weight, axis, groups = PlainWeight(weight_of(node, 1)), channel_axis(node), int(node.attr("groups"))
        *_, within, out = weight.shape
        last = len(weight.shape) - 1
        no_shift = _zero_padding(node, weight)
        return Layout(
            weight=weight, out_axis=axis, in_axis=axis, weight_out=last, weight_in=last - 1, out_channels=out,
            in_channels=within * groups, groups=groups, no_shift=no_shift,
        )  # fmt: skip


@register("DepthwiseConv1D", "DepthwiseConv2D", domain=DOMAIN)
class DepthwiseConv(Windowed):
    """Kernel [*window, in, multiplier]; output channel ``c * multiplier + m`` reads input channel c."""

    def layout(self, node: Node) -> Layout:
        return _depthwise(node)

    def _change(
        self, node: Node, layout: Layout, affine: Affine, factor: NDArray[np.float64], scale: Vector, shift: Vector
    ) -> Absorbed:
        return _by_input_channel(super()._change(node, layout, affine, factor, scale, shift), layout)


def _by_input_channel(change: Absorbed, layout: Layout) -> Absorbed:
    """A change of a depthwise kernel: rounding is judged by input channel, each of which may have but one output."""
    return replace(change, channel_axis={1: layout.weight_in}) if isinstance(change, NewWeights) else change


def _depthwise(node: Node) -> Layout:
    """The depthwise kernel in slot 1."""
    weight, axis = PlainWeight(weight_of(node, 1)), channel_axis(node)
    *_, inside, multiplier = weight.shape
    last = len(weight.shape) - 1
    no_shift = _zero_padding(node, weight)
    return Layout(
        weight=weight, out_axis=axis, in_axis=axis, weight_out=last, weight_in=last - 1,
        out_channels=inside * multiplier, in_channels=inside, groups=inside, no_shift=no_shift,
    )  # fmt: skip


def _zero_padding(node: Node, kernel: Weight) -> Refusal | None:
    """Why the padding lets no shift through, if there is any."""
    if node.attr("padding") == "valid" or all(size == 1 for size in kernel.shape[:-2]):
        return None
    return node.refuse("zero-padding", "pads with zeros, so a shift before it would be lost at the border")


def _sizes(node: Node) -> tuple[int | None, ...]:
    """The sizes of the spatial axes of the data, as far as they are known."""
    channels = channel_axis(node)
    return tuple(node.dim(0, axis) for axis in range(1, len(weight_of(node, 1).shape)) if axis != channels)


def _padding(node: Node) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Zeros before and after each spatial axis; None where they are not known, and for a causal one."""
    window = weight_of(node, 1).shape[:-2]
    if node.attr("padding") == "valid":
        none = (0,) * len(window)
        return none, none
    if node.attr("padding") != "same":
        return None
    return same_padding(_sizes(node), window, node.ints("strides"), node.ints("dilation_rate"))


def _padding_name(convolution: Convolution) -> str | None:
    """What Keras calls the padding, None where it has no name for it."""
    if not any(convolution.begins) and not any(convolution.ends):
        return "valid"
    strides, sizes = convolution.strides, convolution.sizes
    same = same_padding(sizes, convolution.kernel, strides, convolution.dilations)
    if same is None or same[0] != convolution.begins:
        return None
    for size, stride, slack in zip(sizes, strides, convolution.slack, strict=True):
        # As many positions as Keras has. Without a stride any size will do, so that it may be unknown.
        last = (size or stride) - 1
        if (last + slack) // stride != last // stride:
            return None
    return "same"


def conv_layer(data: str, convolution: Convolution, stem: str) -> NewOp | None:
    """A Conv layer, if its padding is what Keras calls valid or same."""
    spatial, padding = len(convolution.kernel), _padding_name(convolution)
    dilated = any(dilation > 1 for dilation in convolution.dilations)
    if padding is None or (dilated and any(stride > 1 for stride in convolution.strides)):
        return None
    inside, out = convolution.channels
    depthwise = convolution.groups == inside and inside > 1 and spatial < 3
    weight = convolution.load()
    if depthwise:
        # [in * multiplier, 1, *window] to [*window, in, multiplier]
        weight = np.moveaxis(weight.reshape(inside, out // inside, *convolution.kernel), (0, 1), (-2, -1))
    else:
        weight = np.moveaxis(weight, (0, 1), (-1, -2))
    attributes = {
        "kernel_size": convolution.kernel,
        "strides": convolution.strides,
        "padding": padding,
        "dilation_rate": convolution.dilations,
        "data_format": "channels_first" if convolution.channel_axis == 1 else "channels_last",
        **({"depth_multiplier": out // inside} if depthwise else {"filters": out, "groups": convolution.groups}),
        "use_bias": bool(convolution.bias.any()),
    }
    inputs: list[Param | str] = [data, Param.of(f"{stem}/kernel", weight, convolution.dtype)]
    if convolution.bias.any():
        inputs.append(Param.of(f"{stem}/bias", convolution.bias, convolution.dtype))
    return NewOp(f"{'DepthwiseConv' if depthwise else 'Conv'}{spatial}D", tuple(inputs), attributes, DOMAIN)


@register("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose", domain=DOMAIN)
class ConvTranspose(KerasLinear):
    """Kernel [*window, out, in]."""

    conditions = Conditions(
        absorb_input="along the input channels, or uniform; a shift only for a kernel of one tap without stride",
    )

    def layout(self, node: Node) -> Layout:
        weight, axis = PlainWeight(weight_of(node, 1)), channel_axis(node)
        *window, out, inside = weight.shape
        last = len(weight.shape) - 1
        no_shift = None
        if any(size > 1 for size in window) or any(stride > 1 for stride in node.ints("strides")):
            no_shift = node.refuse(
                "uneven-taps", "gives output positions different taps, so a shift before it would not stay constant"
            )
        return Layout(
            weight=weight, out_axis=axis, in_axis=axis, weight_out=last - 1, weight_in=last, out_channels=out,
            in_channels=inside, no_shift=no_shift,
        )  # fmt: skip


@register("SeparableConv1D", "SeparableConv2D", domain=DOMAIN)
class SeparableConv(KerasLinear):
    """A depthwise kernel in slot 1, then a pointwise one [1, …, in * multiplier, out] in slot 2, bias in slot 3."""

    conditions = Conditions(absorb_input="along the input channels, or uniform; a shift only without zero padding")
    bias_slot = 3

    def layout(self, node: Node) -> Layout:
        """Seen from its output, it is its pointwise kernel."""
        weight, axis = PlainWeight(weight_of(node, 2)), channel_axis(node)
        *_, inside, out = weight.shape
        last = len(weight.shape) - 1
        return Layout(
            weight=weight, weight_slot=2, out_axis=axis, in_axis=axis, weight_out=last, weight_in=last - 1,
            out_channels=out, in_channels=inside,
        )  # fmt: skip

    def add_bias(self, node: Node, layout: Layout, scale: Vector, shift: Vector) -> Reweighted:
        """The bias has the channels of the pointwise kernel, whichever of the two ``layout`` describes."""
        return super().add_bias(node, self.layout(node), scale, shift)

    def absorb_input(self, node: Node, affines: Mapping[int, Affine]) -> Absorbed:
        first, second, affine = _depthwise(node), self.layout(node), affines[0]
        misfit = channels_fit(node, affine, first.in_axis, first.in_channels)
        if misfit is not None:
            return misfit
        if not affine.is_scale and first.no_shift is not None:
            return first.no_shift
        scale, shift = vectors(affine, first.in_channels)
        extra = np.zeros(second.out_channels) if affine.is_scale else second.through(first.through(shift))
        change = self._change(node, first, affine, first.in_factor(scale), np.ones_like(extra), extra)
        return _by_input_channel(change, first)


@register("Embedding", domain=DOMAIN)
class Embedding(Facts):
    """Rows of a table [entries, out]: an affine along the last axis goes into the table."""

    conditions = Conditions(absorb_output="along the last axis, or uniform")
    role = Role.LINEAR
    is_lookup = True

    def absorb_output(self, node: Node, affine: Affine) -> Absorbed:
        table, last = weight_of(node, 1), channel_axis(node) + 1
        misfit = channels_fit(node, affine, last, table.shape[1])
        if misfit is not None:
            return misfit
        changed = mapped(table, affine.on_axis(1))
        assert changed is not None, "the channels were compared"
        return NewWeights({1: changed}, channel_axis={1: 1})


@register("LSTM", "GRU", "SimpleRNN", domain=DOMAIN)
class Recurrent(Facts):
    """Kernel [in, gates * units] in slot 1, bias in slot 3; of a GRU's two rows of biases the first is the input's."""

    conditions = Conditions(
        absorb_input="of its data; along the features, or uniform; a shift only where there is a bias"
    )
    role = Role.RECURRENT

    #: The slots of the kernels; two behind each is its bias.
    kernels: tuple[int, ...] = (1,)

    def absorb_input(self, node: Node, affines: Mapping[int, Affine]) -> Absorbed:
        if set(affines) != {0}:
            return node.refuse("dynamic-weights", "gets the affine in its state, which has no weights of its own")
        affine, features = affines[0], weight_of(node, 1).shape[0]
        misfit = channels_fit(node, affine, 2, features)
        if misfit is not None:
            return misfit
        scale, shift = vectors(affine, features)
        inputs: dict[int, Param | NewOp | str] = {}
        for slot in self.kernels:
            kernel, bias = weight_of(node, slot), node.const(slot + 2)
            if not affine.is_shift:
                inputs[slot] = kernel.scaled(scale.reshape(-1, 1))
            if not affine.is_scale:
                if bias is None:
                    return node.refuse("no-bias", "has no bias that could take the shift")
                total = bias.exact().copy()
                total.reshape(-1, kernel.shape[1])[0] += shift @ kernel.exact()
                inputs[slot + 2] = Param.of(bias.name, total, bias.dtype)
        return NewWeights(inputs, channel_axis=dict.fromkeys(self.kernels, 1))


@register("Bidirectional", domain=DOMAIN)
class Bidirectional(Recurrent):
    """Two recurrent layers that read the same data, one of them backward: weights in slots 1 to 3 and 4 to 6."""

    kernels = (1, 4)
