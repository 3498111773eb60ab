"""What becomes of affines that no search could move: all that are tied together are looked at together."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnfold.affine import Affine
from bnfold.folding.candidates import Candidate
from bnfold.folding.editor import Editor, renamed
from bnfold.folding.forward import forward
from bnfold.folding.gauges.carrying import Carrier, Change, Fault
from bnfold.folding.gauges.component import Component
from bnfold.folding.gauges.numbers import constant_channels, out_of_reach, reach_of, statistics
from bnfold.folding.gauges.solution import WHOLE, Choice, Clash, Solver, hopeless
from bnfold.folding.gauges.survey import Survey, axes_to_try, own_axes
from bnfold.folding.moves import Blocked, Context, Move
from bnfold.folding.narrowing import keeps_precision, narrowest
from bnfold.folding.plan import Contradiction
from bnfold.graph import ModelGraph
from bnfold.operators import Node, Role, facts_of
from bnfold.operators.answers import NewWeights
from bnfold.operators.dialect import cheapest_form
from bnfold.records import record
from bnfold.refusal import Refusal

#: Operators that may turn out to refuse after all before a component is left as it is.
_MAX_FAULTS = 8


@record
class Gone:
    """An affine that went: who took it in, which stream was changed for it, who makes up for that, and all new names.

    ``into`` and ``repaid`` name operators.
    """

    candidate: Candidate
    into: tuple[str, ...]
    stream: str
    repaid: tuple[str, ...]
    rename: Mapping[str, str]


class Outcome:
    """What went, and why the others did not."""

    def __init__(self) -> None:
        self.gone: list[Gone] = []
        self.contradictions: dict[str, Contradiction] = {}
        #: May another look find more? Where an affine that stays became another operator, or is still to be looked at.
        self.again = False


@record
class Prepared:
    """A candidate that may go: which channels demand anything, and what happens to those that hold one number."""

    live: NDArray[np.bool_]
    #: Their number goes forward into the weights behind; None where there are none.
    constants: Affine | None = None

    def move(self, context: Context, candidate: Candidate) -> Move | Blocked:
        """How the readers do without those channels."""
        return Move() if self.constants is None else forward(context, candidate.output, self.constants)


def gauge(context: Context, editor: Editor, blocked: Iterable[Candidate]) -> Outcome:
    """Look for gauges under which blocked affines vanish, and carry them out.

    A component whose affines do not all work along the same axes is looked at along the axes of each.
    """
    outcome, stuck = Outcome(), {candidate.head: candidate for candidate in blocked}
    prepared: dict[str, Prepared] = {}
    for head, candidate in stuck.items():
        found = _prepared(context, editor, candidate)
        if isinstance(found, Prepared):
            prepared[head] = found
        else:
            outcome.contradictions[head] = found
    looks = {head: axes_to_try(context.graph, stuck[head]) for head in prepared}
    waiting = {(head, each[turn]): None for turn in range(3) for head, each in looks.items() if len(each) > turn}
    members = {op.name: candidate for candidate in stuck.values() for op in candidate.ops}
    in_vain: list[Component] = []
    while waiting:
        start, axes = next(iter(waiting))
        component = Survey(context, members).run(stuck[start], axes)
        del waiting[start, axes]
        for head, looked in component.heads.items():
            if looked is not None and (looked == axes or not component.is_askew):
                waiting.pop((head, looked), None)
        for removal in component.removals:
            if removal.head in prepared:
                outcome.contradictions.pop(removal.head, None)  # from a look along other axes
        before = len(outcome.gone)
        _Settlement(context, editor, component, stuck, prepared, outcome).run()
        if len(outcome.gone) == before:
            if component.is_askew or any(
                looked != own_axes(context.graph, stuck[head]) for head, looked in component.heads.items()
            ):
                in_vain.append(component)
            continue
        gone = {each.candidate.head for each in outcome.gone[before:]}
        for other in in_vain:  # what stood in their way along other axes may be gone
            outcome.again |= not gone.isdisjoint(other.heads)
        for head in component.heads:  # they are others now, or have other neighbours
            for op in stuck[head].ops:
                members.pop(op.name, None)
            for look in [(head, axes) for axes in looks.get(head, ()) if (head, axes) in waiting]:
                del waiting[look]
                outcome.again = True
    return outcome


def _prepared(context: Context, editor: Editor, candidate: Candidate) -> Prepared | Contradiction:
    """What there is to know before any equation: channels that hold one number, numbers that would grow too large."""
    total, op = candidate.total, candidate.ops[0]
    numbers = statistics(context.graph, candidate)
    dead, values = constant_channels(candidate, numbers, editor.dtype_of(op))
    fault = out_of_reach(candidate, numbers, ~dead)
    if fault is not None or not dead.any():
        return fault or Prepared(~dead)
    constants = Affine(np.where(dead, 0.0, 1.0), np.where(dead, values, 0.0), total.axis, total.grid)
    made = Prepared(~dead, constants)
    move = made.move(context, candidate)
    if isinstance(move, Move) and all(isinstance(rewrite, NewWeights) for rewrite in move.rewrites.values()):
        return made
    clause = move.refusal.sentence if isinstance(move, Blocked) else "that would take another operator"
    channel = int(dead.argmax())
    return Contradiction(
        sentence=f"channel {channel} of {op.display} ({op.type}) is a constant that has to stay: {clause}",
        of="constant",
        tensor=candidate.output,
        constraints=(op.display, clause),
    )


class _Settlement:
    """One component, solved and changed."""

    def __init__(
        self,
        context: Context,
        editor: Editor,
        component: Component,
        stuck: Mapping[str, Candidate],
        prepared: Mapping[str, Prepared],
        outcome: Outcome,
    ) -> None:
        self.context, self.editor, self.component = context, editor, component
        self.stuck, self.prepared, self.outcome = stuck, prepared, outcome

    def run(self) -> None:
        graph, component, contradictions = self.context.graph, self.component, self.outcome.contradictions
        for head, clash in hopeless(component, self._live()).items():
            contradictions[head] = _contradiction(self.stuck[head], clash, self.stuck)
        narrow = narrowest(graph, (place for place in component.frames if isinstance(place, str)))
        if narrow is not None:
            self._spare(narrow)
        for removal in list(component.removals):
            if removal.head in contradictions or not _can_go(graph, removal.candidate):
                component.removals.remove(removal)
                component.held[removal.head] = None
        if component.removals:
            component.ask_pending()
        dtype = narrow or self.editor.dtype_of(self.stuck[next(iter(component.heads))].ops[0])
        for _ in range(_MAX_FAULTS if component.removals else 0):
            choice = Solver(component, self._live(), self._signs_pay(), self._names(), reach_of(dtype)).solve()
            nameless = self._nameless(choice)
            if nameless is not None:
                component.removals = [removal for removal in component.removals if removal.head != nameless]
                component.held[nameless] = None
                continue
            for head, clash in choice.clashes.items():
                contradictions[head] = _contradiction(self.stuck[head], clash, self.stuck)
            change = self._described(choice) if choice.gone else None
            if not isinstance(change, Fault):
                if change is not None:
                    self._carry_out(choice, change)
                return
            component.pin(graph, change.op, change.refusal.sentence)

    def _spare(self, narrow: np.dtype[Any]) -> None:
        """Leave alone what would shift tensors of a narrower type."""
        for removal in self.component.removals:
            label = removal.candidate.ops[0].display
            if not keeps_precision(self.context.graph, removal.candidate, narrow):
                self.outcome.contradictions.setdefault(
                    removal.head,
                    Contradiction(
                        sentence=f"{label} would shift tensors that are rounded to {narrow.name}, "
                        "at the cost of their precision",
                        of="precision",
                        tensor=removal.candidate.input,
                        constraints=(label,),
                    ),
                )

    def _live(self) -> dict[str, NDArray[np.bool_]]:
        """For each removal the channels that demand anything."""
        everything = Prepared(np.ones(1, bool))
        return {
            removal.head: np.broadcast_to(self.prepared.get(removal.head, everything).live, removal.scale.shape)
            for removal in self.component.removals
        }

    def _names(self) -> dict[str, str]:
        """Where an affine that goes leaves its name to what it reads: only one of those of a tensor can."""
        found = (removal.candidate for removal in self.component.removals)
        return {c.head: c.input for c in found if _is_named(self.context.graph, c.output)}

    def _nameless(self, choice: Choice) -> str | None:
        """One of those that go whose name nobody can take, since what it reads goes as well."""
        graph = self.context.graph
        whole = [self.stuck[head] for head, how in choice.gone.items() if how == WHOLE]
        origin, taken = _origins(whole), set()
        for candidate in whole:
            tensor = origin[candidate.output]
            if not _is_named(graph, candidate.output):
                continue
            if graph.producer(tensor) is None or _is_named(graph, tensor) or tensor in taken:
                return candidate.head
            taken.add(tensor)
        return None

    def _signs_pay(self) -> frozenset[str]:
        """Those of which a multiplication by signs is less than there is now."""
        return frozenset(removal.head for removal in self.component.removals if self._is_less(removal.candidate))

    def _is_less(self, candidate: Candidate) -> bool:
        op, total = candidate.ops[0], candidate.total
        if len(candidate.ops) == 1 and facts_of(op).role is not Role.BATCHNORM:
            return False
        signs = Affine.of(np.sign(total.scale), 0.0, total.axis)
        form = cheapest_form(self.context.graph, candidate.input, signs, self.editor.dtype_of(op))
        return not isinstance(form, Refusal) and (len(candidate.ops) > 1 or [new.type for new in form] != [op.type])

    def _described(self, choice: Choice) -> Change | Fault:
        return Carrier(self.context, self.component, self.stuck, choice).run()

    def _carry_out(self, choice: Choice, change: Change) -> None:
        graph, editor, stuck = self.context.graph, self.editor, self.stuck
        emptied: dict[str, None] = {}
        for head in choice.gone:
            move = self.prepared[head].move(self.context, stuck[head])
            assert isinstance(move, Move), "it was asked before"
            if move.rewrites:
                # The numbers of all tensors stay; those of a channel that nobody reads any more will not.
                editor.carry_out(move, {})
                emptied |= {stuck[head].output: None, **move.changed}
        if emptied:
            again = self._described(choice)
            assert isinstance(again, Change), "weights of zero take any scale"
            change = again
        whole = [stuck[head] for head, how in choice.gone.items() if how == WHOLE]
        vanished = {candidate.output for candidate in whole}
        changed = {tensor: None for tensor in (*change.move.changed, *emptied) if tensor not in vanished}
        told = {head: _told(graph, stuck[head], change) for head in choice.gone}
        origin = _origins(whole)
        keep = {tensor: output for output, tensor in origin.items() if _is_named(graph, output)}
        # Two that undo each other change nothing in front of them, which may have to take a name all the same.
        rename = renamed(graph, [*changed, *(tensor for tensor in keep if tensor not in changed)], keep)
        for candidate in whole:
            editor.drop(op.name for op in candidate.ops)
        for output, tensor in origin.items():
            if keep.get(tensor) != output:
                editor.redirect(output, tensor)
        editor.carry_out(change.move, rename)
        for head, total in change.staying.items():
            self._replace(head, total)
        for head in choice.gone:
            into, repaid = told[head]
            self.outcome.gone.append(Gone(stuck[head], into, stuck[head].input, repaid, rename))

    def _replace(self, head: str, total: Affine) -> None:
        """Give an affine that stays its new map."""
        graph = self.context.graph
        # What was stuck in a run may stand by itself since another component changed.
        alone = head in self.component.staying or head not in self.stuck
        first, *rest = (head,) if alone else (op.name for op in self.stuck[head].ops)
        op = graph.op(first)
        source = op.input(facts_of(op).data_slot(Node(graph, op)))
        output = graph.op(rest[-1] if rest else first).outputs[0]
        self.editor.drop(rest)
        self.editor.replace_affine(op, source, total, output)
        self.outcome.again |= graph.op(first).type != op.type


def _is_named(graph: ModelGraph, tensor: str) -> bool:
    """Is it known by name: to the caller of the model, or to a subgraph?"""
    return graph.is_output(tensor) or graph.captured(tensor) is not None


def _can_go(graph: ModelGraph, candidate: Candidate) -> bool:
    """Is there one name to keep at the most, and an operator to give it to?"""
    if not _is_named(graph, candidate.output):
        return True
    return graph.producer(candidate.input) is not None and not _is_named(graph, candidate.input)


def _origins(whole: Iterable[Candidate]) -> dict[str, str]:
    """For the output of each affine that goes the tensor that is read instead, past others that go."""
    direct = {candidate.output: candidate.input for candidate in whole}
    found = {}
    for output, tensor in direct.items():
        while tensor in direct:
            tensor = direct[tensor]
        found[output] = tensor
    return found


def _told(graph: ModelGraph, candidate: Candidate, change: Change) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The operators with weights behind an affine, and those that write or read its stream, as near as they are."""
    targets, passed = change.move.targets, change.move.through
    behind = _weighted(graph, candidate.output, targets, {*passed, *change.staying}, set(), up=False)
    around = _weighted(graph, candidate.input, targets, set(passed), {op.name for op in candidate.ops}, up=True)
    return tuple(behind), tuple(name for name in around if name not in behind)


