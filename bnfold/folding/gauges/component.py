"""The tensors that operators without weights tie to each other, and what every operator demands of their gauges.

The gauge of a tensor v replaces it by ``a (v + b)``, one pair (a, b) a channel. Written so, b counts in
the units of v, and the demands on a and on b are two systems of linear equations that know nothing of each
other: one in log|a| (and the signs), one in b. An operator's demands are read off its facts: labels are
lifted or sunk through it, one label a channel, and where they come out says which channels it ties.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from bnfold.affine import Affine, Vector
from bnfold.folding.candidates import Candidate
from bnfold.folding.moves import Context
from bnfold.folding.observers import output_phrase, reader_phrase
from bnfold.graph import ModelGraph, Op, Use
from bnfold.operators import Node, Role, dim_of, facts_of, rank_of, value_readers
from bnfold.operators.base import Crossing, NewWeights, WithResidual, mapped
from bnfold.refusal import Refusal

Cells = NDArray[np.intp]
#: A tensor by its name, or the constant that one operator reads in one slot.
Place = str | Use

#: Labels begin here: 1 is what carries nothing.
_FIRST_LABEL = 2


@dataclass(frozen=True, slots=True)
class Frame:
    """Where the channels of a place lie, as in an :class:`Affine`, and the number of its first cell (one a channel)."""

    axis: int | None
    grid: tuple[tuple[int, int], ...]
    size: int
    first: int

    @property
    def cells(self) -> Cells:
        return np.arange(self.first, self.first + self.size)

    def affine(self, scale: Vector | float, shift: Vector | float) -> Affine:
        """A map along these channels."""
        a, b = (np.broadcast_to(np.asarray(vector, np.float64), (self.size,)).copy() for vector in (scale, shift))
        return Affine(a, b, self.axis, self.grid)

    def labels(self, first: int) -> Affine:
        """A scale by ``first``, ``first + 1``, …, one number a channel."""
        return self.affine(np.arange(first, first + self.size, dtype=np.float64), 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Equations ``sum(factors * x[cells]) = 0``, one a row; ``cells`` is ``[n, k]``, so are ``factors``.

    ``systems`` says of what: "size" (log|a|), "sign" (is a negative?), "shift" (b). ``why`` is for people.
    """

    systems: tuple[str, ...]
    cells: Cells
    factors: NDArray[np.float64]
    why: str


@dataclass(frozen=True, slots=True, eq=False)
class Removal:
    """An affine that may go: ``y = scale v + shift`` between the cells of v and of y."""

    candidate: Candidate
    inside: Cells
    behind: Cells
    scale: Vector
    shift: Vector

    @property
    def head(self) -> str:
        return self.candidate.head


@dataclass(slots=True)
class Component:
    """Places with their frames, the operators among them, and the demands."""

    frames: dict[Place, Frame] = field(default_factory=dict)
    rows: list[Rows] = field(default_factory=list)
    removals: list[Removal] = field(default_factory=list)
    #: Operators without weights, by name; each is asked again with the gauges that were found.
    ties: dict[str, None] = field(default_factory=dict)
    #: Operators with weights at the rim.
    rim: dict[str, None] = field(default_factory=dict)
    #: Affines that were not blocked.
    staying: dict[str, None] = field(default_factory=dict)
    #: All blocked candidates of it, and those that have to stay.
    heads: dict[str, None] = field(default_factory=dict)
    held: dict[str, None] = field(default_factory=dict)
    size: int = 0

    def pin(self, graph: ModelGraph, name: str, why: str) -> None:
        """Nothing that an operator sees has a gauge of its own."""
        op = graph.op(name)
        places: list[Place] = [*op.inputs, *op.outputs, *(Use(name, slot) for slot in range(len(op.inputs)))]
        for place in dict.fromkeys(places):
            frame = self.frames.get(place)
            if frame is not None:
                column = frame.cells.reshape(-1, 1)
                self.rows.append(Rows(("size", "sign", "shift"), column, np.ones(column.shape), why))


