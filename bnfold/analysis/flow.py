"""What stands before and after every tensor, in one pass forward and one backward over the graph.

Rules look up the answers, so that none of them walks the graph again: the cost of analysis grows
with the number of operators alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import Enum

from bnfold.graph import ModelGraph, Op
from bnfold.operators import Node, Role, facts_of, linear_bias
from bnfold.operators.linear import Layout
from bnfold.operators.patterns import (
    drops,
    is_concatenation,
    is_extreme,
    is_final_activation,
    is_normaliser,
    is_self_gated,
    is_sum,
    keeps_axes,
    linear_layout,
    merges_axes,
)

#: Roles that hand a tensor on without deciding what it is to a BN.
TRANSPARENT = frozenset({Role.SHAPE, Role.DROPOUT, Role.POOL, Role.AFFINE, Role.BATCHNORM})


class Kind(str, Enum):
    """What a tensor comes from or goes to, seen from a BN."""

    INPUT = "input"
    LINEAR = "linear"
    ACTIVATION = "activation"
    SUM = "sum"
    JOIN = "join"
    RECURRENT = "recurrent"
    OUTPUT = "output"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Origin:
    """The operator that gave a tensor its meaning, through shapes, pools, dropout and affines."""

    kind: Kind
    op: str = ""


@dataclass(frozen=True, slots=True)
class Dropped:
    """The Dropout upstream of a tensor, with no BN between; ``direct`` if no linear layer stands between either."""

    op: str
    direct: bool


@dataclass(frozen=True, slots=True)
class ChannelAxis:
    """The axis that a linear operator gives a meaning to: the channels it writes or reads."""

    axis: int
    op: str


@dataclass(frozen=True, slots=True)
class Flow:
    """The answers, by tensor."""

    roles: dict[str, Role]
    #: Where the channels of linear operators with constant weights lie, by operator.
    layouts: dict[str, Layout]
    origin: dict[str, Origin]
    goals: dict[str, frozenset[Kind]]
    dropped: dict[str, Dropped]
    #: The tensor goes to the model's output and nowhere else: the output's or the last activation's name.
    final: dict[str, str]
    #: A constant added to the tensor would be taken away again by a BN, or by a bias further on.
    absorbs_bias: dict[str, bool]
    channels_from: dict[str, ChannelAxis]
    channels_for: dict[str, ChannelAxis]
    #: Tensors whose channels are merged with their positions before a linear layer reads them.
    flattened: dict[str, str]

    def role(self, op: Op) -> Role:
        return self.roles[op.name]


def trace(graph: ModelGraph, role_of: Callable[[Op], Role]) -> Flow:
    """Both passes. ``role_of`` tells the role of an operator in this graph."""
    ops = graph.ops()
    layouts = {op.name: layout for op in ops if (layout := linear_layout(graph, op)) is not None}
    flow = Flow({op.name: role_of(op) for op in ops}, layouts, {}, {}, {}, {}, {}, {}, {}, {})
    for tensor in graph.inputs:
        flow.origin[tensor.name] = Origin(Kind.INPUT)
    forward = _Forward(graph, flow)
    for op in ops:
        forward.visit(op)
    backward = _Backward(graph, flow, forward.gates)
    for op in reversed(ops):
        backward.visit(op)
    return flow


def data_inputs(graph: ModelGraph, op: Op, role: Role) -> list[str]:
    """The tensors that flow through an operator, its parameters left out."""
    if role in (Role.JOIN, Role.OTHER):
        return [tensor for tensor in op.inputs if tensor and tensor not in graph.params]
    return [op.input(facts_of(op).data_slot(Node(graph, op)))]


def producer_behind(graph: ModelGraph, flow: Flow, tensor: str, passing: Collection[Role]) -> Op | None:
    """The operator that computes a tensor, looking through operators with a role in ``passing``."""
    op = graph.producer(tensor)
    while op is not None and flow.role(op) in passing:
        op = graph.producer(op.input(facts_of(op).data_slot(Node(graph, op))))
    return op


def readers_beyond(graph: ModelGraph, flow: Flow, tensor: str, passing: Collection[Role]) -> list[Op] | None:
    """All operators that read a tensor, looking through those with a role in ``passing``.

    None where someone else sees it: the model's output, or the body of an If, Loop or Scan.
    """
    readers: dict[str, Op] = {}
    pending, seen = [tensor], {tensor}
    while pending:
        here = pending.pop()
        if graph.is_output(here) or graph.captured(here) is not None:
            return None
        for use in graph.consumers(here):
            op = graph.op(use.op)
            if flow.role(op) not in passing:
                readers[op.name] = op
                continue
            fresh = [output for output in op.outputs if output and output not in seen]
            seen.update(fresh)
            pending += fresh
    return sorted(readers.values(), key=lambda op: graph.position(op.name))


class _Forward:
    """From the inputs on: origins, dropout, channel axes."""

    def __init__(self, graph: ModelGraph, flow: Flow) -> None:
        self.graph = graph
        self.flow = flow
        #: The products of self-gated activations.
        self.gates: set[str] = set()

    def visit(self, op: Op) -> None:
        role = self.flow.roles[op.name]
        inputs = data_inputs(self.graph, op, role)
        origin = self._origin(op, role, inputs)
        dropped = self._dropped(op, role, inputs)
        axis = self._channels(op, role, inputs)
        for tensor in filter(None, op.outputs):
            self.flow.origin[tensor] = origin
            if dropped is not None:
                self.flow.dropped[tensor] = dropped
            if axis is not None:
                self.flow.channels_from[tensor] = axis

    def _origin(self, op: Op, role: Role, inputs: list[str]) -> Origin:
        if role in TRANSPARENT:
            return self._of(inputs[0])
        if role is Role.LINEAR:
            return Origin(Kind.LINEAR if op.name in self.flow.layouts else Kind.JOIN, op.name)
        if role is Role.ACTIVATION or is_extreme(op):
            return Origin(Kind.ACTIVATION, op.name)
        if role is Role.RECURRENT:
            return Origin(Kind.RECURRENT, op.name)
        if role is Role.JOIN:
            return self._of_join(op, inputs)
        return Origin(Kind.OTHER, op.name)

    def _of(self, tensor: str) -> Origin:
        return self.flow.origin.get(tensor, Origin(Kind.OTHER))

    def _of_join(self, op: Op, inputs: list[str]) -> Origin:
        if is_self_gated(self.graph, op, self.flow.role):
            self.gates.add(op.name)
            return Origin(Kind.ACTIVATION, op.name)
        origins = [self._of(tensor) for tensor in inputs]
        kinds = {origin.kind for origin in origins}
        if is_concatenation(op) and len(kinds) == 1 and kinds <= {Kind.ACTIVATION, Kind.LINEAR, Kind.INPUT}:
            return Origin(kinds.pop(), op.name)
        if is_sum(op):
            # Parallel branches are one linear layer; a sum that goes on to other sums is a residual.
            branches = all(origin.op in self.flow.layouts for origin in origins)
            return Origin(Kind.LINEAR if branches else Kind.SUM, op.name)
        return Origin(Kind.JOIN, op.name)

    def _dropped(self, op: Op, role: Role, inputs: list[str]) -> Dropped | None:
        if role is Role.DROPOUT and drops(self.graph, op):
            return Dropped(op.name, direct=True)
        if role is Role.BATCHNORM:
            return None
        found = [drop for tensor in inputs if (drop := self.flow.dropped.get(tensor)) is not None]
        if not found:
            return None
        nearest = next((drop for drop in found if drop.direct), found[0])
        direct = nearest.direct and role not in (Role.LINEAR, Role.RECURRENT)
        return Dropped(nearest.op, direct)

    def _channels(self, op: Op, role: Role, inputs: list[str]) -> ChannelAxis | None:
        if role is Role.LINEAR:
            layout = self.flow.layouts.get(op.name)
            return None if layout is None or layout.out_axis is None else ChannelAxis(layout.out_axis, op.name)
        if role is Role.JOIN and (is_sum(op) or is_concatenation(op) or op.name in self.gates):
            found = {axis for tensor in inputs if (axis := self.flow.channels_from.get(tensor)) is not None}
            return min(found, key=lambda axis: axis.op) if len({axis.axis for axis in found}) == 1 else None
        if keeps_axes(self.graph, op, role):
            return self.flow.channels_from.get(inputs[0])
        return None


class _Backward:
    """From the outputs back: goals, the way to the model's output, who takes a bias away."""

    def __init__(self, graph: ModelGraph, flow: Flow, gates: set[str]) -> None:
        self.graph = graph
        self.flow = flow
        self.gates = gates
        for tensor in graph.outputs:
            flow.goals[tensor] = frozenset({Kind.OUTPUT})
            flow.absorbs_bias[tensor] = False
            if graph.parent is None and not graph.use_count(tensor):
                flow.final[tensor] = "the model's output"

    def visit(self, op: Op) -> None:
        role = self.flow.roles[op.name]
        outputs = [tensor for tensor in op.outputs if tensor]
        goals = self._goals(op, role, outputs)
        absorbs = self._absorbs_bias(op, role, outputs)
        inputs = data_inputs(self.graph, op, role)
        for tensor in filter(None, op.inputs):
            self.flow.goals[tensor] = self.flow.goals.get(tensor, frozenset()) | goals
            self.flow.absorbs_bias[tensor] = self.flow.absorbs_bias.get(tensor, True) and absorbs
        for tensor in op.captures:
            self.flow.goals[tensor] = self.flow.goals.get(tensor, frozenset()) | {Kind.OTHER}
            self.flow.absorbs_bias[tensor] = False
        for tensor in inputs:
            self._single(op, role, tensor, outputs)

    def _goals(self, op: Op, role: Role, outputs: list[str]) -> frozenset[Kind]:
        if role is Role.ACTIVATION or is_extreme(op) or op.name in self.gates:
            return frozenset({Kind.ACTIVATION})
        if role is Role.LINEAR:
            return frozenset({Kind.LINEAR})
        if role is Role.RECURRENT:
            return frozenset({Kind.RECURRENT})
        if role in TRANSPARENT or role is Role.JOIN:
            return frozenset().union(*(self.flow.goals.get(tensor, frozenset()) for tensor in outputs))
        return frozenset({Kind.OTHER})

    def _absorbs_bias(self, op: Op, role: Role, outputs: list[str]) -> bool:
        if role is Role.BATCHNORM or is_normaliser(op):
            return True
        if op.name in self.flow.layouts and linear_bias(self.graph, op) is not None:
            return True
        if role is Role.AFFINE and is_sum(op):
            return True
        passes = role in TRANSPARENT or op.name in self.flow.layouts or is_sum(op) or is_concatenation(op)
        return passes and all(self.flow.absorbs_bias.get(tensor, True) for tensor in outputs)

    def _single(self, op: Op, role: Role, tensor: str, outputs: list[str]) -> None:
        """What holds only where this operator is the tensor's one reader."""
        axis = self._wanted_axis(op, role, outputs)
        if axis is not None:
            self.flow.channels_for.setdefault(tensor, axis)
        if self.graph.use_count(tensor) != 1 or self.graph.is_output(tensor):
            return
        after = self.flow.final.get(outputs[0]) if outputs else None
        if after is not None and is_final_activation(self.graph, op):
            self.flow.final[tensor] = op.name
        elif after is not None and role in (Role.SHAPE, Role.DROPOUT):
            self.flow.final[tensor] = after
        if merges_axes(op):
            self.flow.flattened[tensor] = op.name
        elif outputs and outputs[0] in self.flow.flattened and keeps_axes(self.graph, op, role):
            self.flow.flattened[tensor] = self.flow.flattened[outputs[0]]

    def _wanted_axis(self, op: Op, role: Role, outputs: list[str]) -> ChannelAxis | None:
        if role is Role.LINEAR:
            layout = self.flow.layouts.get(op.name)
            return None if layout is None or layout.in_axis is None else ChannelAxis(layout.in_axis, op.name)
        if outputs and (keeps_axes(self.graph, op, role) or is_sum(op)):
            return self.flow.channels_for.get(outputs[0])
        return None