def _weighted(
    graph: ModelGraph, tensor: str, targets: Container[str], passed: Container[str], seen: set[str], *, up: bool
) -> dict[str, None]:
    """Those of ``targets`` that are nearest to a tensor, past others; upward to the next join and no further."""
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
            if op.name in targets:
                found[op.name] = None
            elif op.name in passed:
                joins = len([t for t in op.inputs if graph.producer(t) is not None]) > 1
                tensors += op.outputs if not up else () if joins and found else op.inputs
    return found


def _contradiction(candidate: Candidate, clash: Clash, stuck: Mapping[str, Candidate]) -> Contradiction:
    """A clash in words: the others that want something else, or else what stands on either side."""
    label = candidate.ops[0].display
    others = [stuck[head].ops[0].display for head in clash.others]
    if others:
        sentence = f"{label} and {others[0]} want different {clash.system}s of {candidate.input}"
        if clash.system == "name":
            sentence = f"the model returns both what {label} and what {others[0]} make of {candidate.input}"
        return Contradiction(sentence=sentence, of=clash.system, tensor=candidate.input, constraints=(label, *others))
    pins = clash.pins[:2] or ("the operators around it allow none",)
    sentence = f"{label} wants another {clash.system} of {candidate.input}, but {' and '.join(pins)}"
    return Contradiction(sentence=sentence, of=clash.system, tensor=candidate.input, constraints=(label, *clash.pins))
