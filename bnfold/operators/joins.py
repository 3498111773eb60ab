"""Joins of several tensors: sums, and what passes only where all operands carry the same."""

from __future__ import annotations

from collections.abc import Mapping

from bnfold.affine import Affine
from bnfold.graph import Param
from bnfold.operators.answers import Crossing, Lifts, NewWeights, Sunk
from bnfold.operators.arithmetic import lift_sum, onto_operand, onto_output, rising, sink_sum
from bnfold.operators.base import Combination, Conditions, Facts, Node, Role
from bnfold.refusal import Refusal


class SumOfMany(Facts):
    """The sum of any number of tensors."""

    conditions = Conditions(
        lift="a scale to every operand, which have the axis in full; the shift to one of them",
        sink="shifts, which add up; scales that all operands carry alike",
    )
    role = Role.JOIN
    combination = Combination.SUM

    def addends(self, node: Node) -> Mapping[int, float]:
        return dict.fromkeys(range(len(node.op.inputs)), 1.0)

    def lift(self, node: Node, affines: Mapping[int, Affine]) -> Lifts:
        return lift_sum(node, self.addends(node), affines[0])

    def sink(self, node: Node, affines: Mapping[int, Affine]) -> Sunk:
        return sink_sum(node, self.addends(node), affines)


class Alike(Facts):
    """All operands carry the same map, or none (a mean, a selection). A constant of one number changes along."""

    conditions = Conditions(
        lift="the same to all operands; a constant of one number changes along",
        sink="what all operands carry alike; a constant of one number changes along",
    )
    role = Role.JOIN

    def operands(self, node: Node) -> range:
        """Their slots."""
        return range(len(node.op.inputs))

    def lift(self, node: Node, affines: Mapping[int, Affine]) -> Lifts:
        return _lift_same(node, self.operands(node), affines[0])

    def sink(self, node: Node, affines: Mapping[int, Affine]) -> Sunk:
        return _sink_same(node, self.operands(node), affines)


class Mean(Alike):
    """The mean of any number of tensors."""

    combination = Combination.SUM


class Extreme(Alike):
    """The largest or smallest of several tensors: keeps every scale that is not negative."""

    conditions = Conditions(
        lift="the same to all operands, with no negative scale; a constant of one number changes along",
        sink="what all operands carry alike, with no negative scale; a constant of one number changes along",
    )
    combination = Combination.EXTREME

    def lift(self, node: Node, affines: Mapping[int, Affine]) -> Lifts:
        return rising(node, affines[0]) or super().lift(node, affines)

    def sink(self, node: Node, affines: Mapping[int, Affine]) -> Sunk:
        refusals = [rising(node, affine) for affine in affines.values()]
        return next((refusal for refusal in refusals if refusal is not None), None) or super().sink(node, affines)


def _lift_same(node: Node, slots: range, affine: Affine) -> Lifts:
    """The same affine on every operand (a mean, a maximum, a selection)."""
    carried: dict[int, Affine] = {}
    numbers: dict[int, Param] = {}
    for slot in slots:
        part, number = onto_operand(node, slot, affine), _number(node, slot)
        if part is not None:
            carried[slot] = part
        elif number is not None and node.out_rank() is not None:
            numbers[slot] = _mapped_number(node, number, affine)
        else:
            return node.refuse("broadcast", "has an operand that is broadcast along the affine's axis")
    return [Crossing(carried, NewWeights(dict(numbers)) if numbers else None)]


def _sink_same(node: Node, slots: range, affines: Mapping[int, Affine]) -> Sunk:
    """What every operand carries alike, the output carries."""
    found = {slot: _number(node, slot) for slot in slots if slot not in affines}
    numbers = {slot: number for slot, number in found.items() if number is not None}
    first: Affine | None = None
    for slot in slots:
        if slot in numbers:
            continue
        moved = onto_output(node, slot, affines.get(slot, Affine.identity()))
        if isinstance(moved, Refusal):
            return moved
        if first is not None and not first.same_as(moved):
            return node.refuse("unequal-operands", "has operands that do not carry the same affine")
        first = moved
    assert first is not None
    if not numbers:
        return Crossing({0: first})
    if not first.scale.all():
        return node.refuse("zero-scale", "has a constant operand, which no value stands for where the scale is zero")
    back = first.inverse()
    mapped = {slot: _mapped_number(node, number, back) for slot, number in numbers.items()}
    return Crossing({0: first}, NewWeights(mapped))


def _number(node: Node, slot: int) -> Param | None:
    """The operand, if it is a constant with one value."""
    param = node.const(slot)
    return param if param is not None and param.size == 1 else None


def _mapped_number(node: Node, number: Param, affine: Affine) -> Param:
    """A number with an affine of the output applied to it: one number a channel."""
    rank = len(number.shape) if affine.axis is None else node.out_rank()
    assert rank is not None, "a tensor of unknown rank carries nothing along an axis"
    scale, shift = affine.broadcastable(rank)
    return Param.of(number.name, number.exact().reshape(()) * scale + shift, number.dtype)
