"""Equalise a graph: what may be scaled, by how much, and the change."""

from __future__ import annotations

import numpy as np

from bnfold.affine import Affine, Vector
from bnfold.equalization.levelling import Problem, level
from bnfold.equalization.plan import EqualizationPlan, LayerRanges, ScaledTensor, UnscaledTensor
from bnfold.equalization.variables import Variables, variables_of
from bnfold.equalization.weight_ranges import Link, Table, channel_table
from bnfold.folding.gauges.carrying import Carrier, Change
from bnfold.folding.gauges.component import Cells, Component, Place, Rows
from bnfold.folding.gauges.solution import Choice
from bnfold.folding.gauges.survey import Survey
from bnfold.folding.targets import Folder
from bnfold.graph import ModelGraph, Op
from bnfold.operators import as_affine, linear_bias
from bnfold.operators.answers import NewWeights
from bnfold.operators.base import Node, facts_of
from bnfold.operators.linear import Layout
from bnfold.operators.patterns import channel_ranges, is_quantized, linear_layout, spread_bits

#: Operators that may turn out to refuse after all before a graph is left as it is.
_MAX_FAULTS = 32


def equalize_graph(graph: ModelGraph, *, exact: bool = False) -> tuple[ModelGraph, EqualizationPlan]:
    """A copy of a folded ``graph`` with level weight ranges, and what was done.

    Every tensor between linear operators that nothing ties to an input, an output or a nonlinear function gets
    positive scales, one a channel, which its writer and its readers take into their weights: the model computes the
    same. They are powers of two, so that float outputs stay the same to the bit where nothing over- or underflows,
    or with ``exact`` what levels best. A model that is quantised already is left alone.
    """
    copy = graph.copy()
    note = quantized_note(copy)
    if note:
        return copy, EqualizationPlan(notes=(note,), exact=exact)
    plans = [_Equalizer(inner, scope, exact).run() for scope, inner in _scopes(copy)]
    return copy, EqualizationPlan(
        layers=tuple(item for plan in plans for item in plan.layers),
        scaled=tuple(item for plan in plans for item in plan.scaled),
        unscaled=tuple(item for plan in plans for item in plan.unscaled),
        notes=tuple(dict.fromkeys(item for plan in plans for item in plan.notes)),
        exact=exact,
        changed={old: new for plan in plans for old, new in plan.changed.items()},
    )


def quantized_note(graph: ModelGraph) -> str:
    """Why a model that is quantised already is left alone; empty for any other."""
    name = is_quantized(graph)
    return f"the model is quantised already ({name}): its scales are fixed, so it stays as it is" if name else ""


def _scopes(graph: ModelGraph, scope: str = "") -> list[tuple[str, ModelGraph]]:
    """The graph and its subgraphs, innermost first, with their paths as in a plan of folding."""
    found = []
    for op in graph.ops():
        for key, body in op.subgraphs.items():
            found += _scopes(body, f"{scope}/{op.name}/{key}" if scope else f"{op.name}/{key}")
    return [*found, (scope, graph)]


