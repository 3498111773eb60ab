"""What becomes of a fold candidate: backward, else forward, else split, else its cheapest form."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace

import numpy as np

from bnfold.affine import Affine
from bnfold.folding.backward import backward
from bnfold.folding.candidates import Candidate, CandidateFinder, no_affines
from bnfold.folding.editor import Editor, renamed
from bnfold.folding.forward import forward
from bnfold.folding.journal import Journal
from bnfold.folding.moves import Blocked, Context, Move
from bnfold.folding.narrowing import narrowing_fault
from bnfold.folding.plan import Contradiction, FoldKind, Remaining
from bnfold.folding.rounding import overflow_code, rounding_fault, scale_fault
from bnfold.folding.worklist import Worklist
from bnfold.graph import ModelGraph, Op, Param, dataflow_order
from bnfold.operators import Node, Rewrite, Role, facts_of
from bnfold.operators.answers import NewAffine, NewOp, NewWeights, WithResidual
from bnfold.operators.dialect import cheapest_form, dialect_of
from bnfold.operators.weights import mapped
from bnfold.refusal import Refusal


class Folder:
    """Folds one graph (not its subgraphs) in place, and keeps the record.

    ``skip`` holds the keys of operators that stay as they are, ``scope`` the path of a subgraph.
    """

    def __init__(self, graph: ModelGraph, skip: Container[str], scope: str = "") -> None:
        self.graph = graph
        self.journal = Journal(graph, scope)
        self.order = dataflow_order(graph)
        self.editor = Editor(graph, self.order)
        self.frozen = frozenset([op.name for op in graph.ops() if self.journal.key(op.name) in skip] if skip else ())
        # Parts of composite functions: they may take an affine in, but are not moved themselves.
        idioms = dialect_of(graph).composites(graph)
        self._context = Context(
            graph=graph, order=self.order, frozen=self.frozen, idioms=idioms, cost=self._operators_added
        )
        self._candidates = CandidateFinder(graph, self.frozen | idioms)
        self._worklist = Worklist(graph, self.order)
        self._worklist.add(op.name for op in graph.ops() if facts_of(op).answers("as_affine"))
        #: Candidates that found no target, by their head, with the reasons of both sides.
        self._blocked: dict[str, tuple[Candidate, Refusal, Refusal]] = {}
        self._steps_gauged = -1
        self._contradictions: dict[str, Contradiction] = {}
        #: May constants that others read as well be composed into new ones that are as large as tensors?
        self._may_grow = False
        #: How many steps there were when shapes were inferred last.
        self._inferred_after = 0

    @property
    def context(self) -> Context:
        """What searches over this graph walk on."""
        return self._context

    def run(self) -> None:
        """Find a target for every candidate on the worklist and whatever changes on the way."""
        while True:
            self._worklist.add_changed(self.editor.take_changed())
            name = self._worklist.pop()
            if name is None:
                self.editor.prune()  # what computed an old constant counts as a reader as long as it is there
                if not (self.editor.changed or self._join_blocked() or self._learn_shapes()):
                    return
                continue
            candidate = self._candidates.of(name)
            if candidate is None:
                self._blocked.pop(name, None)  # two Negs in a row were affines, and are an Identity now
            else:
                self.graph.complete_shapes()
                self._fold(candidate)

    def _learn_shapes(self) -> bool:
        """Infer shapes again where affines, or what blocked ones read, have none: the steps may have told them.

        So they have where a tensor got the name of another one, of which more was known.
        """
        if self._inferred_after == len(self.journal.steps):
            return False
        blocked = (candidate.input for head, (candidate, _, _) in self._blocked.items() if head in self.graph)
        told = self.editor.learned or self._candidates.shapeless
        if not told and all(self.graph.rank(tensor) is not None for tensor in blocked):
            return False
        self._inferred_after, self.editor.learned = len(self.journal.steps), False
        names = self._candidates.forget_shapeless()  # what became of their producers may tell without inference
        if self.graph.infer_again():
            names |= self._blocked.keys()
        self._worklist.add(name for name in names if name in self.graph)
        return True

    def revisit(self, changed: set[str]) -> None:
        """Put operators that others have changed back on the worklist, with all that depend on them."""
        self._worklist.add_changed(changed)
        self._worklist.add_dependents_of_removed()

    def remaining(self) -> list[Remaining]:
        """The affines that stayed, with the reasons of both sides, and the BatchNormalizations that are none."""
        return [
            Remaining(
                subject=self.journal.key(op.name),
                label=op.display,
                type=op.type,
                is_batchnorm=facts_of(op).role is Role.BATCHNORM,
                backward=back,
                forward=ahead,
                scope=self.journal.scope,
                together=self._contradictions.get(op.name) or self._contradictions.get(head),
            )
            for head, (candidate, back, ahead) in self._blocked.items()
            if head in self.graph
            for op in candidate.ops
            if op.name in self.graph
        ] + no_affines(self.journal)

    # -- one candidate ---------------------------------------------------------------------------

    def _fold(self, candidate: Candidate) -> None:
        """Try everything in order of preference; keep the reasons if nothing helps."""
        for op in candidate.ops:
            if op.name in self._blocked:
                before = self._blocked.pop(op.name)[0]  # its run may have been another one
                self._worklist.add(part.name for part in before.ops[1:] if part not in candidate.ops)
        if self._is_identity(candidate):
            self._remove_identity(candidate)
            return
        if self._into_constant(candidate):
            return
        back = self._backward(candidate, candidate.total)
        bias = isinstance(back, Move) and _is_bias(candidate, back)
        if isinstance(back, Move) and not bias and self._pays(candidate, back):
            self._apply(candidate, back, FoldKind.BACKWARD)
            return
        ahead = self._forward(candidate, candidate.total)
        if isinstance(ahead, Move) and self._pays(candidate, ahead):
            self._apply(candidate, ahead, FoldKind.FORWARD)
            return
        if self._split(candidate) or self._simplify(candidate):
            return
        self._block(candidate, back, ahead, bias=bias)

    def _backward(self, candidate: Candidate, affine: Affine) -> Move | Blocked:
        found = backward(self._context, candidate.reader, candidate.input, affine)
        return self._unless_narrowed(candidate, affine, found, ahead=False)

    def _forward(self, candidate: Candidate, affine: Affine) -> Move | Blocked:
        found = forward(self._context, candidate.output, affine)
        return self._unless_narrowed(candidate, affine, found, ahead=True)

    def _unless_narrowed(
        self, candidate: Candidate, affine: Affine, found: Move | Blocked, *, ahead: bool
    ) -> Move | Blocked:
        fault = narrowing_fault(self.graph, candidate, affine, found, ahead=ahead) if isinstance(found, Move) else None
        return found if fault is None else Blocked(fault, frozenset(found.asked))

    def _is_identity(self, candidate: Candidate) -> bool:
        scale = candidate.total.scale
        if not 0.99 < scale[0] < 1.01:  # of one channel: the rule
            return False
        if candidate.total.is_identity:
            return True
        op = candidate.ops[0]
        near = len(candidate.ops) == 1 and bool((np.abs(scale - 1.0) < 0.01).all())
        return near and facts_of(op).is_identity(Node(self.graph, op))

    def _pays(self, candidate: Candidate, move: Move) -> bool:
        """Fewer operators; or as many, where a linear operator's bias is all that stays of a scale."""
        if move.added < len(candidate.ops):
            return True
        weighted = not any(isinstance(rewrite, NewAffine) for rewrite in move.rewrites.values())
        return move.added == len(candidate.ops) == 1 and weighted and not candidate.total.is_shift

    def _operators_added(self, op: Op, rewrite: Rewrite) -> int | Refusal:
        """How many operators a rewrite adds, or why they cannot be built."""
        if isinstance(rewrite, NewWeights):
            return 0
        if isinstance(rewrite, NewAffine):
            form = self._form(op.input(facts_of(op).data_slot(Node(self.graph, op))), rewrite.affine, op)
            return form if isinstance(form, Refusal) else max(1, len(form)) - 1
        form = self._form(op.outputs[0], rewrite.residual, op)
        return form if isinstance(form, Refusal) else len(form)

    def _form(self, tensor: str, affine: Affine, op: Op) -> list[NewOp] | Refusal:
        """The cheapest form of an affine in the dtype of ``op``, or why there is none that survives rounding."""
        dtype = self.editor.dtype_of(op)
        form = cheapest_form(self.graph, tensor, affine, dtype)
        if isinstance(form, Refusal):
            return replace(form, op=op.name)
        params = [part for new in form for part in new.inputs if isinstance(part, Param)]
        faults = [scale_fault(affine.scale, dtype), *map(rounding_fault, params)]
        fault = next((fault for fault in faults if fault), None)
        if fault is None:
            return form
        return Refusal(overflow_code(dtype), f"{op.display} ({op.type}) cannot take it: {fault}", op.name)

    def _split(self, candidate: Candidate) -> bool:
        """Scale one way and shift the other, where both find a target."""
        total = candidate.total
        if total.is_scale or total.is_shift:
            return False
        if self.graph.producer(candidate.input) is not None and self.graph.sole_reader(candidate.input) is None:
            return False  # one part has to go backward, where somebody else would see it
        orders = [(total.scale_part(), total.shift_part())]
        if total.scale.all():
            # s x + t = s (x + t/s): the shift can come first where no scale is zero.
            shift_first = Affine(total.scale, total.shift / total.scale, total.axis, total.grid)
            orders.append((shift_first.shift_part(), total.scale_part()))
        for first, second in orders:
            back = self._backward(candidate, first)
            ahead = self._forward(candidate, second) if isinstance(back, Move) else back
            if isinstance(back, Move) and isinstance(ahead, Move) and self._pays(candidate, both := back.joined(ahead)):
                self._apply(candidate, both, FoldKind.SPLIT)
                return True
            for found in (back, ahead):
                self._worklist.depend(candidate.head, found.asked)
        return False

    def _simplify(self, candidate: Candidate) -> bool:
        """Replace a candidate that has to stay by fewer operators, or a BatchNormalization by a simpler one."""
        first, *rest = candidate.ops
        batchnorm = facts_of(first).role is Role.BATCHNORM
        if not rest and not batchnorm:
            return False
        form = self._form(candidate.input, candidate.total, first)
        if isinstance(form, Refusal):
            return False
        simpler = batchnorm and len(form) == len(candidate.ops) == 1 and form[0].type != first.type
        if simpler and self._rounds_to_nothing(candidate.total, first):
            return False
        if len(form) >= len(candidate.ops) and not simpler:
            return False
        if not self._may_grow and candidate.total.grid and self._grows(candidate, form):
            return False
        self.editor.drop(op.name for op in rest)
        self.editor.replace_affine(first, candidate.input, candidate.total, candidate.output)
        into, keys = self.journal.labels([first.name]), self.journal.keys([first.name])
        for op in rest:
            self.journal.add(op, FoldKind.COMPOSED, into=into, holders=keys)
        if self.graph.op(first.name).type != first.type:
            self.journal.add(first, FoldKind.CHEAPER, into=into, holders=keys)
        return True

    def _grows(self, candidate: Candidate, form: list[NewOp]) -> bool:
        """Does that take more numbers than are freed? Those are not that others read, or that constants are made of."""
        names = {op.name for op in candidate.ops}
        freed = [
            self.graph.params[tensor].size
            for tensor in {tensor for op in candidate.ops for tensor in op.inputs if tensor in self.graph.params}
            if all(use.op in names for use in self.graph.uses(tensor))
        ]
        return sum(part.size for new in form for part in new.inputs if isinstance(part, Param)) > sum(freed)

    def compose_with_growth(self) -> bool:
        """Compose what was left apart for the size of its constants, as large as tensors; whether there is anything.

        Last of all: a scalar in front may go with its stream, and the constants of the rest stay shared.
        """
        if self._may_grow:
            return False
        self._may_grow = True
        blocked = [candidate for candidate, _, _ in self._blocked.values()]
        apart = [each.head for each in blocked if each.total.grid and len(each.ops) > 1 and each.head in self.graph]
        self._worklist.add(apart)
        return bool(apart)

    def _rounds_to_nothing(self, affine: Affine, op: Op) -> bool:
        """A BN's parameters may tell a scale from 1 where its own type cannot."""
        dtype = self.editor.dtype_of(op)
        return bool((affine.scale.astype(dtype) == 1).all() and (affine.shift.astype(dtype) == 0).all())

    def _remove_identity(self, candidate: Candidate) -> None:
        graph, output, source = self.graph, candidate.output, candidate.input
        producer = graph.producer(source)
        captured = graph.captured(output) is not None
        if not graph.is_output(output) and not captured:
            self.editor.drop(op.name for op in candidate.ops)
            self.editor.redirect(output, source)
        elif producer is not None and not graph.is_output(source) and not graph.captured(source):
            self.editor.drop(op.name for op in candidate.ops)
            self.editor.carry_out(Move(), {source: output})
        else:
            first, *rest = candidate.ops
            self.editor.drop(op.name for op in rest)
            self.editor.replace_affine(first, source, Affine.identity(), output)
        for op in candidate.ops:
            self.journal.add(op, FoldKind.IDENTITY)

    def _into_constant(self, candidate: Candidate) -> bool:
        """An affine of a constant is a constant."""
        graph, output = self.graph, candidate.output
        param = graph.constant(candidate.input)
        if param is None or not param.is_float:
            return False
        new = mapped(param.renamed(output), candidate.total)
        if new is None or rounding_fault(new):
            return False
        if graph.is_output(output):
            # An operator has to produce what the model returns.
            first, *rest = candidate.ops
            self.editor.drop(op.name for op in rest)
            self.editor.replace_affine(first, self.editor.constant(new), Affine.identity(), output)
        else:
            self.editor.drop(op.name for op in candidate.ops)
            graph.params[output] = new
        self._reveal(output)
        for op in candidate.ops:
            self.journal.add(op, FoldKind.CONSTANT, into=(param.name,))
        return True

    def _reveal(self, tensor: str) -> None:
        """Look anew at all that reads a tensor which is a constant now, or what follows from it: it may be affine."""
        queue, seen = [tensor], {tensor}
        for known in queue:
            self.editor.touch(known)
            outputs = {name for use in self.graph.uses(known) for name in self.graph.op(use.op).outputs if name}
            found = [name for name in sorted(outputs - seen) if self.graph.constant(name) is not None]
            seen.update(found)
            queue += found

    def _apply(self, candidate: Candidate, move: Move, kind: FoldKind) -> None:
        keep = {candidate.input: candidate.output} if kind is FoldKind.BACKWARD else {}
        rename = renamed(self.graph, move.changed, keep)
        holders, through = move.targets, move.through
        constants = tuple([param.name for param in move.constants.values()])
        if not holders and not constants:
            kind = FoldKind.CANCELLED
            holders = [name for name in through if move.changed.keys().isdisjoint(self.graph.op(name).outputs)]
            through = [name for name in through if name not in holders]
        elif not constants and move.only_affines:
            kind = FoldKind.COMPOSED
        into, past, keys = self.journal.labels(holders), self.journal.labels(through), self.journal.keys(holders)
        self.editor.drop(op.name for op in candidate.ops)
        if not keep or candidate.input not in rename:
            self.editor.redirect(candidate.output, candidate.input)
        self.editor.carry_out(move, rename)
        for op in candidate.ops:
            self.journal.add(op, kind, into=(*into, *constants), through=past, changed=rename, holders=keys)

    def _block(self, candidate: Candidate, back: Move | Blocked, ahead: Move | Blocked, *, bias: bool) -> None:
        """Keep the reasons, and look again when something that was asked changes."""
        self._worklist.skip(op.name for op in candidate.ops)  # each of them would lead to this one candidate
        reasons = []
        for found in (back, ahead):
            if isinstance(found, Blocked):
                reasons.append(found.refusal)
            else:
                into = ", ".join(self.journal.labels(found.targets)) or "constants"
                reasons.append(Refusal("no-gain", f"moving it into {into} would leave no fewer operators"))
            self._worklist.depend(candidate.head, found.asked)
        if not bias:
            self._blocked[candidate.head] = (candidate, reasons[0], reasons[1])

    # -- several candidates ----------------------------------------------------------------------

    def _join_blocked(self) -> bool:
        """Affines that are blocked on several inputs of one operator become one behind it."""
        meeting: dict[str, dict[int, Candidate]] = {}
        for head, (candidate, _, _) in self._blocked.items():
            use = self.graph.sole_reader(candidate.output) if head in self.graph else None
            if use is not None and use.slot is not None and use.op not in self.frozen:
                meeting.setdefault(use.op, {})[use.slot] = candidate
        # All of them in one go: looking through everything that is blocked is expensive.
        places = self.order.sorted(name for name, candidates in meeting.items() if len(candidates) > 1)
        joined = [self._join(self.graph.op(name), meeting[name]) for name in places]
        return any(joined)

    def _join(self, op: Op, candidates: dict[int, Candidate]) -> bool:
        node, facts = Node(self.graph, op), facts_of(op)
        if any(candidate.total.grid for candidate in candidates.values()) and not facts.grids:
            return False
        crossing = facts.sink(node, {slot: candidate.total for slot, candidate in candidates.items()})
        if isinstance(crossing, Refusal) or set(crossing.affines) != {0} or crossing.rewrite is not None:
            return False
        behind = WithResidual(NewWeights(), crossing.affines[0])
        added = self._operators_added(op, behind)
        ops = [part for candidate in candidates.values() for part in candidate.ops]
        if isinstance(added, Refusal) or added >= len(ops):
            return False
        output = op.outputs[0]
        self.editor.drop(part.name for part in ops)
        for candidate in candidates.values():
            self._blocked.pop(candidate.head)
            self.editor.redirect(candidate.output, candidate.input)
        self.editor.carry_out(Move(rewrites={op.name: behind}), {})
        last = self.graph.producer(output)
        holders = [last.name] if last is not None else []
        into, past, keys = self.journal.labels(holders), self.journal.labels([op.name]), self.journal.keys(holders)
        for part in ops:
            self.journal.add(part, FoldKind.COMPOSED, into=into, through=past, holders=keys)
        return True

    def gauge_blocked(self) -> bool:
        """Let affines go together that are blocked one by one; whether that changed anything."""
        if len(self.journal.steps) == self._steps_gauged:
            return False  # what a gauge leaves, another one leaves too
        # Its neighbours may have changed around a candidate since it was blocked.
        current = [self._candidates.of(head) for head in self._blocked if head in self.graph]
        blocked = [candidate for candidate in current if candidate is not None and candidate.head in self._blocked]
        if not blocked:
            return False
        from bnfold.folding.gauges import gauge  # only what is blocked needs it

        outcome = gauge(self._context, self.editor, [part for each in blocked for part in self._candidates.parts(each)])
        self._contradictions |= outcome.contradictions
        whole = {op.name: each for each in blocked for op in each.ops}
        for gone in outcome.gone:
            first, *rest = gone.candidate.ops
            self._blocked.pop(whole[first.name].head, None)
            self._worklist.add(op.name for op in whole[first.name].ops if op.name in self.graph)
            for op in rest:
                self.journal.add(op, FoldKind.COMPOSED, into=(first.display,), holders=self.journal.keys([first.name]))
            self.journal.add_gauge(first, gone)
        self._steps_gauged = -1 if outcome.again else len(self.journal.steps)
        return bool(outcome.gone)


def _is_bias(candidate: Candidate, back: Move) -> bool:
    """Is this the one Add that a linear operator without a bias of its own needs?"""
    if facts_of(candidate.ops[0]).role is Role.BATCHNORM:
        return False
    added = all(
        isinstance(rewrite, WithResidual) or (isinstance(rewrite, NewWeights) and rewrite.type is not None)
        for rewrite in back.rewrites.values()
    )
    return len(candidate.ops) == 1 and candidate.total.is_shift and bool(back.rewrites) and added and not back.through
