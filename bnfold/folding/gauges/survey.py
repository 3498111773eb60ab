"""The walk over what is tied to blocked affines: who writes and who reads each tensor, and what that demands."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bnfold.affine import Affine, Vector
from bnfold.folding.candidates import Candidate
from bnfold.folding.gauges.component import ONE_NUMBER, Axes, Cells, Component, Frame, Removal, Rows, by_channels
from bnfold.folding.gauges.ties import Tie, takes_scale
from bnfold.folding.moves import Context
from bnfold.folding.observers import input_phrase, output_phrase, reader_phrase
from bnfold.graph import ModelGraph, Op
from bnfold.operators import Node, Role, dim_of, facts_of, rank_of, value_readers
from bnfold.operators.answers import NewWeights, WithResidual
from bnfold.refusal import Refusal


class Survey:
    """Walks over what is tied to stuck affines, and collects a :class:`Component` of it."""

    def __init__(self, context: Context, blocked: Mapping[str, Candidate], *, shifts: bool = True) -> None:
        """``blocked`` has each candidate under the name of every operator of it.

        Without ``shifts`` nobody asks which weights could take one, which is dear: for who is after scales alone.
        """
        self.context = context
        self.graph = context.graph
        self.member = blocked
        self.shifts = shifts
        self.found = Component()
        self.seen: set[tuple[str, str]] = set()
        #: Operators that stop everything, and why.
        self.blocked: dict[str, str] = {}
        #: Operators whose weights write the gauge of their output, whatever they make of what they read.
        self.writers: set[str] = set()
        #: Reads by operators with weights, to be asked about shifts when the rest is known.
        self.readers: dict[tuple[str, int], None] = {}

    def run(self, start: Candidate, axes: Axes) -> Component:
        """What is tied to one of them along these axes; what affines demand while they stay is pending."""
        self._candidate(start, axes)
        return self._walk()

    def walk(self) -> Component:
        """What is tied to the places that were reached."""
        component = self._walk()
        component.ask_pending()
        return component

    def _walk(self) -> Component:
        while self.found.reached:
            self._look(self.found.reached.popleft())
        for name, why in self.blocked.items():
            self.found.pin(self.graph, name, why, writes=name in self.writers)
        if self.shifts:
            self._ask_readers()
        return self.found

    # -- places ----------------------------------------------------------------------------------

    def _look(self, tensor: str) -> None:
        """Everybody who sees a tensor that was reached."""
        graph, frame = self.graph, self.found.frames[tensor]
        producer = graph.producer(tensor)
        if producer is None:
            self._pin(frame.cells, f"{tensor} is {input_phrase(graph, tensor)}")
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
        self.found.rows.append(Rows.still(systems or ("size", "sign", "shift"), cells, why))

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
        facts = facts_of(op)
        if not facts.answers("as_affine"):
            return False
        node = Node(self.graph, op)
        own = facts.as_affine(node)
        if isinstance(own, Refusal):
            return False
        if self._once(op, "affine"):
            self._staying(op, own, op.input(facts.data_slot(node)), op.outputs[0])
        return True

    def _read(self, op: Op, slot: int) -> None:
        if self._special(op):
            return
        if takes_scale(self.graph, op, slot, self.found.frames[op.input(slot)]):
            self.found.rim[op.name] = None
            self.readers[op.name, slot] = None
        elif self._once(op, "tie"):
            self._tie(op)

    def _written(self, op: Op, tensor: str, frame: Frame) -> None:
        if self._special(op):
            return
        facts = facts_of(op)
        if facts.answers("absorb_output") and tensor == op.outputs[0] and not frame.grid:
            node = Node(self.graph, op)
            if isinstance(facts.absorb_output(node, frame.affine(2.0, 1.0)), NewWeights):
                self.found.rim[op.name] = None
                self.writers.add(op.name)
                return
            if isinstance(facts.absorb_output(node, frame.affine(2.0, 0.0)), NewWeights):
                self.found.rim[op.name] = None
                self.writers.add(op.name)
                self._pin(frame.cells, f"{op.display} ({op.type}) has no bias", "shift")
                return
        if self._once(op, "tie"):
            self._tie(op)

    def _ask_readers(self) -> None:
        """Which operators with weights read a shifted tensor?"""
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
            taken = facts_of(op).would_absorb_input(Node(self.graph, op), {slot: shift})
            if isinstance(taken, Refusal):
                self._pin(frame.cells, taken.sentence, "shift")
            elif isinstance(taken, WithResidual):
                self._pin(frame.cells, f"{op.display} ({op.type}) has no bias", "shift")

    # -- affines ---------------------------------------------------------------------------------

    def _candidate(self, candidate: Candidate, axes: Axes | None = None) -> None:
        if not self._once(candidate.ops[0], "affine"):
            return
        total = candidate.total
        axis, size, grid = axes or own_axes(self.graph, candidate)
        known = self.found.frames.get(candidate.input) or self.found.frames.get(candidate.output)
        if total.axis is None and known is not None:
            axis, size, grid = known.axis, known.size, known.grid
        self.found.heads[candidate.head] = axis, size, grid
        if size > 1 and known is not None and known.size == 1 and self._candidate_between_numbers(candidate):
            return
        inside = self.found.reach(candidate.input, axis, size, grid)
        behind = self.found.reach(candidate.output, axis, size, grid)
        if inside is None or behind is None:
            self.found.heads[candidate.head] = None
            self.found.is_askew = True
            for op in candidate.ops:
                self._block(op, "works along other axes")
            return
        scale, shift = (np.broadcast_to(vector, (size,)) for vector in (total.scale, total.shift))
        self.found.removals.append(Removal(candidate, inside.cells, behind.cells, scale, shift))
        self._hold(candidate.ops, total.scale, total.shift, inside, behind)

    def _candidate_between_numbers(self, candidate: Candidate) -> bool:
        """Can it stay between two tensors whose gauges are one number each, whatever axes it works along?"""
        inside, behind = (self.found.reach(tensor, *ONE_NUMBER) for tensor in (candidate.input, candidate.output))
        if inside is None or behind is None:
            return False
        self.found.is_askew = True
        self.found.heads[candidate.head] = self.found.held[candidate.head] = None
        self._hold(candidate.ops, candidate.total.scale, candidate.total.shift, inside, behind)
        return True

    def _staying(self, op: Op, own: Affine, source: str, output: str) -> None:
        known = self.found.frames.get(source) or self.found.frames.get(output)
        assert known is not None, "it was reached from one of the two"
        axis, size, grid = known.axis, known.size, known.grid
        inside, behind = self.found.reach(source, axis, size, grid), self.found.reach(output, axis, size, grid)
        fits = known.fits(own)
        self.found.is_askew |= not fits
        if inside is None or behind is None or not (fits or size == 1) or op.name in self.context.idioms:
            self._block(op, "is an affine along other axes, or part of a function that runtimes recognise")
            return
        self.found.staying[op.name] = None
        self._hold((op,), own.scale, own.shift, inside, behind)

    def _hold(self, ops: tuple[Op, ...], scale: Vector, shift: Vector, inside: Frame, behind: Frame) -> None:
        """What an affine demands while it stays: it must not need more operators than now."""
        if len(ops) == 1 and facts_of(ops[0]).role is not Role.BATCHNORM:
            # One BatchNormalization, or two operators, compute any affine.
            self.found.pending.append(lambda: self._hold_one(ops[0], scale, shift, inside, behind))

    def _hold_one(self, op: Op, scale: Vector, shift: Vector, inside: Frame, behind: Frame) -> None:
        if op.name in self.blocked:
            return  # it demands everything already
        if scale.size == 1 and behind.grid:
            self._stay(op, "would become as large as a tensor")
            return
        facts, node = facts_of(op), Node(self.graph, op)
        # A map that leaves it neither a scale nor a shift alone. What adds one number does not become a
        # BatchNormalization for the sake of another.
        factor = 1.0 + (1.0 / np.abs(scale[scale != 0])).max(initial=1.0)
        summand = 1.0 + factor * np.abs(shift).max()
        probe = Affine.of(factor, summand, None) if scale.size == 1 else behind.affine(factor, summand)
        after = facts.absorb_output(node, probe)
        if not isinstance(after, Refusal) and self.context.cost(op, after) == 0:
            return
        if (scale == 1.0).all():
            why = f"{op.display} ({op.type}) only adds"
            self.found.rows.append(Rows.equal(("size", "sign"), inside.cells, behind.cells, why))
        elif not shift.any():
            why = f"{op.display} ({op.type}) only multiplies"
            if scale.size > behind.size:  # different multiples of one number
                self._pin(np.append(inside.cells, behind.cells), why, "shift")
                return
            cells = np.stack([inside.cells, behind.cells], axis=1)
            factors = np.stack([np.broadcast_to(scale, behind.size), -np.ones(behind.size)], axis=1)
            self.found.rows.append(Rows(("shift",), cells, factors, why))
        else:
            self._stay(op, "would need another operator")

    def _stay(self, op: Op, why: str) -> None:
        self._block(op, why)
        self.found.pin(self.graph, op.name, self.blocked[op.name])

    # -- operators without weights ---------------------------------------------------------------

    def _tie(self, op: Op) -> None:
        """Read the demands of an operator off its facts."""
        tie = Tie(self.graph, self.found, op)
        if not tie.read():
            facts, node = facts_of(op), Node(self.graph, op)
            self._block(op, facts.blocks(node).sentence.removeprefix(f"{op.display} ({op.type}) "))
            return
        self.found.ties[op.name] = None


def own_axes(graph: ModelGraph, candidate: Candidate) -> Axes:
    """Axis, channels and grid along which an affine is looked at; one that is the same everywhere by channels."""
    total = candidate.total
    return by_channels(graph, candidate.input) if total.axis is None else (total.axis, total.size, total.grid)


def axes_to_try(graph: ModelGraph, candidate: Candidate) -> tuple[Axes, ...]:
    """The axes along which to look at an affine, one after the other as long as nothing goes.

    The channels of one that is the same everywhere may lie on the last axis as well, and as one number it may cross
    what mixes them.
    """
    own = own_axes(graph, candidate)
    if candidate.total.axis is not None or own == ONE_NUMBER:
        return (own,)
    last = (rank_of(graph, candidate.input) or 0) - 1
    size = dim_of(graph, candidate.input, last)
    return tuple(dict.fromkeys([own, (last, size, ()) if size else own, ONE_NUMBER]))
