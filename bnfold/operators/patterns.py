"""What operators are to the BatchNormalization around them: facts that analysis asks for and folding does not."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from bnfold.affine import Affine, Vector
from bnfold.graph import ModelGraph, Op, walk
from bnfold.operators import linear_bias, role
from bnfold.operators.answers import Crossing
from bnfold.operators.base import Combination, Node, Role, facts_about, facts_of
from bnfold.operators.linear import Layout, LinearFacts

#: A channel whose scale or weights are this part of the layer's largest is as good as a constant.
NEGLIGIBLE = 1e-6
#: QuantizeLinear, DequantizeLinear, QLinearConv, QAttention, ConvInteger, MatMulIntegerToFloat and their like, and
#: Keras's Dense[int8].
_QUANTIZED = re.compile(r"[Qq]uantize|^QLinear|^Q[A-Z][a-z]|Integer|\[(int|float|gptq|awq)")
#: Those of them that are linear layers.
_QUANTIZED_LINEAR = re.compile(r"^Q(Linear)?(Conv|MatMul|Gemm)|^(Conv|MatMul)Integer|^(Dense|EinsumDense)\[")


def linear_layout(graph: ModelGraph, op: Op) -> Layout | None:
    """Where the channels of a linear operator lie; None for any other operator and for computed weights."""
    facts = facts_of(op)
    if not isinstance(facts, LinearFacts):
        return None
    layout = facts.layout(Node(graph, op))
    return layout if isinstance(layout, Layout) else None


def enclosed(op: Op, wanted: Role) -> list[str]:
    """The types of that role among the layers that an operator holds inside and that are not looked into."""
    return [name for name in op.attributes.get("contains", ()) if facts_about(name, op.domain).role is wanted]


def channel_ranges(layout: Layout) -> Vector:
    """The largest absolute weight of each output channel, in float64.

    The weight is read in pieces; NaN where it is left unread. Channels that are counted within groups
    are laid out group by group.
    """
    weight, out = layout.weight, layout.weight_out
    if not weight.is_known:
        return np.full(layout.out_channels, np.nan)
    rest = tuple(axis for axis in range(len(weight.shape)) if axis not in (out, layout.weight_in))
    blocks = [np.abs(weight.exact_rows(*rows)).max(axis=rest, initial=0.0) for rows in weight.row_blocks()]
    table = np.concatenate(blocks)
    table = table if out < layout.weight_in else table.T  # [out, in]
    if table.shape[0] == layout.out_channels:
        return np.asarray(table.max(axis=1, initial=0.0))
    grouped = table.reshape(table.shape[0], layout.groups, -1).max(axis=2, initial=0.0)
    return np.asarray(grouped.T.reshape(-1))


def spread_bits(ranges: Vector) -> float:
    """By how many bits the largest per-channel weight range exceeds the smallest; dead channels do not count."""
    finite = ranges[np.isfinite(ranges)]
    alive = finite[finite > NEGLIGIBLE * finite.max(initial=0.0)]
    return float(np.log2(alive.max() / alive.min())) if alive.size else 0.0


def is_quantized(graph: ModelGraph) -> str:
    """The name of an operator that quantises or dequantises, in the graph or a subgraph; empty where there is none."""
    return next((op.display for inner in walk(graph) for op in inner.ops() if _QUANTIZED.search(op.type)), "")


def linear_behind_quantization(graph: ModelGraph, tensor: str) -> Op | None:
    """The linear layer that a tensor comes from, where the tensor was quantised on the way or the layer is.

    Looks through quantisation, casts, biases and the one product by a computed scale that dynamic quantisation puts
    behind a layer in integers; None where anything else sees a tensor on the way.
    """
    quantized = scaled = False
    while graph.sole_reader(tensor) is not None and (op := graph.producer(tensor)) is not None:
        if _QUANTIZED_LINEAR.search(op.type):
            return op
        if linear_layout(graph, op) is not None:
            return op if quantized and not scaled else None
        facts, kind = facts_of(op), role(op, graph)
        if kind is Role.JOIN and facts.combination is Combination.PRODUCT and not scaled:
            scaled = True
        elif kind is not Role.AFFINE and not (kind is Role.SHAPE and facts.keeps_axes):
            return None
        quantized = quantized or bool(_QUANTIZED.search(op.type))
        tensor = op.input(facts.data_slot(Node(graph, op)))
    return None


def passes_scale(graph: ModelGraph, op: Op) -> bool:
    """Does a positive scale pass through (a ReLU, not a sigmoid)?"""
    facts, node = facts_of(op), Node(graph, op)
    return isinstance(facts.sink(node, {facts.data_slot(node): Affine.of(2.0, 0.0, None)}), Crossing)


def drops(graph: ModelGraph, op: Op) -> bool:
    """Does a Dropout drop anything in training? One with a rate of zero does not."""
    return facts_of(op).drop_rate(Node(graph, op)) > 0.0


def is_final_activation(graph: ModelGraph, op: Op) -> bool:
    """Softmax, sigmoid and their like, with which a model's last layer ends."""
    return facts_of(op).is_final(Node(graph, op))


