"""What a choice of gauges changes: every operator around a tensor that changes writes or reads the new one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from bnfold.affine import Affine
from bnfold.folding.candidates import Candidate
from bnfold.folding.gauges.component import Component, by_channels
from bnfold.folding.gauges.equations import NOTHING
from bnfold.folding.gauges.solution import SIGNS, WHOLE, Choice
from bnfold.folding.moves import Context, Move, unsound
from bnfold.graph import Op, Param, Use
from bnfold.operators import Node, Rewrite, Role, facts_of
from bnfold.operators.answers import NewAffine, NewWeights
from bnfold.operators.weights import mapped
from bnfold.records import record
from bnfold.refusal import Refusal

#: How far two ways to the same vector may part, relative to its size: they add up in different orders.
_CLOSE = 1e-9
#: How far a number may be off that was composed of others.
_ROUNDING = 1e-12


class Change:
    """What has to be done, in terms of the graph as it is."""

    def __init__(self) -> None:
        self.move = Move()
        #: Affines that stay, with their new map.
        self.staying: dict[str, Affine] = {}


@record
class Fault:
    """An operator that cannot do what the equations ask of it."""

    op: str
    refusal: Refusal


class Carrier:
    """Turns a choice into a :class:`Change`, or finds who refuses."""

    def __init__(
        self, context: Context, component: Component, blocked: Mapping[str, Candidate], choice: Choice
    ) -> None:
        self.context, self.graph = context, context.graph
        self.component, self.blocked, self.choice = component, blocked, choice
        self.gauges = choice.gauges
        shifts = [float(np.abs(gauge.shift).max()) for gauge in choice.gauges.values()]
        #: A shift that is off by less beside the largest of all is off by rounding.
        self.nothing = NOTHING * max(shifts, default=0.0)
        self.change = Change()
        gone = {blocked[head].output for head, how in choice.gone.items() if how == WHOLE}
        for place in self.gauges:
            if isinstance(place, str) and place not in gone:
                self.change.move.changed[place] = None

    def run(self) -> Change | Fault:
        for names, act in ((self.component.rim, self._weigh), (self.component.ties, self._pass)):
            for name in names:
                node = Node(self.graph, self.graph.op(name))
                before, behind = self._carried(node.op)
                if not before and not behind:
                    continue
                refusal = self._several_axes(node, before, behind) or act(node, before, behind)
                if refusal is not None:
                    return Fault(name, refusal)
        for candidate in self._kept():
            refusal = self._keep(candidate)
            if refusal is not None:
                return Fault(candidate.head, refusal)
        return self.change

    def _carried(self, op: Op) -> tuple[dict[int, Affine], dict[int, Affine]]:
        """By slot what the old inputs are of the new ones, by index what the new outputs are of the old ones."""
        facts, before, behind = facts_of(op), {}, {}
        for slot, tensor in enumerate(op.inputs):
            gauge = self.gauges.get(tensor) or self.gauges.get(Use(op.name, slot))
            if gauge is not None and facts.reads_values(slot):
                before[slot] = gauge.inverse()
        for index, tensor in enumerate(op.outputs):
            if tensor and tensor in self.gauges:
                behind[index] = self.gauges[tensor]
        return before, behind

    @staticmethod
    def _several_axes(node: Node, before: Mapping[int, Affine], behind: Mapping[int, Affine]) -> Refusal | None:
        """An operator that was surveyed when none of its tensors had several axes may have got one since."""
        if facts_of(node.op).grids or not any(affine.grid for affine in (*before.values(), *behind.values())):
            return None
        return node.refuse("several-axes", "would get an affine that runs over several axes")

    # -- operators with weights ------------------------------------------------------------------

    def _weigh(self, node: Node, before: Mapping[int, Affine], behind: Mapping[int, Affine]) -> Refusal | None:
        op = node.op
        first = facts_of(op).absorb_input(node, before) if before else NewWeights()
        if not isinstance(first, NewWeights):
            return first if isinstance(first, Refusal) else node.refuse("no-gain", "would need another operator")
        rewrite = self._behind(node, first, behind[0]) if behind else first
        if isinstance(rewrite, Refusal):
            return rewrite
        cost = unsound(node, rewrite) or self.context.cost(op, rewrite)
        if isinstance(cost, Refusal):
            return cost
        if cost:
            return node.refuse("no-gain", "would need another operator")
        self.change.move.rewrites[op.name] = rewrite
        self.change.move.targets.append(op.name)
        return None

    def _behind(self, node: Node, first: NewWeights, affine: Affine) -> Rewrite | Refusal:
        """What has taken in an affine before it takes in one behind it."""
        op, params = node.op, node.graph.params
        inputs, names = list(op.inputs), {}
        for slot, new in first.inputs.items():
            if not isinstance(new, Param):
                return node.refuse("quantized-form", "has quantised weights, which would change on both sides")
            inputs.extend([""] * (slot + 1 - len(inputs)))
            inputs[slot] = name = node.graph.fresh(new.name)
            names[name] = new.name
            params[name] = replace(new, name=name)
        attributes = {**op.attributes, **first.attributes}
        half = replace(op, type=first.type or op.type, inputs=tuple(inputs), attributes=attributes)
        second = facts_of(half).absorb_output(Node(node.graph, half), affine)
        for name in names:
            del params[name]
        if not isinstance(second, NewWeights):
            return second
        later = {
            slot: new.renamed(names.get(new.name, new.name)) if isinstance(new, Param) else new
            for slot, new in second.inputs.items()
        }
        return NewWeights(
            {**first.inputs, **later},
            attributes={**first.attributes, **second.attributes},
            type=second.type or first.type,
            channel_axis={**first.channel_axis, **second.channel_axis},
        )

    # -- operators without -----------------------------------------------------------------------

    def _pass(self, node: Node, before: Mapping[int, Affine], behind: Mapping[int, Affine]) -> Refusal | None:
        op = node.op
        if op.name in self.component.rim:
            return None
        if not before:
            return self._lift(node, before, behind)
        sunk = facts_of(op).sink(node, before)
        if isinstance(sunk, Refusal):
            return sunk if not behind else self._lift(node, before, behind) and sunk
        wanted = {index: gauge.inverse() for index, gauge in behind.items()}
        outputs = [index for index, tensor in enumerate(op.outputs) if tensor and node.used(index)]
        if not all(_alike(sunk.affines.get(i), wanted.get(i), self.nothing) for i in outputs):
            return node.refuse("unequal-operands", "would not pass on what its inputs carry")
        self._enter(op, before, sunk.rewrite)
        return None

    def _lift(self, node: Node, before: Mapping[int, Affine], behind: Mapping[int, Affine]) -> Refusal | None:
        """An operator that can only say what its inputs have to carry."""
        ways = facts_of(node.op).lift(node, behind)
        if isinstance(ways, Refusal):
            return ways
        for way in ways:
            gauges = {slot: affine.inverse() for slot, affine in before.items()}
            slots = {*gauges, *way.affines}
            if all(_alike(way.affines.get(slot), gauges.get(slot), self.nothing) for slot in slots):
                self._enter(node.op, before, way.rewrite)
                return None
        return node.refuse("unequal-operands", "would not pass on what its inputs carry")

    def _enter(self, op: Op, before: Mapping[int, Affine], rewrite: NewWeights | None) -> None:
        self.change.move.through.append(op.name)
        if rewrite is not None:
            self.change.move.rewrites[op.name] = rewrite
        for slot, affine in before.items():
            param = self.graph.constant(op.input(slot))
            if param is not None:
                new = mapped(param, affine.inverse())
                assert new is not None, "it was asked before"
                self.change.move.constants[Use(op.name, slot)] = new

    # -- affines that stay -----------------------------------------------------------------------

    def _kept(self) -> Iterable[Candidate]:
        for name in self.component.staying:
            op = self.graph.op(name)
            facts, node = facts_of(op), Node(self.graph, op)
            own = facts.as_affine(node)
            assert isinstance(own, Affine)
            slot = facts.data_slot(node)
            yield Candidate(ops=(op,), total=own, input=op.input(slot), slot=slot)
        for head in (*(removal.head for removal in self.component.removals), *self.component.held):
            if self.choice.gone.get(head) != WHOLE:
                yield self.blocked[head]

    def _keep(self, candidate: Candidate) -> Refusal | None:
        before, behind = self.gauges.get(candidate.input), self.gauges.get(candidate.output)
        signs = self.choice.gone.get(candidate.head) == SIGNS
        if before is None and behind is None and not signs:
            return None
        total = candidate.total
        if before is not None:
            total = _wide(before.inverse(), total)
        if behind is not None:
            total = _wide(total, behind)
        if total.size == 1:  # whichever axis it came along: the tensor may have more channels
            total = self._by_channels(candidate, total.as_uniform())
        op = candidate.ops[0]
        if signs:
            total = Affine(np.sign(total.scale), np.zeros(total.size), total.axis, total.grid)
        else:
            total = _tidy(total, candidate.total, before, behind)
            price = self.context.cost(op, NewAffine(total))
            if isinstance(price, Refusal):
                return price
            if price + 1 > len(candidate.ops):
                return Node(self.graph, op).refuse("no-gain", "would need another operator")
            if self._trades(candidate, total):
                return Node(self.graph, op).refuse(
                    "no-gain", "would become a BatchNormalization in the place of another"
                )
        self.change.staying[candidate.head] = total
        return None

    def _by_channels(self, candidate: Candidate, total: Affine) -> Affine:
        """A map of one number, along the channels where a BatchNormalization computes it: one operator can, then."""
        axis, size, _ = by_channels(self.graph, candidate.input)
        if facts_of(candidate.ops[0]).role is not Role.BATCHNORM or total.is_scale or total.is_shift:
            return total
        return Affine(total.scale, total.shift, axis).expand(size)

    def _trades(self, candidate: Candidate, total: Affine) -> bool:
        """Where no operator goes, and one only becomes simpler, another must not become what that one was."""
        simple = len(candidate.ops) == 1 and facts_of(candidate.ops[0]).role is not Role.BATCHNORM
        return simple and not (total.is_scale or total.is_shift) and WHOLE not in self.choice.gone.values()


def _wide(first: Affine, second: Affine) -> Affine:
    """One after the other; a uniform map of several channels fits any axis."""
    if not first.composes(second) and first.is_uniform:
        first = first.as_uniform()
    if not first.composes(second) and second.is_uniform:
        second = second.as_uniform()
    return first.then(second)


def _tidy(total: Affine, *parts: Affine | None) -> Affine:
    """One and zero where a composition of ``parts`` is off by rounding: they have forms of their own."""
    reach = max(float(np.abs(part.shift).max()) * max(1.0, float(np.abs(total.scale).max())) for part in parts if part)
    scale = np.where(np.abs(total.scale - 1.0) < _ROUNDING, 1.0, total.scale)
    return replace(total, scale=scale, shift=np.where(np.abs(total.shift) <= _ROUNDING * reach, 0.0, total.shift))


def _alike(first: Affine | None, second: Affine | None, nothing: float) -> bool:
    """The same map, but for rounding; shifts that differ by ``nothing`` are the same."""
    one, other = first or Affine.identity(), second or Affine.identity()
    if one.axes == other.axes:  # the rule
        scale, shift, other_scale, other_shift = one.scale, one.shift, other.scale, other.shift
    else:
        rank = max(axis + 1 for affine in (one, other) for axis, _ in affine.axes)
        (scale, shift), (other_scale, other_shift) = one.broadcastable(rank), other.broadcastable(rank)
        if any(len({1, *sizes}) > 2 for sizes in zip(scale.shape, other_scale.shape, strict=True)):
            return False
    reach = max(np.abs(shift).max(), np.abs(other_shift).max())
    return bool(
        (np.abs(scale - other_scale) <= _CLOSE * np.abs(scale)).all()
        and (np.abs(shift - other_shift) <= max(_CLOSE * reach, nothing)).all()
    )