class Survey:
    """Walks over what is tied to stuck affines, and collects a :class:`Component` of it."""

    def __init__(self, context: Context, blocked: Iterable[Candidate]) -> None:
        self.context = context
        self.graph = context.graph
        self.candidates = {candidate.head: candidate for candidate in blocked}
        self.member = {op.name: candidate for candidate in self.candidates.values() for op in candidate.ops}
        self.found = Component()
        self.queue: deque[str] = deque()
        self.seen: set[tuple[str, str]] = set()
        #: Operators that stop everything, and why.
        self.blocked: dict[str, str] = {}
        #: Reads by operators with weights, to be asked about shifts when the rest is known.
        self.readers: dict[tuple[str, int], None] = {}

    def run(self, heads: Iterable[str]) -> Component:
        for head in heads:
            self._candidate(self.candidates[head])
        while self.queue:
            self._look(self.queue.popleft())
        for name, why in self.blocked.items():
            self.found.pin(self.graph, name, why)
        self._ask_readers()
        return self.found

    # -- places ----------------------------------------------------------------------------------

    def reach(self, place: Place, axis: int | None, size: int, grid: tuple[tuple[int, int], ...] = ()) -> Frame | None:
        """The frame of a place; None where it has another one already."""
        known = self.found.frames.get(place)
        if known is not None:
            alike = known.size == size and ((known.axis, known.grid) == (axis, grid) or size == 1)
            return known if alike else None
        frame = self.found.frames[place] = Frame(axis, grid, size, self.found.size)
        self.found.size += size
        if isinstance(place, str):
            self.queue.append(place)
        return frame

    def _look(self, tensor: str) -> None:
        """Everybody who sees a tensor that was reached."""
        graph, frame = self.graph, self.found.frames[tensor]
        producer = graph.producer(tensor)
        if producer is None:
            self._pin(frame.cells, f"{tensor} is an input of the model")
        if graph.is_output(tensor):
            self._pin(frame.cells, f"{tensor} is {output_phrase(graph)}")
        for use in list(value_readers(graph, tensor)):
            if use.slot is None:
                self._pin(frame.cells, f"{tensor} is seen by {reader_phrase(graph, use)}")
            else:
                self._read(graph.op(use.op), use.slot)
        if producer is not None:
            self._written(producer, tensor, frame)

    def _pin(self, cells: Cells, why: str, *systems: str) -> None:
        """These cells have no gauge of their own: a = 1, b = 0."""
        column = cells.reshape(-1, 1)
        self.found.rows.append(Rows(systems or ("size", "sign", "shift"), column, np.ones(column.shape), why))

    # -- operators -------------------------------------------------------------------------------

    def _once(self, op: Op, side: str) -> bool:
        key = (op.name, side)
        if key in self.seen:
            return False
        self.seen.add(key)
        return True

    def _block(self, op: Op, why: str) -> None:
        self.blocked.setdefault(op.name, f"{op.display} ({op.type}) {why}")

    def _special(self, op: Op) -> bool:
        """Frozen operators, stuck affines and others that stay."""
        if op.name in self.context.frozen:
            self._block(op, "was asked to stay as it is")
            return True
        if op.name in self.member:
            self._candidate(self.member[op.name])
            return True
        facts, node = facts_of(op), Node(self.graph, op)
        own = facts.as_affine(node)
        if isinstance(own, Refusal):
            return False
        if self._once(op, "affine"):
            self._staying(op, own, op.input(facts.data_slot(node)), op.outputs[0])
        return True

    def _read(self, op: Op, slot: int) -> None:
        if self._special(op):
            return
        frame = self.found.frames[op.input(slot)]
        twice = frame.affine(2.0, 0.0)
        facts = facts_of(op)
        if (facts.grids or not frame.grid) and isinstance(
            facts.absorb_input(Node(self.graph, op), {slot: twice}), NewWeights
        ):
            self.found.rim[op.name] = None
            self.readers[op.name, slot] = None
        elif self._once(op, "tie"):
            self._tie(op)

    def _written(self, op: Op, tensor: str, frame: Frame) -> None:
        if self._special(op):
            return
        if tensor == op.outputs[0] and not frame.grid:
            node, facts = Node(self.graph, op), facts_of(op)
            if isinstance(facts.absorb_output(node, frame.affine(2.0, 1.0)), NewWeights):
                self.found.rim[op.name] = None
                return
            if isinstance(facts.absorb_output(node, frame.affine(2.0, 0.0)), NewWeights):
                self.found.rim[op.name] = None
                self._pin(frame.cells, f"{op.display} ({op.type}) has no bias", "shift")
                return
        if self._once(op, "tie"):
            self._tie(op)

    def _ask_readers(self) -> None:
        """Which operators with weights read a shifted tensor? To ask is dear: it adds up their weights."""
        still = np.zeros(self.found.size, bool)
        for rows in self.found.rows:
            if rows.cells.shape[1] == 1 and "shift" in rows.systems:
                still[rows.cells[:, 0]] = True
        for name, slot in self.readers:
            op = self.graph.op(name)
            frame = self.found.frames[op.input(slot)]
            if still[frame.cells].all():
                continue
            shift = frame.affine(1.0, 1.0)
            taken = facts_of(op).absorb_input(Node(self.graph, op), {slot: shift})
            if isinstance(taken, Refusal):
                self._pin(frame.cells, taken.sentence, "shift")
            elif isinstance(taken, WithResidual):
                self._pin(frame.cells, f"{op.display} ({op.type}) has no bias", "shift")

    # -- affines ---------------------------------------------------------------------------------

    def _candidate(self, candidate: Candidate) -> None:
        if not self._once(candidate.ops[0], "affine"):
            return
        self.found.heads[candidate.head] = None
        total = candidate.total
        axis, size, grid = total.axis, total.size, total.grid
        if axis is None:
            known = self.found.frames.get(candidate.input) or self.found.frames.get(candidate.output)
            if known is not None:
                axis, size, grid = known.axis, known.size, known.grid
            else:
                axis, size = self._channels(candidate.input)
        inside = self.reach(candidate.input, axis, size, grid)
        behind = self.reach(candidate.output, axis, size, grid)
        if inside is None or behind is None:
            for op in candidate.ops:
                self._block(op, "works along other axes")
            return
        scale, shift = (np.broadcast_to(vector, (size,)) for vector in (total.scale, total.shift))
        self.found.removals.append(Removal(candidate, inside.cells, behind.cells, scale, shift))
        self._hold(candidate.ops, scale, shift, inside, behind)

    def _channels(self, tensor: str) -> tuple[int | None, int]:
        """The channel axis of a tensor, for an affine that is the same everywhere."""
        rank = rank_of(self.graph, tensor)
        size = dim_of(self.graph, tensor, 1) if rank is not None and rank > 1 else None
        return (1, size) if size else (None, 1)

    def _staying(self, op: Op, own: Affine, source: str, output: str) -> None:
        known = self.found.frames.get(source) or self.found.frames.get(output)
        assert known is not None, "it was reached from one of the two"
        axis, size, grid = known.axis, known.size, known.grid
        inside, behind = self.reach(source, axis, size, grid), self.reach(output, axis, size, grid)
        fits = own.axis is None or (own.axis, own.size, own.grid) == (axis, size, grid)
        if inside is None or behind is None or not fits or op.name in self.context.idioms:
            self._block(op, "is an affine along other axes, or part of a function that runtimes recognise")
            return
        scale, shift = (np.broadcast_to(vector, (size,)) for vector in (own.scale, own.shift))
        self.found.staying[op.name] = None
        self._hold((op,), scale, shift, inside, behind)

    def _hold(self, ops: tuple[Op, ...], scale: Vector, shift: Vector, inside: Frame, behind: Frame) -> None:
        """What an affine demands while it stays: it must not need more operators than now."""
        op = ops[0]
        facts, node = facts_of(op), Node(self.graph, op)
        if len(ops) > 1 or facts.role is Role.BATCHNORM:
            return  # one BatchNormalization, or two operators, compute any affine
        probe = behind.affine(2.0, 1.0)
        after = facts.absorb_output(node, probe)
        if not isinstance(after, Refusal) and self.context.cost(op, after) == 0:
            return
        cells = np.stack([inside.cells, behind.cells], axis=1)
        if (scale == 1.0).all():
            self._equal(("size", "sign"), cells, f"{op.display} ({op.type}) only adds")
        elif not shift.any():
            factors = np.stack([scale, -np.ones(behind.size)], axis=1)
            self.found.rows.append(Rows(("shift",), cells, factors, f"{op.display} ({op.type}) only multiplies"))
        else:
            self._block(op, "would need another operator")

    def _equal(self, systems: tuple[str, ...], cells: Cells, why: str) -> None:
        self.found.rows.append(Rows(systems, cells, np.tile([1.0, -1.0], (len(cells), 1)), why))

    # -- operators without weights ---------------------------------------------------------------

    def _tie(self, op: Op) -> None:
        """Read the demands of an operator off its facts."""
        tie = _Tie(self, op)
        if not tie.read():
            facts, node = facts_of(op), Node(self.graph, op)
            self._block(op, facts.blocks(node).sentence.removeprefix(f"{op.display} ({op.type}) "))
            return
        self.found.ties[op.name] = None


