"""Keras's linear layers: Dense, EinsumDense, the convolutions, Embedding and the recurrent layers.

Input slots and attributes are those that ``bnfold.formats.keras.layers`` documents: the data first,
then the weights, with every axis counted from the left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bnfold.affine import Affine, Vector
from bnfold.graph import Param
from bnfold.operators.base import Absorbed, Facts, NewOp, Node, Rewrite, Role, channels_fit, mapped, register, vectors
from bnfold.operators.convolution import Convolution, same_padding, writer
from bnfold.operators.linear import Layout, LinearFacts, vector_bias
from bnfold.operators.weights import weight_of
from bnfold.refusal import Refusal

DOMAIN = "keras"


def channel_axis(node: Node) -> int | None:
    """The channel axis of a layer with a ``data_format``: 1, or the last; None for an unknown rank."""
    if node.attr("data_format") == "channels_first":
        return 1
    rank = node.rank(0)
    return None if rank is None else rank - 1


class KerasLinear(LinearFacts):
    """Kernel in slot 1, bias vector in slot 2."""

    def add_bias(self, node: Node, layout: Layout, scale: Vector, shift: Vector) -> Absorbed:
        return vector_bias(node, layout, 2, scale, shift)

    def bias_param(self, node: Node) -> Param | None:
        return node.const(2)


@register("Dense", domain=DOMAIN)
class Dense(KerasLinear):
    """Kernel [in, out], channels on the last axis."""

    def layout(self, node: Node) -> Layout | Refusal:
        weight, rank = weight_of(node, 1), node.rank(0)
        if isinstance(weight, Refusal):
            return weight
        axis = None if rank is None else rank - 1
        return Layout(weight, 1, 0, axis, axis, 1, 0, weight.shape[1], weight.shape[0])


@register("EinsumDense", domain=DOMAIN)
class EinsumDense(KerasLinear):
    """A kernel of one input and one output label, such as ``...x,xy->...y``."""

    def layout(self, node: Node) -> Layout | Refusal:
        weight, rank = weight_of(node, 1), node.rank(0)
        if isinstance(weight, Refusal):
            return weight
        terms, _, out = str(node.attr("equation")).replace(" ", "").partition("->")
        data, kernel = terms.split(",")
        new = [label for label in kernel if label not in data]
        summed = [label for label in kernel if label not in out]
        if rank is None or len(kernel) != 2 or len(new) != 1 or len(summed) != 1 or summed[0] not in data:
            return node.refuse("einsum", f"has an equation that is not handled ({node.attr('equation')})")
        if not out.endswith(new[0]):
            return node.refuse("einsum", "has its output channels on another axis than the last")
        if sorted(out) != sorted(data.replace(summed[0], new[0])):
            return node.refuse("einsum", "sums over more axes than that of its channels, or repeats one")
        at = data.replace("...", "." * (rank - len(data.replace("...", "")))).index(summed[0])
        places = kernel.index(new[0]), kernel.index(summed[0])
        sizes = weight.shape[places[0]], weight.shape[places[1]]
        out_rank = node.out_rank()
        return Layout(weight, 1, 0, None if out_rank is None else out_rank - 1, at, *places, *sizes)

    def add_bias(self, node: Node, layout: Layout, scale: Vector, shift: Vector) -> Absorbed:
        bias = node.const(2)
        if bias is not None and bias.shape[-1] != layout.out_channels:
            return node.refuse("bias-shape", "has a bias that runs along another axis than its output channels")
        return super().add_bias(node, layout, scale, shift)


@register("Conv1D", "Conv2D", "Conv3D", domain=DOMAIN)
class Conv(KerasLinear):
    """Kernel [*window, in/groups, out]."""

    def layout(self, node: Node) -> Layout | Refusal:
        weight = weight_of(node, 1)
        if isinstance(weight, Refusal):
            return weight
        *window, within, out = weight.shape
        groups, axis, last = int(node.attr("groups", 1)), channel_axis(node), len(weight.shape) - 1
        no_shift = _zero_padding(node, tuple(window))
        return Layout(weight, 1, 0, axis, axis, last, last - 1, out, within * groups, groups, no_shift=no_shift)

    def convolution(self, node: Node) -> Convolution | None:
        kernel = node.const(1)
        if kernel is None:
            return None
        return _convolution(node, kernel, _last_first(len(kernel.shape)), int(node.attr("groups", 1)))


def _last_first(rank: int) -> tuple[int, ...]:
    """The axes of [*window, in, out] in the order [out, in, *window]."""
    return (rank - 1, rank - 2, *range(rank - 2))


def _zero_padding(node: Node, window: tuple[int, ...]) -> Refusal | None:
    if node.attr("padding") == "valid" or all(size == 1 for size in window):
        return None
    return node.refuse("zero-padding", "pads with zeros, so a shift before it would be lost at the border")


def _convolution(node: Node, kernel: Param, order: tuple[int, ...], groups: int) -> Convolution | None:
    axis, bias = channel_axis(node), node.const(2)
    if axis is None or (node.has(2) and bias is None) or not kernel.is_float:
        return None
    shape = tuple(kernel.shape[place] for place in order)
    window = shape[2:]
    strides, dilations = tuple(node.ints("strides")), tuple(node.ints("dilation_rate"))
    first = 2 if axis == 1 else 1
    sizes = tuple(node.dim(0, first + place) for place in range(len(window)))
    mode = node.attr("padding")
    if mode == "valid":
        begins = ends = (0,) * len(window)
    elif mode == "same":
        padding = same_padding(sizes, window, strides, dilations)
        if padding is None:
            return None
        begins, ends = padding
    else:
        return None
    slack = tuple(b + e - d * (k - 1) for b, e, d, k in zip(begins, ends, dilations, window, strict=True))
    values = np.zeros(shape[0]) if bias is None else bias.exact()

    def load() -> NDArray[np.float64]:
        return np.ascontiguousarray(kernel.exact().transpose(order))

    macs = float(kernel.size)
    return Convolution(
        shape, load, values, groups, strides, dilations, begins, slack, sizes, kernel.dtype, macs, channel_axis=axis
    )


def _padding_name(convolution: Convolution) -> str | None:
    """What Keras calls the padding, None where it has no name for it."""
    if not any(convolution.begins) and not any(convolution.ends):
        return "valid"
    strides, sizes = convolution.strides, convolution.sizes
    same = same_padding(sizes, convolution.kernel, strides, convolution.dilations)
    if same is None or same[0] != convolution.begins:
        return None
    for size, stride, slack in zip(sizes, strides, convolution.slack, strict=True):
        # Without a stride both have as many positions only where the slack is none.
        positions = slack if size is None else (size + slack - 1) // stride + 1 - -(-size // stride)
        if positions != 0:
            return None
    return "same"


@writer("keras")
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

    def layout(self, node: Node) -> Layout | Refusal:
        weight = weight_of(node, 1)
        if isinstance(weight, Refusal):
            return weight
        *window, out, inside = weight.shape
        axis, last = channel_axis(node), len(weight.shape) - 1
        no_shift = None
        if any(size > 1 for size in window) or any(stride > 1 for stride in node.ints("strides")):
            no_shift = node.refuse(
                "uneven-taps", "gives output positions different taps, so a shift before it would not stay constant"
            )
        return Layout(weight, 1, 0, axis, axis, last - 1, last, out, inside, no_shift=no_shift)


@register("DepthwiseConv1D", "DepthwiseConv2D", domain=DOMAIN)
class DepthwiseConv(KerasLinear):
    """Kernel [*window, in, multiplier]; output channel ``c * multiplier + m`` reads input channel c."""

    def layout(self, node: Node) -> Layout | Refusal:
        weight = weight_of(node, 1)
        if isinstance(weight, Refusal):
            return weight
        *window, inside, multiplier = weight.shape
        axis, last = channel_axis(node), len(weight.shape) - 1
        no_shift = _zero_padding(node, tuple(window))
        return Layout(weight, 1, 0, axis, axis, last, last - 1, inside * multiplier, inside, inside, no_shift=no_shift)

    def convolution(self, node: Node) -> Convolution | None:
        kernel = node.const(1)
        if kernel is None:
            return None
        *window, inside, multiplier = kernel.shape
        rank = len(kernel.shape)
        moved = _convolution(node, kernel, (rank - 2, rank - 1, *range(rank - 2)), inside)
        if moved is None:
            return None
        load = moved.load
        shape = (inside * multiplier, 1, *window)
        bias = moved.bias if node.has(2) else np.zeros(inside * multiplier)
        return replace(moved, shape=shape, load=lambda: load().reshape(shape), bias=bias)


@register("SeparableConv1D", "SeparableConv2D", domain=DOMAIN)
class SeparableConv(LinearFacts):
    """A depthwise kernel in slot 1, then a pointwise one [1, …, in * multiplier, out] in slot 2, bias in slot 3."""

    def layout(self, node: Node) -> Layout | Refusal:
        """Seen from its output, it is its pointwise kernel."""
        weight = weight_of(node, 2)
        if isinstance(weight, Refusal):
            return weight
        axis, last = channel_axis(node), len(weight.shape) - 1
        return Layout(weight, 2, 0, axis, axis, last, last - 1, weight.shape[-1], weight.shape[-2])

    def add_bias(self, node: Node, layout: Layout, scale: Vector, shift: Vector) -> Absorbed:
        return vector_bias(node, layout, 3, scale, shift)

    def bias_param(self, node: Node) -> Param | None:
        return node.const(3)

    def absorb_input(self, node: Node, affines: Mapping[int, Affine]) -> Absorbed:
        depthwise, pointwise = weight_of(node, 1), self.layout(node)
        if isinstance(depthwise, Refusal) or isinstance(pointwise, Refusal):
            return node.refuse("dynamic-weights", "has weights that are computed at run time")
        *window, inside, multiplier = depthwise.shape
        axis, last = channel_axis(node), len(depthwise.shape) - 1
        first = Layout(depthwise, 1, 0, axis, axis, last, last - 1, inside * multiplier, inside, inside)
        affine = affines.get(0)
        if affine is None or len(affines) != 1:
            return node.refuse("dynamic-weights", "gets the affine in an input that is not its data")
        misfit = channels_fit(node, affine, axis, inside)
        if misfit is not None:
            return misfit
        padded = _zero_padding(node, tuple(window))
        if not affine.is_scale and padded is not None:
            return padded
        scale, shift = vectors(affine, inside)
        inputs: dict[int, Param | NewOp | str] = {}
        if not affine.is_shift:
            scaled = depthwise.scaled(first.in_factor(scale))
            if isinstance(scaled, Refusal):
                return scaled
            inputs[1] = scaled
        if affine.is_scale:
            return Rewrite(inputs, channel_axis={1: last - 1})
        extra = pointwise.through(first.through(shift))
        bias = self.add_bias(node, pointwise, np.ones_like(extra), extra)
        return bias if isinstance(bias, Refusal) else Rewrite({**inputs, **bias.inputs}, channel_axis={1: last - 1})


@register("Embedding", domain=DOMAIN)
class Embedding(Facts):
    """Rows of a table [entries, out]: an affine along the last axis goes into the table."""

    role = Role.LINEAR

    def absorb_output(self, node: Node, affine: Affine) -> Absorbed:
        table, rank = node.const(1), node.out_rank()
        if table is None or rank is None:
            return node.refuse("dynamic-weights", "has a table that is computed at run time")
        misfit = channels_fit(node, affine, rank - 1, table.shape[1])
        if misfit is not None:
            return misfit
        changed = mapped(table, affine.on_axis(1))
        assert changed is not None, "the channels were compared"
        return Rewrite({1: changed}, channel_axis={1: 1})


@register("LSTM", "GRU", "SimpleRNN", domain=DOMAIN)
class Recurrent(Facts):
    """Kernel [in, gates * units] in slot 1, bias in slot 3; of a GRU's two rows of biases the first is the input's."""

    role = Role.RECURRENT

    def absorb_input(self, node: Node, affines: Mapping[int, Affine]) -> Absorbed:
        kernel, bias = node.const(1), node.const(3)
        if set(affines) != {0} or kernel is None or (node.has(3) and bias is None):
            return node.refuse("dynamic-weights", "gets the affine in its state, or has weights computed at run time")
        affine = affines[0]
        misfit = channels_fit(node, affine, 2, kernel.shape[0])
        if misfit is not None:
            return misfit
        scale, shift = vectors(affine, kernel.shape[0])
        inputs: dict[int, Param | NewOp | str] = {}
        if not affine.is_shift:
            inputs[1] = kernel.scaled(scale.reshape(-1, 1))
        if not affine.is_scale:
            if bias is None:
                return node.refuse("no-bias", "has no bias that could take the shift")
            total = bias.exact().copy()
            total.reshape(-1, kernel.shape[1])[0] += shift @ kernel.exact()
            inputs[3] = Param.of(bias.name, total, bias.dtype)
        return Rewrite(inputs, channel_axis={1: 1})
