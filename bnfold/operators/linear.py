"""Linear operators with constant weights: they take an affine in, from either side.

The mathematics is the same for all of them, only the layout of the weights differs. Each operator
describes its layout once as a :class:`Layout`, and the algebra
``s (W x + b) + t = (s W) x + (s b + t)`` and ``W (s x + t) + b = (W s) x + (b + W t)`` stands here once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY

import numpy as np
from numpy.typing import NDArray

from bnfold.affine import Affine, Vector
from bnfold.graph import Param
from bnfold.operators.answers import Absorbed, NewOp, NewWeights, Reweighted, WithResidual
from bnfold.operators.base import Conditions, Facts, Node, Role, channels_fit, vectors
from bnfold.operators.weights import Weight, constant_values
from bnfold.records import record
from bnfold.refusal import Refusal


@record
class Layout:
    """Where the channels of a linear operator lie, in its data and in its weight.

    ``out_axis``/``in_axis`` are the channel axes of the data (None: rank unknown). ``weight_out`` and
    ``weight_in`` are the weight's axes that count output and input channels; with ``groups`` > 1 one
    of the two counts within a group only.
    """

    _: KW_ONLY
    weight: Weight
    weight_slot: int = 1
    in_slot: int = 0
    out_axis: int | None
    in_axis: int | None
    weight_out: int
    weight_in: int
    out_channels: int
    in_channels: int
    groups: int = 1
    #: The product is multiplied by this (Gemm's alpha).
    gain: float = 1.0
    #: Why a shift on the input cannot be taken in, where it cannot.
    no_shift: Refusal | None = None

    def out_factor(self, scale: Vector) -> NDArray[np.float64]:
        """Output scales, shaped to broadcast against the weight."""
        return self._factor(scale, self.weight_out, self.weight_in)

    def in_factor(self, scale: Vector) -> NDArray[np.float64]:
        """Input scales, shaped to broadcast against the weight."""
        return self._factor(scale, self.weight_in, self.weight_out)

    def _factor(self, vector: Vector, axis: int, other: int) -> NDArray[np.float64]:
        shape = [1] * len(self.weight.shape)
        within = self.weight.shape[axis]
        if within == vector.size:
            shape[axis] = within
            return vector.reshape(shape)
        # The axis counts within a group; which group it is shows on the other channel axis.
        table = np.repeat(vector.reshape(self.groups, within), self.weight.shape[other] // self.groups, axis=0)
        shape[axis], shape[other] = within, self.weight.shape[other]
        return np.ascontiguousarray(table if other < axis else table.T).reshape(shape)

    def through(self, shift: Vector) -> Vector:
        """``W t``: what the operator puts out, one value a channel, for the input ``shift`` everywhere."""
        if 0 in self.weight.shape:
            return np.zeros(self.out_channels)
        factor = self.in_factor(shift)
        taps = tuple(a for a in range(len(self.weight.shape)) if a not in (self.weight_out, self.weight_in))
        rows = []
        for start, stop in self.weight.row_blocks():
            block = self.weight.exact_rows(start, stop)
            block = block * (factor if factor.shape[0] == 1 else factor[start:stop])
            rows.append(block.sum(axis=taps) if taps else block)
        # Blocks are cut along the first axis: it counts channels, or taps that are summed like the rest.
        table = np.sum(rows, axis=0) if 0 in taps else np.concatenate(rows)
        table = table if self.weight_out < self.weight_in else table.T
        within = table.shape[0]
        if within == self.out_channels:
            total = table.sum(axis=1)
        else:
            # Output channels are counted within a group: add up each group's own inputs.
            total = table.reshape(within, self.groups, -1).sum(axis=2).T.reshape(-1)
        return np.asarray(self.gain * total)


class LinearFacts(Facts):
    """An operator that computes ``W x + b`` with a constant W, described by a :class:`Layout`."""

    conditions = Conditions(
        absorb_output="weights constant; along the output channels, or uniform",
        absorb_input="weights constant; along the input channels, or uniform",
    )
    role = Role.LINEAR
    #: The slot of the bias, None for operators without one.
    bias_slot: int | None = None

    def bias_gain(self, node: Node) -> float:
        """What the bias is multiplied by before it is added."""
        return 1.0

    def needs_bias(self, node: Node) -> bool:
        """Must there be a bias, be it of zeros?"""
        return False

    def layout(self, node: Node) -> Layout | Refusal:
        """Where its channels lie, or why its weights cannot change."""
        raise AssertionError(f"{type(self).__name__} describes no layout")

    def add_bias(self, node: Node, layout: Layout, scale: Vector, shift: Vector) -> Reweighted:
        """The change that makes the bias ``scale * bias + shift``, vectors over the output channels."""
        raise AssertionError(f"{type(self).__name__} describes no bias")

    def bias_param(self, node: Node) -> Param | None:
        """The constant bias, if there is one."""
        return None if self.bias_slot is None else node.const(self.bias_slot)

    def absorb_output(self, node: Node, affine: Affine) -> Absorbed:
        layout = self.layout(node)
        if isinstance(layout, Refusal):
            return layout
        misfit = channels_fit(node, affine, layout.out_axis, layout.out_channels)
        if misfit is not None:
            return misfit
        scale, shift = vectors(affine, layout.out_channels)
        return self._change(node, layout, affine, layout.out_factor(scale), scale, shift)

    def absorb_input(self, node: Node, affines: Mapping[int, Affine]) -> Absorbed:
        return self._absorb_input(node, affines, Layout.through)

    def would_absorb_input(self, node: Node, affines: Mapping[int, Affine]) -> Absorbed:
        if type(self).absorb_input is not LinearFacts.absorb_input:
            return self.absorb_input(node, affines)
        # Adding up the weights is what takes long.
        return self._absorb_input(node, affines, lambda layout, shift: np.ones(layout.out_channels))

    def _absorb_input(
        self, node: Node, affines: Mapping[int, Affine], through: Callable[[Layout, Vector], Vector]
    ) -> Absorbed:
        layout = self.layout(node)
        if isinstance(layout, Refusal):
            return layout
        if set(affines) != {layout.in_slot}:
            return node.refuse("dynamic-weights", "gets the affine in an input that is not its data")
        affine = affines[layout.in_slot]
        misfit = channels_fit(node, affine, layout.in_axis, layout.in_channels)
        if misfit is not None:
            return misfit
        if not affine.is_scale and layout.no_shift is not None:
            return layout.no_shift
        scale, shift = vectors(affine, layout.in_channels)
        ones = np.ones(layout.out_channels)
        extra = np.zeros(layout.out_channels) if affine.is_scale else through(layout, shift)
        return self._change(node, layout, affine, layout.in_factor(scale), ones, extra)

    def _change(
        self, node: Node, layout: Layout, affine: Affine, factor: NDArray[np.float64], scale: Vector, shift: Vector
    ) -> Absorbed:
        inputs: dict[int, Param | NewOp | str] = {}
        if not affine.is_shift:
            weight = layout.weight.scaled(factor)
            if isinstance(weight, Refusal):
                return weight
            inputs[layout.weight_slot] = weight
        axes = {layout.weight_slot: layout.weight_out}
        if not np.count_nonzero(shift) and (scale == 1.0).all():
            return NewWeights(inputs, channel_axis=axes)
        bias = self.add_bias(node, layout, scale, shift)
        if isinstance(bias, Refusal):
            return bias
        own = bias.weights if isinstance(bias, WithResidual) else bias
        inputs |= own.inputs
        changed = NewWeights(inputs, attributes=own.attributes, type=own.type, channel_axis=axes)
        return WithResidual(changed, bias.residual) if isinstance(bias, WithResidual) else changed


def vector_bias(node: Node, layout: Layout, slot: int, scale: Vector, shift: Vector) -> Reweighted:
    """:meth:`LinearFacts.add_bias` for a bias that is one vector of output channels in ``slot``."""
    if node.has(slot):
        old = constant_values(node, slot)
        if old is None:
            return node.refuse("dynamic-bias", "has a bias that is computed at run time")
        if old.size != layout.out_channels:
            return node.refuse("bias-shape", f"has a bias of {old.size} values for {layout.out_channels} channels")
        values = (scale * old.reshape(-1) + shift).reshape(old.shape)
        name, dtype = node.op.input(slot), getattr(node.const(slot), "dtype", layout.weight.float_dtype)
    else:
        if not np.count_nonzero(shift):
            return NewWeights()
        values, name, dtype = shift, f"{node.op.outputs[0]}_bias", layout.weight.float_dtype
    return NewWeights({slot: Param.of(name, values, dtype)})
