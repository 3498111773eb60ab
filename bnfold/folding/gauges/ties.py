"""What an operator without weights demands of the gauges around it, read off its facts with labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from bnfold.affine import Affine, Vector
from bnfold.folding.gauges.component import Cells, Component, Frame, Place, Rows
from bnfold.graph import ModelGraph, Op, Use
from bnfold.operators import Node, dim_of, facts_of
from bnfold.operators.answers import Crossing, NewWeights
from bnfold.operators.passing import Passing
from bnfold.operators.weights import mapped
from bnfold.refusal import Refusal

#: Cells of one operand, and for each the number of the label that arrived there.
_Ends = tuple[Cells, Cells]
#: Labels begin here: 1 is what carries nothing.
_FIRST_LABEL = 2


class Tie:
    """One operator without weights, asked with labels."""

    def __init__(self, graph: ModelGraph, component: Component, op: Op) -> None:
        self.graph, self.component, self.op = graph, component, op
        self.node, self.facts = Node(graph, op), facts_of(op)
        self.why = f"{op.display} ({op.type})"
        self.rows: list[Rows] = []
        self.touched: set[Place] = set()

    def read(self) -> bool:
        """Was everything understood?"""
        if not self.facts.grids and self._has_grid():
            return False
        if self._kind in self.component.rigid and isinstance(self.facts, Passing) and self._passes_sizes():
            self.component.rows += self.rows
            return True
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
        known = np.concatenate(cells) if len(cells) > 1 else cells[0]
        done = self._kind not in self.component.rigid and self._from_all(labels, known)
        if not done:
            ways = self.facts.lift(self.node, labels)
            done = self._from_lift(labels, known, ways) if isinstance(ways, list) else self._from_sink()
            if not done and isinstance(ways, list) and self._flowing() == 1:
                # Upward a Flatten tells every pixel from the next, downward it repeats a channel's label for each.
                self.rows, self.touched = [], set()
                done = self._from_sink()
        if done:
            self._pin_strangers()
            self.component.rows += self.rows
        return done

    def _passes_sizes(self) -> bool:
        """What is known without asking of one that passes on what it is given: nothing but sizes."""
        (source,), (output,) = self.op.inputs, self.op.outputs
        frames, reach = self.component.frames, self.component.reach
        frame = frames.get(output) or frames[source]
        inside, behind = (reach(tensor, frame.axis, frame.size, frame.grid) for tensor in (source, output))
        if inside is None or behind is None or self.graph.constant(source) is not None:
            return False
        self._equal(("size", "sign", "shift"), behind.cells, inside.cells)
        self._pin(behind.cells, "sign")
        self._pin(behind.cells, "shift")
        return True

    def _from_all(self, labels: dict[int, Affine], known: Cells) -> bool:
        """Scales, negative at that, and shifts asked about at once: most operators without weights let all pass."""
        ways = self._lifted({index: Affine(-a.scale, a.scale, a.axis, a.grid) for index, a in labels.items()})
        if not ways or (len(ways) > 1 and len(self.node.op.outputs) > 1):
            return False
        shifted: list[dict[int, Affine]] = []
        for way in ways:
            if way.affines.keys() != ways[0].affines.keys():
                return False
            if any((a.scale != ways[0].affines[slot].scale).any() for slot, a in way.affines.items() if way != ways[0]):
                return False
            shifted.append({slot: a for slot, a in way.affines.items() if not a.is_scale})
        if len(ways) > 1 and any(len(way) != 1 for way in shifted):
            return False  # shifts go to one operand, or to all that there are
        slots = self._slots(ways[0], known, sign=-1.0)
        if slots is None:
            self.touched.clear()
            return False
        return self._tied(shifted, known, slots, alike=True)

    @property
    def _kind(self) -> tuple[str, str] | None:
        """What an operator without attributes or constants is: another one that is the same answers the same."""
        op = self.op
        return None if op.attributes or len(op.inputs) > 1 else (op.domain, op.type)

    def _has_grid(self) -> bool:
        frames = self.component.frames
        return any(frames[tensor].grid for tensor in (*self.op.inputs, *self.op.outputs) if tensor in frames)

    def _framed_outputs(self) -> dict[int, Frame]:
        frames = self.component.frames
        return {i: frames[t] for i, t in enumerate(self.op.outputs) if t and t in frames}

    def _frame_outputs(self) -> bool:
        """Frames for the outputs, from those of the inputs where they are not known."""
        if self._framed_outputs() and len(self.op.outputs) == 1:
            return True
        frames = self.component.frames
        for slot, tensor in enumerate(self.op.inputs):
            if not tensor or tensor not in frames or not self.facts.reads_values(slot):
                continue
            sunk = self._sink(slot, frames[tensor])
            if isinstance(sunk, Refusal):
                self._frame_alike(frames[tensor])
                continue
            for index, affine in sunk.affines.items():
                tensor = self.op.outputs[index]
                if tensor and self.component.reach(tensor, affine.axis, affine.size, affine.grid) is None:
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
            self.component.reach(output, axis, frame.size)

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
        frame = self.component.frames.get(place)
        if frame is None or affine.axis is not None or frame.size == 1:
            frame = self.component.reach(place, affine.axis, affine.size, affine.grid)
        if frame is None:
            return None
        self.touched.add(place)
        return frame.cells

    def _slots(self, way: Crossing, known: Cells, sign: float = 1.0) -> dict[int, _Ends] | None:
        """For each operand its cells and which of the labels arrived there."""
        found = {}
        for slot, affine in way.affines.items():
            cells = self._cells(slot, affine)
            labels = _labelled(sign * affine.scale, known.size)
            if cells is None or labels is None:
                return None
            if len(cells) != len(labels):
                cells, labels = np.broadcast_arrays(cells, labels)
            if np.count_nonzero(labels < 0):
                cells, labels = cells[labels >= 0], labels[labels >= 0]
            found[slot] = cells, labels
        return found

    def _from_lift(self, labels: dict[int, Affine], known: Cells, ways: list[Crossing]) -> bool:
        parts: list[dict[int, _Ends]] = []
        for way in ways:
            found = self._slots(way, known)
            if found is None:
                return False
            parts.append(found)
        if not parts:
            return False
        slots = parts[0]
        if len(parts) > 1:
            if any(len(found) != 1 for found in parts):
                return False
            slots = {slot: ends for found in parts for slot, ends in found.items()}
            if not self._add_up(("size", "sign"), known, {slot: (*ends, 1.0) for slot, ends in slots.items()}):
                return False
        rigid = self._kind in self.component.rigid
        signs = not rigid and self._lifted({index: replace(a, scale=-a.scale) for index, a in labels.items()})
        if not signs:
            for cells in (known, *(cells for cells, _ in slots.values())):
                self._pin(cells, "sign")
        moved = {i: replace(a, scale=np.ones(a.size), shift=a.scale) for i, a in labels.items()}
        shifted = [
            {slot: affine for slot, affine in way.affines.items() if not affine.is_identity}
            for way in ([] if rigid else self._lifted(moved))
        ]
        if self._kind is not None and not signs and not shifted:
            self.component.rigid.add(self._kind)
        return self._tied(shifted, known, slots, alike=len(parts) == 1)

    def _tied(self, ways: list[dict[int, Affine]], known: Cells, slots: dict[int, _Ends], *, alike: bool) -> bool:
        """What it does to shifts, and to scales where every operand has the output's (``alike``)."""
        factors: dict[int, float] = {}
        for way in ways:
            for slot, affine in way.items():
                factor = self._factor(affine, slots.get(slot))
                if factor is None:
                    ways = []
                    break
                factors[slot] = factor
        # Of two tensors without a shift both have the same: one equation for all that is alike, where there can be.
        same = {slot for slot in slots if not ways or (len(ways) == 1 and factors.get(slot) == 1.0)} if alike else set()
        for slot, (cells, labels) in slots.items():
            behind = known[labels]
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
    def _factor(affine: Affine, ends: _Ends | None) -> float | None:
        """What a shift is multiplied by on its way from the output to this operand."""
        if ends is None or len(ends[0]) == 0:
            return None
        behind = ends[1] + float(_FIRST_LABEL)
        shift = affine.shift[affine.shift != 0]
        if shift.size not in (1, behind.size):
            return None
        if not np.count_nonzero(shift != behind):
            return 1.0
        ratio = shift / behind
        factor = float(ratio[0])
        return factor if factor and (np.abs(ratio - factor) <= 1e-9 * abs(factor)).all() else None

    def _add_up(self, systems: tuple[str, ...], known: Cells, terms: dict[int, tuple[Cells, Cells, float]]) -> bool:
        """The output's is the sum of the operands': every operand has all of its channels."""
        columns, factors, every = [known], [-1.0], np.arange(known.size)
        for cells, labels, factor in terms.values():
            order = np.argsort(labels)
            if not np.array_equal(labels[order], every):
                return False
            columns.append(cells[order])
            factors.append(factor)
        rows = np.stack(columns, axis=1)
        self.rows.append(Rows(systems, rows, np.tile(factors, (len(rows), 1)), self.why))
        return True

    def _from_sink(self) -> bool:
        """What can be told downward only: an operator that repeats channels."""
        frames = self.component.frames
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
            if behind is None or before is None or not behind.fits(affine):
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
        self.rows.append(Rows.equal(systems, first, second, self.why))

    def _pin(self, cells: Cells, system: str) -> None:
        why = f"{self.why} lets no {'negative scale' if system == 'sign' else 'shift'} through"
        self.rows.append(Rows.still((system,), cells, why))

    def _pin_strangers(self) -> None:
        """Tensors that it reads in another way, and not with weights."""
        frames = self.component.frames
        for slot, tensor in enumerate(self.op.inputs):
            if not tensor or tensor in self.touched or tensor not in frames or not self.facts.reads_values(slot):
                continue
            if not takes_scale(self.graph, self.op, slot, frames[tensor]):
                for system in ("size", "sign", "shift"):
                    self._pin(frames[tensor].cells, system)


def takes_scale(graph: ModelGraph, op: Op, slot: int, frame: Frame) -> bool:
    """Does an operator take in a scale in front of it, along the channels of ``frame``, with weights of its own?"""
    facts = facts_of(op)
    if not facts.answers("absorb_input") or (frame.grid and not facts.grids):
        return False
    return isinstance(facts.absorb_input(Node(graph, op), {slot: frame.affine(2.0, 0.0)}), NewWeights)


def _labelled(scale: Vector, count: int) -> Cells | None:
    """Which label each entry is, -1 for none; None where a number is no label."""
    index = scale.astype(np.intp) - _FIRST_LABEL
    known = (index >= -1) & (index < count) & (index + _FIRST_LABEL == scale)
    return index if np.count_nonzero(known) == known.size else None
