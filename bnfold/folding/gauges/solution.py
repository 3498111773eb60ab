"""Which affines go together, and the gauges under which they do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field

import numpy as np
from numpy.typing import NDArray

from bnfold.affine import Affine
from bnfold.folding.gauges.component import Cells, Component, Place, Removal, Rows
from bnfold.folding.gauges.equations import Conflict, MixedError, Number, Parity, System, as_number, differ
from bnfold.folding.gauges.strands import Demand, Group, contracted, groups_of, snapped
from bnfold.records import record

#: All of an affine goes, or all but its signs.
WHOLE, SIGNS = "whole", "signs"
#: Demands made while looking for a better choice, beside three times those of the first: a bound on the time.
MAX_EXCHANGE = 20_000


class _Systems:
    """The three systems of one group."""

    def __init__(self, group: Group, reach: float) -> None:
        self.group = group
        self.demands: dict[str, list[Demand]] = {}
        copies, length = group.variables.shape
        weights: dict[str, dict[int, float]] = {
            name: dict.fromkeys(range(length), 0.0) for name in ("size", "sign", "shift")
        }
        equations = list(group.equations())
        for equation in equations:
            for name in equation.rows.systems:
                for position in equation.positions:
                    weights[name][position] += 1
        for head, demand in group.demands():
            self.demands.setdefault(head, []).append(demand)
            for weight in weights.values():
                weight[demand.inside] += 1
                weight[demand.behind] += 1
        self.size = System(copies, weights["size"], reach, unit=1.0)
        self.sign = Parity(copies, weights["sign"])
        self.shift = System(copies, weights["shift"])
        zero, even = np.zeros(copies), np.zeros(copies, bool)
        for equation in equations:
            terms = _summed(equation.positions, equation.factors)
            for name in equation.rows.systems:
                if name == "sign":
                    self.sign.add(terms, even, equation.rows)
                else:
                    system = self.size if name == "size" else self.shift
                    system.add(terms, zero, equation.rows)

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


@record
class Choice:
    """What was found: how each affine goes, gauges by place, and why the rest stays."""

    gone: dict[str, str] = field(default_factory=dict)
    clashes: dict[str, Clash] = field(default_factory=dict)
    gauges: dict[Place, Affine] = field(default_factory=dict)


def _pins(component: Component, system: str) -> list[Rows]:
    """The equations that keep single cells at their values."""
    return [rows for rows in component.rows if rows.cells.shape[1] == 1 and system in rows.systems]


def _pinned(component: Component, root: Cells, pins: Sequence[Rows]) -> Cells:
    """For each root the number of the first of these equations that holds one of its cells, -1 for none."""
    by = np.full(component.size, -1)
    for number in reversed(range(len(pins))):
        by[root[pins[number].cells[:, 0]]] = number
    return by


def hopeless(component: Component, live: Mapping[str, NDArray[np.bool_]]) -> dict[str, Clash]:
    """Affines with a shift between tensors that can have none, or with a scale: no system needs to be solved for that.

    A sign may still be left where sizes and shifts go.
    """
    found: dict[str, Clash] = {}
    for system, name in (("shift", "shift"), ("size", "scale")):
        left = [removal for removal in component.removals if removal.head not in found]
        pins = _pins(component, system)
        if not left or not pins:
            continue
        root = snapped(component, system)
        by = _pinned(component, root, pins)
        pinned = by >= 0
        for removal in left:
            wanted = removal.shift != 0 if system == "shift" else np.abs(removal.scale) != 1
            inside, behind = root[removal.inside], root[removal.behind]
            both = pinned[inside] & pinned[behind] & wanted & live[removal.head]
            if np.count_nonzero(both):
                at = int(both.argmax())
                cells = (inside[at], behind[at]) if system == "shift" else (behind[at], inside[at])
                whys = dict.fromkeys(pins[by[cell]].why for cell in cells)
                found[removal.head] = Clash(name, (), tuple(whys))
    return found


class _Wants:
    """Affines in front of tensors without a shift: each wants one shift, whatever the others do.

    That two of them want different ones of the same cell is seen without solving anything.
    """

    def __init__(self, component: Component, live: Mapping[str, NDArray[np.bool_]]) -> None:
        root = snapped(component, "shift")
        pinned = _pinned(component, root, _pins(component, "shift")) >= 0
        self.of: dict[str, tuple[Cells, NDArray[np.float64]]] = {}
        for removal in component.removals:
            alive = np.flatnonzero(live[removal.head])
            if pinned[root[removal.behind[alive]]].all():
                self.of[removal.head] = root[removal.inside[alive]], removal.shift[alive] / removal.scale[alive]
        self.met, self.owner = np.full(component.size, np.nan), np.full(component.size, -1)
        self.heads: list[str] = []

    def clear(self) -> None:
        self.met[:] = np.nan
        self.heads.clear()

    def against(self, head: str) -> str | None:
        """Who got another shift of the same cell."""
        if head not in self.of:
            return None
        cells, shifts = self.of[head]
        met = self.met[cells]
        far = np.flatnonzero(_differ(met, shifts))
        return self.heads[self.owner[cells[far[0]]]] if len(far) else None

    def meet(self, head: str) -> None:
        """That one goes."""
        if head in self.of:
            cells, shifts = self.of[head]
            self.met[cells], self.owner[cells] = shifts, len(self.heads)
            self.heads.append(head)

    def exclude(self, heads: Sequence[str]) -> bool:
        """Is it plain that no two of them can go together? They all want different shifts of one cell."""
        if any(head not in self.of for head in heads):
            return False
        times = np.zeros(len(self.met), np.intp)
        for head in heads:
            times[self.of[head][0]] += 1
        shared = np.flatnonzero(times == len(heads))
        if not len(shared):
            return False
        wanted = np.sort([self.of[head][1][self.of[head][0] == shared[0]][0] for head in heads])
        return bool(_differ(wanted[1:], wanted[:-1]).all())


def _differ(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.bool_]:
    """As a :class:`System` tells two shifts apart."""
    return differ(first, second, np.maximum(np.abs(first), np.abs(second)))


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
        self.wants = _Wants(component, alive)

    def _build(self, heads: Sequence[str], *, apart: bool) -> None:
        asked = [self.removals[head] for head in heads]
        self.variables = contracted(self.component, self.alive, asked, apart=apart)
        self.groups = groups_of(self.variables, apart=apart)
        #: Those that something was demanded of.
        self.systems: dict[int, _Systems] = {}
        self.start: dict[int, tuple[int, int, int]] = {}
        self.at: dict[str, list[Group]] = {head: [] for head in heads}
        for group in self.groups:
            for head in group.heads:
                self.at[head].append(group)
        self.spent = 0
        self.wants.clear()
        self.owners.clear()

    def _systems_of(self, group: Group) -> _Systems:
        made = self.systems.get(group.number)
        if made is None:
            made = self.systems[group.number] = _Systems(group, self.reach)
            self.start[group.number] = made.mark()
        return made

    def solve(self) -> Choice:
        """The choice, with strands in groups where they behave alike all through."""
        try:
            return self._solve(apart=False)
        except MixedError:
            return self._solve(apart=True)

    def _solve(self, *, apart: bool) -> Choice:
        choice = self._unrivalled(apart=apart)
        if choice is None:
            self._build(list(self.removals), apart=apart)
            choice = self._greedy(self.removals)
            if choice.clashes:
                choice = self._exchanged(choice)
        for head in list(choice.clashes):
            if head in self.signs_pay and self._try(self.removals[head], signs=False) is None:
                choice.gone[head] = SIGNS
        if choice.gone:
            choice.gauges.update(self._gauges())
        return choice

    def _unrivalled(self, *, apart: bool) -> Choice | None:
        """The choice where affines exclude each other in plain sight and the first of each such set can go.

        Systems are built for these alone: of the many BN of a dense block for one.
        """
        self.wants.clear()
        first = []
        for head in self.removals:
            if self.wants.against(head) is None:
                self.wants.meet(head)
                first.append(head)
        if len(first) == len(self.removals):
            return None
        self._build(first, apart=apart)
        choice = self._greedy(first)
        if choice.clashes:
            return None
        for head, removal in self.removals.items():
            clash = None if head in choice.gone else self._rival(removal, self.names.get(head))
            if clash is not None:
                choice.clashes[head] = clash
        blocked = _by_rival(choice).values()
        return choice if all(len(heads) < 2 or self.wants.exclude(heads) for heads in blocked) else None

    def _greedy(self, heads: Iterable[str]) -> Choice:
        choice = Choice()
        for head in heads:
            clash = self._try(self.removals[head], signs=True)
            if clash is None:
                choice.gone[head] = WHOLE
            else:
                choice.clashes[head] = clash
        return choice

    def _exchanged(self, choice: Choice) -> Choice:
        """Give up one for two, as long as that is found and time allows."""
        limit = min(MAX_EXCHANGE, 200 + 3 * self.spent)
        improved, moved = True, False
        while improved and self.spent < limit:
            improved = False
            for other, heads in sorted(_by_rival(choice).items(), key=lambda item: -len(item[1])):
                if len(heads) < 2 or self.spent >= limit:
                    break
                if self.wants.exclude(heads):
                    continue  # whom another one blocks stays blocked, and of these one would go at the most
                self._restart()
                moved = True
                kept = [head for head in choice.gone if head != other]
                trial = self._greedy([*kept, *choice.clashes, other])
                if len(trial.gone) > len(choice.gone):
                    choice, improved = trial, True
                    break
        if not moved:
            return choice
        self._restart()
        return self._greedy([*choice.gone, *choice.clashes])

    def _restart(self) -> None:
        self.owners.clear()
        self.wants.clear()
        for number, systems in self.systems.items():
            systems.undo(self.start[number])

    def _try(self, removal: Removal, *, signs: bool) -> Clash | None:
        """Let an affine go, or say what contradicts it."""
        name = self.names.get(removal.head) if signs else None
        self.spent += 1
        rival = self._rival(removal, name)
        if rival is not None:
            return rival
        done: list[tuple[_Systems, tuple[int, int, int]]] = []
        for group in self.at[removal.head]:
            systems = self._systems_of(group)
            done.append((systems, systems.mark()))
            for demand in systems.demands[removal.head]:
                self.spent += 1
                found = systems.demand(demand, removal.head, signs=signs)
                if found is not None:
                    for other, marks in reversed(done):
                        other.undo(marks)
                    return self._clash(removal, *found)
        self.wants.meet(removal.head)
        if name is not None:
            self.owners[name] = removal.head
        return None

    def _rival(self, removal: Removal, name: str | None) -> Clash | None:
        """Another one that went in its place, as far as that needs no system."""
        if name in self.owners:
            return Clash("name", (self.owners[name],), ())
        against = self.wants.against(removal.head)
        return None if against is None else Clash("shift", (against,), ())

    @staticmethod
    def _clash(removal: Removal, system: str, conflict: Conflict) -> Clash:
        others = [s for s in conflict.sources if isinstance(s, str) and s != removal.head]
        pins = [s.why for s in conflict.sources if isinstance(s, Rows) and s.cells.shape[1] == 1]
        return Clash(system, tuple(dict.fromkeys(others)), tuple(dict.fromkeys(pins)))

    # -- gauges ----------------------------------------------------------------------------------

    def _gauges(self) -> dict[Place, Affine]:
        """The gauge of every place that has one: ``a v + a b``."""
        # The last one is for cells of which nothing is demanded, at -1.
        count = self.variables.count * self.variables.width + 1
        logs, negative, shifts = np.zeros(count), np.zeros(count, bool), np.zeros(count)
        for systems in self.systems.values():  # what nothing was demanded of stays as it is
            variables = systems.group.variables
            for target, found in (
                (logs, systems.size.values()),
                (negative, systems.sign.values()),
                (shifts, systems.shift.values()),
            ):
                target[variables] = np.stack([found[position] for position in range(variables.shape[1])], axis=1)
        logs[np.abs(logs) < 1e-12] = 0.0  # sums of logarithms of some tens: hundreds of them are off by less
        of, component = self.variables.of, self.component
        sizes = np.exp(logs)[of[snapped(component, "size")]]
        if negative.any():
            sizes = np.where(negative[of[snapped(component, "sign")]], -sizes, sizes)
        shifts = shifts[of[snapped(component, "shift")]]
        gauges: dict[Place, Affine] = {}
        changed = np.flatnonzero((sizes != 1.0) | (shifts != 0.0))
        firsts = [frame.first for frame in component.frames.values()]  # ascending: in the order of their making
        concerned = set(np.searchsorted(firsts, changed, side="right").tolist())
        for number, (place, frame) in enumerate(component.frames.items(), start=1):
            if number in concerned:
                scale = sizes[frame.first : frame.first + frame.size]
                gauges[place] = frame.affine(scale, scale * shifts[frame.first : frame.first + frame.size])
        return gauges


def _by_rival(choice: Choice) -> dict[str, list[str]]:
    """For each affine that others name as what they contradict those others."""
    blocked: dict[str, list[str]] = {}
    for head, clash in choice.clashes.items():
        for other in clash.others:
            blocked.setdefault(other, []).append(head)
    return blocked
