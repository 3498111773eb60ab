"""The linear layers of a model with what follows them: the activation, and the BN on either side of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bnfold.graph import ModelGraph, Op
from bnfold.operators import Role, facts_of, role
from bnfold.operators.base import Combination, facts_about
from bnfold.operators.patterns import (
    is_concatenation,
    is_final_activation,
    is_lookup,
    is_sum,
    linear_layout,
    sole_reader,
)

_LAST = "it is the last linear layer before an output"
#: The axes of a kernel without a window.
_MATRIX = 2
#: What may stand between a linear layer, its activation and its BN without parting them.
_PASSED = frozenset({Role.DROPOUT, Role.POOL, Role.SHAPE, Role.AFFINE})


@dataclass(frozen=True, slots=True)
class Existing:
    """A BN that is there; ``dropped`` if it stands behind a Dropout that it has no linear layer in between with."""

    op: str
    dropped: bool


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a linear layer; ``before`` and ``after`` are the BN on either side of its activation.

    ``direct`` means that a BN belongs right behind the layer in any style: a sum stands between it and the activation,
    as at the end of a residual branch, or it is a convolution that is followed by none, as a linear bottleneck is.
    ``stop`` is the operator at which the way ends, or empty.
    """

    linear: str
    activation: str
    before: tuple[Existing, ...]
    after: tuple[Existing, ...]
    direct: bool
    stop: str


@dataclass(frozen=True, slots=True)
class Unit:
    """A linear layer and its calls. ``reason`` says why no BN may be put behind it, or is empty."""

    origin: str
    calls: tuple[Call, ...]
    reason: str = ""
    #: No other layer with weights follows, and what it puts out are no features: a BN there is a mistake.
    last: bool = False


def find_units(graph: ModelGraph) -> list[Unit]:
    """The linear layers of a graph in its order; lookups, which have no hidden activation, are none of them."""
    return _Finder(graph).units()


def find_opaque(graph: ModelGraph) -> dict[str, str]:
    """The layers that have linear layers or BN inside which nothing is known of, by name, and what is to be said."""
    found = {}
    for op in graph.ops():
        facts = {name: facts_about(name, op.domain) for name in op.attributes.get("contains", ())}
        inside = [
            name
            for name, known in facts.items()
            if known.role is Role.BATCHNORM or (known.role is Role.LINEAR and not known.is_lookup)
        ]
        if inside:
            is_variant = op.type.startswith(f"{inside[0]}[")
            what = f"{op.type} layers" if is_variant else f"the {' and '.join(inside)} in a {op.type}"
            found[op.origin or op.name] = f"restyle does not change {what}"
    return found


