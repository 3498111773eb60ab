"""Affines of images as convolutions of one tap."""

from __future__ import annotations

from bnfold.affine import Affine
from bnfold.operators.base import Node, dim_of
from bnfold.operators.convolution import Convolution, per_channel
from bnfold.operators.dialect import dialect_of


def of_affine(
    node: Node, affine: Affine, macs_per_channel: float, channel_axis: int | None = None
) -> Convolution | None:
    """What an operator is that applies ``affine`` to images, None for other data.

    ``channel_axis`` is that of an affine that is the same for every channel, where the operator knows it.
    """
    tensor, rank = node.graph.tensor(node.op.outputs[0]), node.out_rank()
    if rank is None or rank < 3 or tensor.dtype is None or affine.grid:
        return None
    usual = dialect_of(node.graph).channel_axis % rank if channel_axis is None else channel_axis
    axis = usual if affine.axis is None else affine.axis
    channels = dim_of(node.graph, node.op.outputs[0], axis)
    if channels is None:
        return None
    return per_channel(affine, channels, rank - 2, tensor.dtype, macs_per_channel * channels, axis)
