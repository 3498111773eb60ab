"""What becomes of affines that no search could move: all that are tied together are looked at together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bnfold.folding.candidates import Candidate
from bnfold.folding.editor import Editor, renamed
from bnfold.folding.gauges.carrying import Carrier, Change, Fault
from bnfold.folding.gauges.component import Component, Survey
from bnfold.folding.gauges.numbers import may_go, reach_of
from bnfold.folding.gauges.solution import WHOLE, Choice, Clash, Solver, hopeless
from bnfold.folding.moves import Context
from bnfold.graph import ModelGraph
from bnfold.operators import Node, facts_of

#: Operators that may turn out to refuse after all before a component is left as it is.
_MAX_FAULTS = 8


@dataclass(frozen=True, slots=True)
class Gone:
    """An affine that went: who makes up for it, which streams were changed for it, and all new names."""

    candidate: Candidate
    how: str
    into: tuple[str, ...]
    streams: tuple[str, ...]
    rename: Mapping[str, str]


@dataclass(slots=True)
class Outcome:
    """What went, and why the others candidate."""

    gone: list[Gone] = field(default_factory=list)
    clashes: dict[str, Clash] = field(default_factory=dict)


def gauge(context: Context, editor: Editor, blocked: Iterable[Candidate], tried: dict[str, Candidate]) -> Outcome:
    """Look for gauges under which blocked affines vanish, and carry them out.

    ``tried`` holds those that were looked at before, in vain: only what is tied to another one is looked at.
    """
    outcome, stuck = Outcome(), {candidate.head: candidate for candidate in blocked}
    fresh = (candidate for candidate in stuck.values() if tried.get(candidate.head) is not candidate)
    waiting = {candidate.head: None for candidate in fresh if may_go(context.graph, candidate)}
    while waiting:
        component = Survey(context, stuck.values()).run([next(iter(waiting))])
        for head in component.heads:
            waiting.pop(head, None)
            tried[head] = stuck[head]
        _settle(context, editor, component, stuck, outcome)
    return outcome


def _settle(
    context: Context, editor: Editor, component: Component, stuck: dict[str, Candidate], outcome: Outcome
) -> None:
    """Solve one component, and carry the solution out."""
    graph = context.graph
    for removal in list(component.removals):
        if not may_go(graph, removal.candidate):
            component.removals.remove(removal)
            component.held[removal.head] = None
    outcome.clashes.update(hopeless(component))
    component.removals = [removal for removal in component.removals if removal.head not in outcome.clashes]
    if not component.removals:
        return
    alive: dict[str, NDArray[np.bool_]] = {r.head: np.ones(r.scale.size, bool) for r in component.removals}
    pay = frozenset(r.head for r in component.removals if not r.candidate.total.is_scale or len(r.candidate.ops) > 1)
    dtype = editor.dtype_of(graph.op(next(iter(component.heads))))
    for _ in range(_MAX_FAULTS):
        choice = Solver(component, alive, pay, reach_of(dtype)).solve()
        outcome.clashes.update(choice.clashes)
        if not choice.gone:
            return
        change = Carrier(context, component, stuck, choice).run()
        if not isinstance(change, Fault):
            _carry_out(graph, editor, choice, change, stuck, outcome)
            return
        component.pin(graph, change.op, change.refusal.sentence)


def _carry_out(
    graph: ModelGraph, editor: Editor, choice: Choice, change: Change, stuck: dict[str, Candidate], outcome: Outcome
) -> None:
    keep = {}
    told = {head: _told(graph, stuck[head], choice, change) for head in choice.gone}
    for head, how in choice.gone.items():
        candidate = stuck[head]
        if how == WHOLE and graph.is_output(candidate.output):
            keep[candidate.input] = candidate.output
    rename = renamed(graph, change.move.changed, keep)
    for head, how in choice.gone.items():
        if how == WHOLE:
            candidate = stuck[head]
            editor.drop(op.name for op in candidate.ops)
            if keep.get(candidate.input) != candidate.output:
                editor.redirect(candidate.output, candidate.input)
    editor.carry_out([change.move], rename)
    for head, total in change.staying.items():
        first, *rest = (op.name for op in stuck[head].ops) if head in stuck else (head,)
        op = graph.op(first)
        source = op.input(facts_of(op).data_slot(Node(graph, op)))
        output = graph.op(rest[-1] if rest else first).outputs[0]
        editor.drop(rest)
        editor.replace_affine(op, source, total, output)
    for head, how in choice.gone.items():
        into, streams = told[head]
        outcome.gone.append(Gone(stuck[head], how, into, streams, rename))


def _told(graph: ModelGraph, candidate: Candidate, choice: Choice, change: Change) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Operators with weights that make up for an affine, as near to it as they are, and the stream it shifts."""
    into: dict[str, None] = {}
    for up in (False, True):
        tensors, seen = [candidate.input if up else candidate.output], set()
        while tensors:
            tensor = tensors.pop()
            if tensor in seen:
                continue
            seen.add(tensor)
            producer = graph.producer(tensor)
            near = ([producer.name] if producer is not None else []) if up else [use.op for use in graph.consumers(tensor)]
            for name in near:
                if name in change.move.rewrites and name not in change.move.through:
                    into[name] = None
                elif name in change.move.through:
                    op = graph.op(name)
                    tensors += op.inputs if up and len(seen) < 4 else () if up else op.outputs
    return tuple(into), (candidate.input,)