class _Finder:
    def __init__(self, graph: ModelGraph) -> None:
        self.graph = graph
        self.roles = {op.name: role(op, graph) for op in graph.ops()}
        self.linear = [op for op in graph.ops() if self._is_linear(op)]
        self.calls = {op.name: self._call(op) for op in self.linear}
        self.leads_on = self._leading_on()

    def units(self) -> list[Unit]:
        origins: dict[str, list[Op]] = {}
        for op in self.linear:
            origins.setdefault(op.origin or op.name, []).append(op)
        return [self._unit(origin, ops) for origin, ops in origins.items()]

    def _unit(self, origin: str, ops: list[Op]) -> Unit:
        calls = tuple(self.calls[op.name] for op in ops)
        reasons = [reason for op in ops if (reason := self._reason(op))]
        return Unit(origin, calls, reasons[0] if reasons else "", _LAST in reasons)

    def _is_linear(self, op: Op) -> bool:
        return self.roles[op.name] is Role.LINEAR and not is_lookup(op)

    # -- the way forward -------------------------------------------------------------------------

    def _call(self, op: Op) -> Call:
        tensor, activation, dropped = op.outputs[0], "", False
        before: list[Existing] = []
        after: list[Existing] = []
        while (reader := sole_reader(self.graph, tensor)) is not None:
            role = self.roles[reader.name]
            if role is Role.BATCHNORM:
                (after if activation else before).append(Existing(reader.name, dropped))
            elif role is Role.ACTIVATION and not activation:
                activation, dropped = reader.name, False
            elif role not in _PASSED:
                break
            dropped = dropped or role is Role.DROPOUT
            tensor = reader.outputs[0]
        direct = not activation and self._is_direct(op, list(self._readers(tensor)))
        return Call(op.name, activation, tuple(before), tuple(after), direct, reader.name if reader else "")

    def _is_direct(self, op: Op, stops: list[Op]) -> bool:
        """Does a BN belong right behind a layer without an activation of its own, whose way ends at ``stops``?"""
        if len(stops) == 1 and is_sum(stops[0]) and self._is_activated(stops[0]):
            return True
        layout = linear_layout(self.graph, op)
        is_convolution = layout is not None and len(layout.weight.shape) > _MATRIX
        return is_convolution and bool(stops) and all(self._is_linear(stop) or self._joins(stop) for stop in stops)

    def _joins(self, op: Op) -> bool:
        """Does it put branches together, with no BN behind that normalises them all?"""
        normalised = any(self.roles[reader.name] is Role.BATCHNORM for reader in self._readers(op.outputs[0]))
        return (is_sum(op) or is_concatenation(op)) and not normalised

    def _is_activated(self, op: Op) -> bool:
        """Does an activation read what this operator puts out, with no BN or linear layer between?"""
        pending = [op]
        for op in pending:
            for reader in self._readers(op.outputs[0]):
                if self.roles[reader.name] is Role.ACTIVATION:
                    return True
                if self.roles[reader.name] in _PASSED or (is_sum(reader) and reader not in pending):
                    pending.append(reader)
        return False

    def _readers(self, tensor: str) -> Iterator[Op]:
        return (self.graph.op(use.op) for use in self.graph.consumers(tensor))

    # -- where no BN may go ----------------------------------------------------------------------

    def _reason(self, op: Op) -> str:
        call = self.calls[op.name]
        if op.outputs[0] not in self.leads_on and not self._ends_in_features(call):
            return _LAST
        if linear_layout(self.graph, op) is None:
            return "its output channels do not lie on one axis"
        if not call.activation and not call.direct:
            return "no activation follows it directly"
        if self._is_attention(call):
            return "it belongs to an attention block or a gate"
        return ""

    def _ends_in_features(self, call: Call) -> bool:
        """Does it end in a BN and an activation, be it in this order, that go on in another model?"""
        if not call.activation or not (call.before or call.after):
            return False
        return not is_final_activation(self.graph, self.graph.op(call.activation))

    def _is_attention(self, call: Call) -> bool:
        """Does it compute the weights of a weighting, or a query or key, itself or by the next linear layer?"""
        if self._weighs(call):
            return True
        following = self.calls.get(call.stop)
        return following is not None and self._weighs(following)

    def _weighs(self, call: Call) -> bool:
        stop = self.graph.op(call.stop) if call.stop else None
        if stop is None:
            return False
        if self._mixes(stop):
            return True
        final = bool(call.activation) and is_final_activation(self.graph, self.graph.op(call.activation))
        return final and facts_of(stop).combination is Combination.PRODUCT

    def _mixes(self, op: Op) -> bool:
        """Multiplies tensors with each other and has no weights: dot products, and attention itself."""
        tensors = [name for name in op.inputs if name not in self.graph.params]
        known = self.roles[op.name] in (Role.OTHER, Role.JOIN) and facts_of(op).combination is None
        return known and len(tensors) > 1 and len(tensors) == len(op.inputs)

    def _leading_on(self) -> set[str]:
        """The tensors that some layer with weights reads, at once or further on."""
        tensors: set[str] = set()
        for op in reversed(self.graph.ops()):
            if self._is_weighted(op) or any(output in tensors for output in op.outputs):
                tensors.update(name for name in op.inputs if name and name not in self.graph.params)
        return tensors

    def _is_weighted(self, op: Op) -> bool:
        role = self.roles[op.name]
        if role is not Role.OTHER:
            return role in (Role.LINEAR, Role.RECURRENT)
        return any(len(self.graph.params[name].shape) > 1 for name in op.inputs if name in self.graph.params)