class _Tie:
    """One operator without weights, asked with labels."""

    def __init__(self, survey: Survey, op: Op) -> None:
        self.survey, self.op = survey, op
        self.graph = survey.graph
        self.node, self.facts = Node(survey.graph, op), facts_of(op)
        self.why = f"{op.display} ({op.type})"
        self.rows: list[Rows] = []
        self.touched: set[Place] = set()

    def read(self) -> bool:
        """Was everything understood?"""
        if not self.facts.grids and self._has_grid():
            return False
        if not self._frame_outputs():
            return False
        framed = self._framed_outputs()
        first = _FIRST_LABEL
        labels: dict[int, Affine] = {}
        cells: list[Cells] = []
        for index, frame in framed.items():
            labels[index] = frame.labels(first)
            cells.append(frame.cells)
            first += frame.size
        known = np.concatenate(cells)
        ways = self.facts.lift(self.node, labels)
        done = self._from_lift(labels, known, ways) if isinstance(ways, list) else self._from_sink()
        if not done and isinstance(ways, list) and self._flowing() == 1:
            # Upward a Flatten tells every pixel from the next, downward it repeats a channel's label for each.
            self.rows, self.touched = [], set()
            done = self._from_sink()
        if done:
            self._pin_strangers()
            self.survey.found.rows += self.rows
        return done

    def _has_grid(self) -> bool:
        frames = self.survey.found.frames
        return any(frames[tensor].grid for tensor in (*self.op.inputs, *self.op.outputs) if tensor in frames)

    def _framed_outputs(self) -> dict[int, Frame]:
        frames = self.survey.found.frames
        return {i: frames[t] for i, t in enumerate(self.op.outputs) if t and t in frames}

    def _frame_outputs(self) -> bool:
        """Frames for the outputs, from those of the inputs where they are not known."""
        if self._framed_outputs() and len(self.op.outputs) == 1:
            return True
        frames = self.survey.found.frames
        for slot, tensor in enumerate(self.op.inputs):
            if not tensor or tensor not in frames or not self.facts.reads_values(slot):
                continue
            sunk = self._sink(slot, frames[tensor])
            if isinstance(sunk, Refusal):
                self._frame_alike(frames[tensor])
                continue
            for index, affine in sunk.affines.items():
                tensor = self.op.outputs[index]
                if tensor and self.survey.reach(tensor, affine.axis, affine.size, affine.grid) is None:
                    return False
            break
        return bool(self._framed_outputs())

    def _frame_alike(self, frame: Frame) -> None:
        """Where a constant has to change along (a bound for each channel), the output may lie as the input does.

        That is a guess: what is lifted from there says whether it is right.
        """
        (output, *others), axis = self.op.outputs, frame.axis
        if others or frame.grid or axis is None or not any(map(self.graph.constant, self.op.inputs)):
            return
        if dim_of(self.graph, output, axis) == frame.size:
            self.survey.reach(output, axis, frame.size)

    def _sink(self, slot: int, frame: Frame) -> Crossing | Refusal:
        """Labels on one input; on all that flow through, where one alone does not pass."""
        label = frame.labels(_FIRST_LABEL)
        sunk = self.facts.sink(self.node, {slot: label})
        if isinstance(sunk, Refusal):
            flowing = [s for s, t in enumerate(self.op.inputs) if t and self.graph.constant(t) is None]
            sunk = self.facts.sink(self.node, dict.fromkeys(flowing, label))
        return sunk

    def _flowing(self) -> int:
        """How many of its inputs are tensors whose values matter."""
        slots = (s for s, t in enumerate(self.op.inputs) if t and self.graph.constant(t) is None)
        return sum(1 for slot in slots if self.facts.reads_values(slot))

    def _lifted(self, affines: Mapping[int, Affine]) -> list[Crossing]:
        ways = self.facts.lift(self.node, affines)
        return ways if isinstance(ways, list) else []

    def _place(self, slot: int) -> Place | None:
        """The tensor in a slot, or the constant if it can carry a gauge."""
        tensor = self.op.input(slot)
        if self.graph.constant(tensor) is None:
            return tensor
        return Use(self.op.name, slot)

    def _cells(self, slot: int, affine: Affine) -> Cells | None:
        """The cells of the place in a slot, where labels came out."""
        place = self._place(slot)
        if place is None:
            return None
        if isinstance(place, Use):
            param = self.graph.constant(self.op.input(slot))
            if param is None or not param.is_float or mapped(param, affine) is None:
                return None
        frame = self.survey.found.frames.get(place)
        if frame is None or affine.axis is not None or frame.size == 1:
            frame = self.survey.reach(place, affine.axis, affine.size, affine.grid)
        if frame is None:
            return None
        self.touched.add(place)
        return frame.cells

    def _from_lift(self, labels: dict[int, Affine], known: Cells, ways: list[Crossing]) -> bool:
        parts: list[list[tuple[int, Cells, Cells]]] = []
        for way in ways:
            found = []
            for slot, affine in way.affines.items():
                cells = self._cells(slot, affine)
                behind = _labelled(affine.scale, known.size)
                if cells is None or behind is None:
                    return False
                cells, behind = np.broadcast_arrays(cells, behind)
                found.append((slot, cells[behind >= 0], known[behind[behind >= 0]]))
            parts.append(found)
        if not parts:
            return False
        if len(parts) == 1:
            slots = {slot: (cells, behind) for slot, cells, behind in parts[0]}
        else:
            if any(len(found) != 1 for found in parts):
                return False
            slots = {slot: (cells, behind) for ((slot, cells, behind),) in parts}
            if not self._add_up(("size", "sign"), known, {slot: (*pair, 1.0) for slot, pair in slots.items()}):
                return False
        self._signs(labels, known, slots)
        return self._shifts(labels, known, slots, alike=len(parts) == 1)

    def _signs(self, labels: dict[int, Affine], known: Cells, slots: dict[int, tuple[Cells, Cells]]) -> None:
        negative = {index: replace(a, scale=-a.scale) for index, a in labels.items()}
        if not self._lifted(negative):
            for cells in (known, *(cells for cells, _ in slots.values())):
                self._pin(cells, "sign")

    def _shifts(
        self, labels: dict[int, Affine], known: Cells, slots: dict[int, tuple[Cells, Cells]], *, alike: bool
    ) -> bool:
        """What it does to shifts, and to scales where every operand has the output's (``alike``)."""
        moved = {i: replace(a, scale=np.ones(a.size), shift=a.scale) for i, a in labels.items()}
        ways = [
            {slot: affine for slot, affine in way.affines.items() if not affine.is_identity}
            for way in self._lifted(moved)
        ]
        factors: dict[int, float] = {}
        for way in ways:
            for slot, affine in way.items():
                factor = self._factor(affine, labels, slots.get(slot), known)
                if factor is None:
                    ways = []
                    break
                factors[slot] = factor
        # Of two tensors without a shift both have the same: one equation for all that is alike, where there can be.
        same = {slot for slot in slots if not ways or (len(ways) == 1 and factors.get(slot) == 1.0)} if alike else set()
        for slot, (cells, behind) in slots.items():
            if alike:
                self._equal(("size", "sign", "shift") if slot in same else ("size", "sign"), behind, cells)
            if not ways and slot not in same:
                self._pin(cells, "shift")
            if len(ways) == 1 and slot in factors and slot not in same:
                rows = np.stack([behind, cells], axis=1)
                self.rows.append(Rows(("shift",), rows, np.tile([factors[slot], -1.0], (len(rows), 1)), self.why))
        if not ways:
            self._pin(known, "shift")
        if len(ways) < 2:
            return True
        terms = {slot: (*slots[slot], 1.0 / factors[slot]) for slot in factors}
        return all(len(way) == 1 for way in ways) and self._add_up(("shift",), known, terms)

    @staticmethod
    def _factor(
        affine: Affine, labels: dict[int, Affine], pair: tuple[Cells, Cells] | None, known: Cells
    ) -> float | None:
        """What a shift is multiplied by on its way from the output to this operand."""
        if pair is None or len(pair[0]) == 0:
            return None
        values = np.concatenate([label.scale for label in labels.values()])
        order = np.argsort(known)
        behind = values[order[np.searchsorted(known[order], pair[1])]]
        shift = affine.shift[affine.shift != 0]
        if shift.size != behind.size:
            if shift.size != 1:
                return None
            shift = np.broadcast_to(shift, behind.shape)
        ratio = shift / behind
        factor = float(ratio[0])
        return factor if factor and np.allclose(ratio, factor, rtol=1e-9) else None

    def _add_up(self, systems: tuple[str, ...], known: Cells, terms: dict[int, tuple[Cells, Cells, float]]) -> bool:
        """The output's is the sum of the operands': every operand has all of its channels."""
        columns, factors = [known], [-1.0]
        for cells, behind, factor in terms.values():
            order = np.argsort(behind)
            if not np.array_equal(behind[order], np.sort(known)):
                return False
            place = np.empty(known.size, np.intp)
            place[np.argsort(known)] = cells[order]
            columns.append(place)
            factors.append(factor)
        rows = np.stack(columns, axis=1)
        self.rows.append(Rows(systems, rows, np.tile(factors, (len(rows), 1)), self.why))
        return True

    def _from_sink(self) -> bool:
        """What can be told downward only: an operator that repeats channels."""
        frames = self.survey.found.frames
        slots = [s for s, t in enumerate(self.op.inputs) if t in frames and self.facts.reads_values(s)]
        if len(slots) != 1:
            return False
        (slot,) = slots
        frame = frames[self.op.input(slot)]
        label = frame.labels(_FIRST_LABEL)
        sunk = self.facts.sink(self.node, {slot: label})
        if isinstance(sunk, Refusal):
            return False
        self.touched.add(self.op.input(slot))
        negative = self.facts.sink(self.node, {slot: replace(label, scale=-label.scale)})
        moved = self.facts.sink(self.node, {slot: replace(label, scale=np.ones(frame.size), shift=label.scale)})
        for index, affine in sunk.affines.items():
            if not self.op.outputs[index]:
                continue
            behind = self._framed_outputs().get(index)
            before = _labelled(affine.scale, frame.size)
            if behind is None or before is None:
                return False
            cells = np.broadcast_to(frame.cells[before], (behind.size,))
            same = not isinstance(moved, Refusal) and np.array_equal(moved.affines[index].shift, affine.scale)
            self._equal(("size", "sign", "shift"), behind.cells, cells)
            if not same:
                self._pin(behind.cells, "shift")
            if isinstance(negative, Refusal):
                self._pin(behind.cells, "sign")
        return True

    def _equal(self, systems: tuple[str, ...], first: Cells, second: Cells) -> None:
        rows = np.stack([first, second], axis=1)
        self.rows.append(Rows(systems, rows, np.tile([1.0, -1.0], (len(rows), 1)), self.why))

    def _pin(self, cells: Cells, system: str) -> None:
        column = np.asarray(cells).reshape(-1, 1)
        why = f"{self.why} lets no {'negative scale' if system == 'sign' else 'shift'} through"
        self.rows.append(Rows((system,), column, np.ones(column.shape), why))

    def _pin_strangers(self) -> None:
        """Tensors that it reads in another way."""
        frames = self.survey.found.frames
        for slot, tensor in enumerate(self.op.inputs):
            if tensor and tensor not in self.touched and tensor in frames and self.facts.reads_values(slot):
                for system in ("size", "sign", "shift"):
                    self._pin(frames[tensor].cells, system)


def _labelled(scale: Vector, count: int) -> Cells | None:
    """Which label each entry is, -1 for none; None where a number is no label."""
    index = np.rint(scale).astype(np.intp) - _FIRST_LABEL
    if (np.rint(scale) != scale).any() or (index >= count).any() or (index < -1).any():
        return None
    return index