class _Equalizer:
    """One graph, changed in place."""

    def __init__(self, graph: ModelGraph, scope: str, exact: bool) -> None:
        self.graph, self.scope, self.exact = graph, scope, exact
        graph.complete_shapes()
        self.folder = Folder(graph, (), scope)
        self.layouts: dict[str, Layout] = {}
        for op in graph.ops():
            layout = linear_layout(graph, op)
            if layout is not None:
                self.layouts[op.name] = layout

    def run(self) -> EqualizationPlan:
        before = self._ranges()
        component = self._survey()
        for _ in range(_MAX_FAULTS):
            variables = variables_of(component)
            scales, converged = level(self._problem(component, variables), exact=self.exact)
            gauges = _gauges(component, variables, scales)
            change = Carrier(self.folder.context, component, {}, Choice(gauges=gauges)).run()
            if isinstance(change, Change):
                break
            component.pin(self.graph, change.op, change.refusal.sentence)
        else:
            return EqualizationPlan(notes=("too many operators refuse their new weights: nothing was equalised",))
        rename = self._carry_out(change)
        after = self._ranges()
        return EqualizationPlan(
            layers=tuple(self._layer(name, before[name], after[name]) for name in before if before[name].size > 1),
            scaled=tuple(_scaled(place, affine, rename) for place, affine in gauges.items() if isinstance(place, str)),
            unscaled=tuple(self._unscaled(component, variables)),
            notes=() if converged else ("equalisation stopped before all channels were level",),
            changed=rename,
        )

    # -- what may be scaled ----------------------------------------------------------------------

    def _survey(self) -> Component:
        survey = Survey(self.folder.context, {}, shifts=False)
        for name, layout in self.layouts.items():
            op = self.graph.op(name)
            if layout.out_axis is not None and op.outputs[0] and not self.graph.is_output(op.outputs[0]):
                survey.found.reach(op.outputs[0], layout.out_axis, layout.out_channels)
        component = survey.walk()
        for name in component.rim:
            if not self._fits(component, self.graph.op(name)):
                component.pin(
                    self.graph, name, f"{self._title(name)} has weights whose ranges cannot be told by channel"
                )
        for name in component.staying:
            self._hold(component, self.graph.op(name))
        return component

    def _fits(self, component: Component, op: Op) -> bool:
        """Do its channels lie as its weights have them, and do these weights take scales in from both sides?"""
        layout, node, facts = self.layouts.get(op.name), Node(self.graph, op), facts_of(op)
        if layout is None:
            return False
        behind, before = component.frames.get(op.outputs[0]), component.frames.get(op.input(layout.in_slot))
        for frame, axis, channels in (
            (behind, layout.out_axis, layout.out_channels),
            (before, layout.in_axis, layout.in_channels),
        ):
            if frame and frame.size > 1 and (frame.axis, frame.size, frame.grid) != (axis, channels, ()):
                return False
        # A separable convolution has two weights, one for either side.
        taken = [facts.absorb_output(node, behind.affine(2.0, 0.0))] if behind else []
        taken += [facts.absorb_input(node, {layout.in_slot: before.affine(2.0, 0.0)})] if before else []
        return all(isinstance(new, NewWeights) and layout.weight_slot in new.inputs for new in taken)

    def _hold(self, component: Component, op: Op) -> None:
        """An affine that folding left: a plain scale or shift lets scales pass, any other keeps them away."""
        node, facts = Node(self.graph, op), facts_of(op)
        own = facts.as_affine(node)
        assert isinstance(own, Affine)
        if not (own.is_scale or own.is_shift):
            component.pin(self.graph, op.name, f"{self._title(op.name)} stays after folding and is no layer of weights")
            return
        first, second = (component.frames[tensor].cells for tensor in (op.input(facts.data_slot(node)), op.outputs[0]))
        pairs = np.stack([first, second], axis=1)
        component.rows.append(Rows(("size",), pairs, np.tile([1.0, -1.0], (len(pairs), 1)), self._title(op.name)))

    def _title(self, name: str) -> str:
        op = self.graph.op(name)
        return f"{op.display} ({op.type})"

    # -- by how much -----------------------------------------------------------------------------

    def _problem(self, component: Component, variables: Variables) -> Problem:
        problem = Problem(variables.count)
        for name in component.rim:
            op, layout = self.graph.op(name), self.layouts.get(name)
            if layout is None:
                continue  # it was pinned
            outs = self._of(component, variables, op.outputs[0], layout.out_channels)
            ins = self._of(component, variables, op.input(layout.in_slot), layout.in_channels)
            if not outs.any() and not ins.any():
                continue
            problem.links.append(Link.of(outs, ins, self._table(name)))
            problem.add_block(outs[outs > 0])
            bias = linear_bias(self.graph, op)
            if bias is not None and bias.size in (1, layout.out_channels):
                problem.biases.append((outs, _logs(np.broadcast_to(bias.exact().reshape(-1), outs.shape))))
        for name in component.staying:
            op = self.graph.op(name)
            own = as_affine(self.graph, op)
            assert isinstance(own, Affine)
            outs = variables.of[component.frames[op.outputs[0]].cells]
            problem.biases.append((outs, _logs(np.broadcast_to(own.shift, outs.shape))))
        problem.add_block(np.arange(1, variables.count + 1))
        return problem

    def _of(self, component: Component, variables: Variables, tensor: str, channels: int) -> Cells:
        """The variables of a tensor's channels, the ground for one without, or whose channels lie otherwise."""
        frame = component.frames.get(tensor)
        fits = frame is not None and frame.size in (1, channels)
        return np.broadcast_to(variables.of[frame.cells] if frame and fits else np.zeros(1, np.intp), (channels,))

    def _table(self, name: str) -> Table:
        return channel_table(self.layouts[name])

    # -- the change ------------------------------------------------------------------------------

    def _carry_out(self, change: Change) -> dict[str, str]:
        editor = self.folder.editor
        rename = {tensor: self.graph.fresh(f"{tensor}_equalized") for tensor in change.move.changed}
        editor.carry_out(change.move, rename)
        for name, total in change.staying.items():
            op = self.graph.op(name)
            source = op.input(facts_of(op).data_slot(Node(self.graph, op)))
            editor.replace_affine(op, source, total, op.outputs[0])
        editor.prune()
        for name in list(self.layouts):
            layout = linear_layout(self.graph, self.graph.op(name))
            assert layout is not None, "it had one before"
            self.layouts[name] = layout
        return rename

    def _ranges(self) -> dict[str, Vector]:
        return {name: channel_ranges(layout) for name, layout in self.layouts.items()}

    def _layer(self, name: str, before: Vector, after: Vector) -> LayerRanges:
        op = self.graph.op(name)
        return LayerRanges(
            key=self.folder.journal.key(name),
            layer=op.display,
            type=op.type,
            scope=self.scope,
            before=spread_bits(before),
            after=spread_bits(after),
            largest_before=float(before.max()),
            largest_after=float(after.max()),
        )

    def _unscaled(self, component: Component, variables: Variables) -> list[UnscaledTensor]:
        """The outputs of layers of which some channel can have no scale; those of the model itself are not told."""
        found = []
        for name in self.layouts:
            op = self.graph.op(name)
            frame = component.frames.get(op.outputs[0])
            if frame is None:
                continue
            cells = [cell for cell in frame.cells.tolist() if cell in variables.reasons]
            if cells:
                reason = variables.reasons[cells[0]]
                found.append(UnscaledTensor(tensor=op.outputs[0], layer=op.display, channels=len(cells), reason=reason))
        return found


def _logs(values: Vector) -> Vector:
    with np.errstate(divide="ignore"):
        return np.asarray(np.log2(np.abs(values)))


def _gauges(component: Component, variables: Variables, scales: Vector) -> dict[Place, Affine]:
    """The scale of every place that has one."""
    found: dict[Place, Affine] = {}
    for place, frame in component.frames.items():
        logs = scales[variables.of[frame.cells]]
        if logs.any():
            found[place] = frame.affine(np.exp2(logs), 0.0)
    return found


def _scaled(place: str, affine: Affine, rename: dict[str, str]) -> ScaledTensor:
    logs = np.log2(affine.scale)
    renamed = rename.get(place, place)
    return ScaledTensor(
        tensor=place, renamed=renamed, channels=affine.size, low=float(logs.min()), high=float(logs.max())
    )
