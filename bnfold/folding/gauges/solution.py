"""Which affines go together, and the gauges under which they do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bnfold.affine import Affine
from bnfold.folding.gauges.component import Component, Place, Removal, Rows
from bnfold.folding.gauges.equations import Conflict, MixedError, Number, Parity, System, as_number
from bnfold.folding.gauges.strands import Demand, Group, contracted, groups_of, snapped
from bnfold.records import record

#: All of an affine goes, or all but its signs.
WHOLE, SIGNS = "whole", "signs"
#: Demands made while looking for a better choice, beside three times those of the first: a bound on the time.
MAX_EXCHANGE = 20_000


@dataclass(slots=True, eq=False)
class _Systems:
    """The three systems of one group."""

    group: Group
    size: System
    sign: Parity
    shift: System

    @classmethod
    def of(cls, group: Group, reach: float) -> _Systems:
        copies, length = group.variables.shape
        weights: dict[str, dict[int, float]] = {
            name: dict.fromkeys(range(length), 0.0) for name in ("size", "sign", "shift")
        }
        for equation in group.equations:
            for name in equation.rows.systems:
                for position in equation.positions:
                    weights[name][position] += 1
        for demands in group.demands.values():
            for demand in demands:
                for weight in weights.values():
                    weight[demand.inside] += 1
                    weight[demand.behind] += 1
        made = cls(
            group,
            System(copies, weights["size"], reach),
            Parity(copies, weights["sign"]),
            System(copies, weights["shift"]),
        )
        zero, even = np.zeros(copies), np.zeros(copies, bool)
        for equation in group.equations:
            terms = _summed(equation.positions, equation.factors)
            for name in equation.rows.systems:
                if name == "sign":
                    made.sign.add(terms, even, equation.rows)
                else:
                    system = made.size if name == "size" else made.shift
                    system.add(terms, zero, equation.rows)
        return made

    def mark(self) -> tuple[int, int, int]:
        return self.size.mark(), self.sign.mark(), self.shift.mark()

    def undo(self, marks: tuple[int, int, int]) -> None:
        self.size.undo(marks[0])
        self.sign.undo(marks[1])
        self.shift.undo(marks[2])

    def demand(self, demand: Demand, source: str, *, signs: bool) -> tuple[str, Conflict] | None:
        """Let an affine go, if that contradicts nothing; else the system that says no."""
        inside, behind = demand.inside, demand.behind
        back = as_number(1.0 / demand.scale)
        terms: dict[int, Number] = {inside: 1.0}
        terms[behind] = terms.get(behind, 0.0) - back
        found = self.shift.add(terms, demand.shift / demand.scale, source)
        if found is not None:
            return "shift", found
        terms = {inside: 1.0}
        terms[behind] = terms.get(behind, 0.0) - 1.0
        found = self.size.add(terms, np.log(np.abs(demand.scale)), source)
        if found is not None:
            return "scale", found
        if signs:
            odd: dict[int, Number] = {inside: 1.0, behind: 1.0} if inside != behind else {}
            found = self.sign.add(odd, demand.scale < 0, source)
            if found is not None:
                return "sign", found
        return None


def _summed(positions: tuple[int, ...], factors: tuple[Number, ...]) -> dict[int, Number]:
    """The terms of an equation; a variable that it holds twice counts once, with both factors."""
    terms: dict[int, Number] = {}
    for position, factor in zip(positions, factors, strict=True):
        terms[position] = terms[position] + factor if position in terms else factor
    return terms


@record
class Clash:
    """Why an affine stays: the system that says no, and whose demands contradict each other."""

    system: str
    #: Heads of the other affines whose demands are met.
    others: tuple[str, ...]
    #: Sentences of operators and of observers.
    pins: tuple[str, ...]


@dataclass(slots=True, eq=False)
class Choice:
    """What was found: how each affine goes, gauges by place, and why the rest stays."""

    gone: dict[str, str] = field(default_factory=dict)
    clashes: dict[str, Clash] = field(default_factory=dict)
    gauges: dict[Place, Affine] = field(default_factory=dict)


def hopeless(component: Component, live: Mapping[str, NDArray[np.bool_]]) -> dict[str, Clash]:
    """Affines with a shift between two tensors that can have none: no system needs to be solved to see that."""
    root = snapped(component, "shift")
    pins = [rows for rows in component.rows if rows.cells.shape[1] == 1 and "shift" in rows.systems]
    pinned_by = np.full(component.size, -1)
    for number in reversed(range(len(pins))):  # the first one of a cell counts
        pinned_by[root[pins[number].cells[:, 0]]] = number
    pinned = pinned_by >= 0
    found = {}
    for removal in component.removals:
        inside, behind = root[removal.inside], root[removal.behind]
        both = pinned[inside] & pinned[behind] & (removal.shift != 0) & live[removal.head]
        if both.any():
            at = int(both.argmax())
            found[removal.head] = Clash("shift", (), (pins[pinned_by[inside[at]]].why, pins[pinned_by[behind[at]]].why))
    return found


class Solver:
    """Chooses among the candidates of a component the largest set that it finds, at no operator added.

    ``alive`` says which channels demand anything; ``signs_pay`` are those of whom a Mul by signs
    alone may be left.
    """

    def __init__(
        self,
        component: Component,
        alive: dict[str, NDArray[np.bool_]],
        signs_pay: frozenset[str],
        names: dict[str, str],
        reach: float,
    ) -> None:
        self.component, self.alive, self.signs_pay, self.reach = component, alive, signs_pay, reach
        #: Of those that share a name here one alone may go; who has it.
        self.names, self.owners = names, dict[str, str]()
        self.removals = {removal.head: removal for removal in component.removals}
        self.variables = contracted(component, alive)

    def _build(self, *, apart: bool) -> None:
        groups = groups_of(self.variables, apart=apart)
        self.systems = [_Systems.of(group, self.reach) for group in groups]
        self.at: dict[str, list[_Systems]] = {head: [] for head in self.removals}
        for systems in self.systems:
            for head in systems.group.demands:
                self.at[head].append(systems)
        self.spent = 0

    def solve(self) -> Choice:
        """The choice, with strands in groups where they behave alike all through."""
        try:
            return self._solve(apart=False)
        except MixedError:
            return self._solve(apart=True)

    def _solve(self, *, apart: bool) -> Choice:
        self._build(apart=apart)
        self.owners.clear()
        start = [systems.mark() for systems in self.systems]
        choice = self._greedy(self.removals)
        if choice.clashes:
            choice = self._exchanged(choice, start)
        for head in list(choice.clashes):
            if head in self.signs_pay and self._try(self.removals[head], signs=False) is None:
                choice.gone[head] = SIGNS
        if choice.gone:
            choice.gauges = self._gauges()
        return choice

    def _greedy(self, heads: Iterable[str]) -> Choice:
        choice = Choice()
        for head in heads:
            clash = self._try(self.removals[head], signs=True)
            if clash is None:
                choice.gone[head] = WHOLE
            else:
                choice.clashes[head] = clash
        return choice

    def _exchanged(self, choice: Choice, start: list[tuple[int, int, int]]) -> Choice:
        """Give up one for two, as long as that is found and time allows."""
        limit = min(MAX_EXCHANGE, 200 + 3 * self.spent)
        improved = True
        while improved and self.spent < limit:
            improved = False
            blocked: dict[str, list[str]] = {}
            for head, clash in choice.clashes.items():
                for other in clash.others:
                    blocked.setdefault(other, []).append(head)
            for other, heads in sorted(blocked.items(), key=lambda item: -len(item[1])):
                if len(heads) < 2 or self.spent >= limit:
                    break
                self._restart(start)
                kept = [head for head in choice.gone if head != other]
                trial = self._greedy([*kept, *choice.clashes, other])
                if len(trial.gone) > len(choice.gone):
                    choice, improved = trial, True
                    break
        self._restart(start)
        return self._greedy([*choice.gone, *choice.clashes])

    def _restart(self, start: list[tuple[int, int, int]]) -> None:
        self.owners.clear()
        for systems, marks in zip(self.systems, start, strict=True):
            systems.undo(marks)

    def _try(self, removal: Removal, *, signs: bool) -> Clash | None:
        """Let an affine go, or say what contradicts it."""
        name = self.names.get(removal.head) if signs else None
        if name in self.owners:
            return Clash("name", (self.owners[name],), ())
        done: list[tuple[_Systems, tuple[int, int, int]]] = []
        for systems in self.at[removal.head]:
            done.append((systems, systems.mark()))
            for demand in systems.group.demands[removal.head]:
                self.spent += 1
                found = systems.demand(demand, removal.head, signs=signs)
                if found is not None:
                    for other, marks in reversed(done):
                        other.undo(marks)
                    return self._clash(removal, *found)
        if name is not None:
            self.owners[name] = removal.head
        return None

    @staticmethod
    def _clash(removal: Removal, system: str, conflict: Conflict) -> Clash:
        others = [s for s in conflict.sources if isinstance(s, str) and s != removal.head]
        pins = [s.why for s in conflict.sources if isinstance(s, Rows) and s.cells.shape[1] == 1]
        return Clash(system, tuple(dict.fromkeys(others)), tuple(dict.fromkeys(pins)))

    # -- gauges ----------------------------------------------------------------------------------

    def _gauges(self) -> dict[Place, Affine]:
        """The gauge of every place that has one: ``a v + a b``."""
        count = self.variables.count
        logs, negative, shifts = np.zeros(count), np.zeros(count, bool), np.zeros(count)
        for systems in self.systems:
            variables = systems.group.variables
            for target, found in (
                (logs, systems.size.values()),
                (negative, systems.sign.values()),
                (shifts, systems.shift.values()),
            ):
                target[variables] = np.stack([found[position] for position in range(variables.shape[1])], axis=1)
        logs[np.abs(logs) < 1e-12] = 0.0
        logs, negative, shifts = (found[self.variables.of] for found in (logs, negative, shifts))
        sizes = np.exp(logs[snapped(self.component, "size")])
        sizes = np.where(negative[snapped(self.component, "sign")], -sizes, sizes)
        shifts = shifts[snapped(self.component, "shift")]
        gauges: dict[Place, Affine] = {}
        for place, frame in self.component.frames.items():
            scale, shift = sizes[frame.cells], shifts[frame.cells]
            if (scale != 1.0).any() or shift.any():
                gauges[place] = frame.affine(scale, scale * shift)
        return gauges
