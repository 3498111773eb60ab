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
from bnfold.folding.gauges.numbers import out_of_reach, reach_of
from bnfold.folding.gauges.solution import WHOLE, Choice, Clash, Solver, hopeless
from bnfold.folding.moves import Context
from bnfold.folding.plan import Contradiction
from bnfold.graph import ModelGraph
from bnfold.operators import Node, facts_of

#: Operators that may turn out to refuse after all before a component is left as it is.
_MAX_FAULTS = 8


@dataclass(frozen=True, slots=True)
class Gone:
    """An affine that went: who took it in, which stream was changed for it, who makes up for that, and all new names.

    ``into`` and ``repaid`` name operators.
    """

    candidate: Candidate
    into: tuple[str, ...]
    stream: str
    repaid: tuple[str, ...]
    rename: Mapping[str, str]


@dataclass(slots=True)
class Outcome:
    """What went, and why the others candidate."""

    gone: list[Gone] = field(default_factory=list)
    contradictions: dict[str, Contradiction] = field(default_factory=dict)


def gauge(context: Context, editor: Editor, blocked: Iterable[Candidate], tried: dict[str, Candidate]) -> Outcome:
    """Look for gauges under which blocked affines vanish, and carry them out.

    ``tried`` holds those that were looked at before, in vain: only what is tied to another one is looked at.
    """
    outcome, stuck = Outcome(), {candidate.head: candidate for candidate in blocked}
    fresh = [candidate for candidate in stuck.values() if tried.get(candidate.head) is not candidate]
    waiting: dict[str, None] = {}
    for candidate in fresh:
        fault = out_of_reach(context.graph, candidate)
        if fault is None:
            waiting[candidate.head] = None
        else:
            outcome.contradictions[candidate.head] = fault
            tried[candidate.head] = candidate
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
    clashes = hopeless(component)
    for removal in list(component.removals):
        if removal.head in clashes:
            outcome.contradictions[removal.head] = _contradiction(removal.candidate, clashes[removal.head], stuck)
        if removal.head in outcome.contradictions:
            component.removals.remove(removal)
            component.held[removal.head] = None
    if not component.removals:
        return
    alive: dict[str, NDArray[np.bool_]] = {r.head: np.ones(r.scale.size, bool) for r in component.removals}
    pay = frozenset(r.head for r in component.removals if not r.candidate.total.is_scale or len(r.candidate.ops) > 1)
    dtype = editor.dtype_of(graph.op(next(iter(component.heads))))
    for _ in range(_MAX_FAULTS):
        choice = Solver(component, alive, pay, reach_of(dtype)).solve()
        for head, clash in choice.clashes.items():
            outcome.contradictions[head] = _contradiction(stuck[head], clash, stuck)
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
    told = {head: _told(graph, stuck[head], change) for head in choice.gone}
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
    for head in choice.gone:
        into, repaid = told[head]
        outcome.gone.append(Gone(stuck[head], into, stuck[head].input, repaid, rename))


def _told(graph: ModelGraph, candidate: Candidate, change: Change) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The operators with weights behind an affine, and those that write or read its stream, as near as they are."""
    behind = _weighted(graph, candidate.output, change, set(), up=False)
    around = _weighted(graph, candidate.input, change, {op.name for op in candidate.ops}, up=True)
    return tuple(behind), tuple(name for name in around if name not in behind)


def _weighted(graph: ModelGraph, tensor: str, change: Change, seen: set[str], *, up: bool) -> dict[str, None]:
    """Operators whose weights change beside a tensor, past those without; upward to the next join and no further."""
    found: dict[str, None] = {}
    tensors = [tensor]
    while tensors:
        tensor = tensors.pop()
        producer = graph.producer(tensor)
        readers = [graph.op(use.op) for use in graph.consumers(tensor)]
        for op in readers if not up else [producer] if producer is not None else []:
            if op.name in seen:
                continue
            seen.add(op.name)
            if op.name in change.move.targets:
                found[op.name] = None
            elif op.name in change.move.through:
                joins = len([t for t in op.inputs if graph.producer(t) is not None]) > 1
                tensors += op.outputs if not up else () if joins and found else op.inputs
    return found


def _contradiction(candidate: Candidate, clash: Clash, stuck: Mapping[str, Candidate]) -> Contradiction:
    """A clash in words: the others that want something else, or else what stands on either side."""
    label = candidate.ops[0].display
    others = [stuck[head].ops[0].display for head in clash.others]
    if others:
        sentence = f"{label} and {others[0]} want different {clash.system}s of {candidate.input}"
        return Contradiction(sentence=sentence, of=clash.system, tensor=candidate.input, constraints=(label, *others))
    pins = clash.pins[:2] or ("the operators around it allow none",)
    sentence = f"{label} wants another {clash.system} of {candidate.input}, but {' and '.join(pins)}"
    return Contradiction(sentence=sentence, of=clash.system, tensor=candidate.input, constraints=(label, *clash.pins))