def is_sum(op: Op) -> bool:
    """A sum, difference or mean of tensors."""
    return facts_of(op).combination is Combination.SUM


def is_concatenation(op: Op) -> bool:
    """Tensors put beside each other along one axis."""
    return facts_of(op).combination is Combination.CONCATENATION


def is_quotient(op: Op) -> bool:
    """A product or quotient of tensors, as in a normalisation written out."""
    return facts_of(op).combination in (Combination.PRODUCT, Combination.QUOTIENT)


def is_extreme(op: Op) -> bool:
    """The larger or smaller of several tensors, which is nonlinear."""
    return facts_of(op).combination is Combination.EXTREME


def is_normaliser(op: Op) -> bool:
    """Normalises by statistics of its own input, unlike a BatchNormalization at inference."""
    return facts_of(op).normalizes


def keeps_axes(graph: ModelGraph, op: Op, role: Role) -> bool:
    """Is the channel axis of the data input the channel axis of the output too?"""
    if role in (Role.ACTIVATION, Role.DROPOUT, Role.AFFINE, Role.BATCHNORM):
        return True
    if role is Role.POOL:
        rank = graph.rank(op.input(0))
        return rank is not None and rank == graph.rank(op.outputs[0])
    return facts_of(op).keeps_axes


def merges_axes(op: Op) -> bool:
    """Flatten or Reshape, after which the axes may be others."""
    return facts_of(op).merges_axes


def has_bias_input(op: Op) -> bool:
    """Does a linear operator read a bias, be it constant or computed?"""
    facts = facts_of(op)
    return isinstance(facts, LinearFacts) and facts.bias_slot is not None and bool(op.input(facts.bias_slot))


def bias_slot(op: Op) -> int | None:
    """The slot of a linear operator's bias; None for one that can have none, and for any other operator."""
    facts = facts_of(op)
    return facts.bias_slot if isinstance(facts, LinearFacts) else None


def can_drop_bias(graph: ModelGraph, op: Op) -> bool:
    """May the operator do without a bias?"""
    facts = facts_of(op)
    return not (isinstance(facts, LinearFacts) and facts.needs_bias(Node(graph, op)))


def bias_gain(graph: ModelGraph, op: Op) -> float:
    """What an operator multiplies its bias by."""
    facts = facts_of(op)
    return facts.bias_gain(Node(graph, op)) if isinstance(facts, LinearFacts) else 1.0


def is_lookup(op: Op) -> bool:
    """A table that is looked up: its rows need no bias."""
    return facts_of(op).is_lookup


def sole_reader(graph: ModelGraph, tensor: str) -> Op | None:
    """The operator that reads the tensor, if it is the only one to see it."""
    use = graph.sole_reader(tensor)
    return None if use is None else graph.op(use.op)


def is_bias_add(graph: ModelGraph, op: Op) -> bool:
    """Is this Add by a constant the bias of the linear operator before it, which has none of its own?"""
    if not is_sum(op):
        return False
    tensor = op.input(facts_of(op).data_slot(Node(graph, op)))
    before = graph.producer(tensor)
    if before is None or sole_reader(graph, tensor) is not op or linear_layout(graph, before) is None:
        return False
    return linear_bias(graph, before) is None


_GATE_DEPTH = 8


def is_self_gated(graph: ModelGraph, op: Op, role_of: Callable[[Op], Role]) -> bool:
    """Is it the product in ``x * f(x)`` with an elementwise f: swish, hard swish, gelu and mish as exported?"""
    if facts_of(op).combination is not Combination.PRODUCT or len(op.inputs) != 2:
        return False
    first, second = (_behind(graph, tensor, role_of) for tensor in op.inputs)
    # Both factors may be computed from x: 0.5 x times (1 + erf(x / sqrt 2)).
    return first[0] in second[1:] or any(tensor in second for tensor in first[1:])


def _behind(graph: ModelGraph, tensor: str, role_of: Callable[[Op], Role]) -> list[str]:
    """The tensor and those that elementwise operators computed it from, nearest first."""
    chain = [tensor]
    for _ in range(_GATE_DEPTH):
        op = graph.producer(tensor)
        if op is None or role_of(op) not in (Role.ACTIVATION, Role.AFFINE):
            break
        tensor = op.input(facts_of(op).data_slot(Node(graph, op)))
        chain.append(tensor)
    return chain
