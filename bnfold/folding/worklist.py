"""The search for a home for every affine: backward, else forward, else split, else its cheapest form."""

from __future__ import annotations

import heapq
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from bnfold.affine import Affine
from bnfold.folding.backward import backward
from bnfold.folding.editor import Editor, renamed
from bnfold.folding.forward import forward
from bnfold.folding.gauges import Stay, gauge
from bnfold.folding.moves import Blocked, Move, Terrain
from bnfold.folding.plan import FoldStep, Remaining
from bnfold.folding.rounding import overflow_code, rounding_fault, scale_fault
from bnfold.graph import CAPTURE, ModelGraph, Op, Param, Use
from bnfold.operators import Node, Rewrite, Role, facts_of
from bnfold.operators.base import NewOp, mapped
from bnfold.operators.forms import cheapest_form
from bnfold.operators.onnx.idioms import idiom_members
from bnfold.refusal import Refusal


@dataclass(frozen=True, slots=True)
class Chain:
    """A maximal run of affine operators in a row, and the one affine they are together."""

    ops: tuple[Op, ...]
    total: Affine
    source: str
    slot: int

    @property
    def head(self) -> str:
        return self.ops[0].name

    @property
    def reader(self) -> Use:
        return Use(self.head, self.slot)

    @property
    def output(self) -> str:
        return self.ops[-1].outputs[0]


@dataclass(slots=True)
class Engine:
    """Folds one graph (not its subgraphs) in place, and keeps the record."""

    graph: ModelGraph
    skip: Container[str]
    scope: str = ""
    steps: list[FoldStep] = field(default_factory=list)
    levels: dict[str, float] = field(default_factory=dict)
    editor: Editor = field(init=False)
    frozen: frozenset[str] = frozenset()
    #: Parts of composite functions: they may take an affine in, but are not moved themselves.
    idioms: frozenset[str] = frozenset()
    #: Reading the parameters of an affine is dear: what each operator was found to be.
    _affines: dict[str, tuple[Op, Affine | None]] = field(default_factory=dict)
    _watchers: dict[str, set[str]] = field(default_factory=dict)
    _stuck: dict[str, tuple[Chain, Refusal, Refusal]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.levels = levels_of(self.graph)
        self.editor = Editor(self.graph, self.levels)
        self.frozen = frozenset(op.name for op in self.graph.ops() if self.key(op.name) in self.skip)
        self.idioms = idiom_members(self.graph)

    @property
    def _terrain(self) -> Terrain:
        return Terrain(self.graph, self.levels, self.frozen, self.idioms, self._price)

    def key(self, name: str) -> str:
        """How the plan calls an operator: unique over all subgraphs."""
        return f"{self.scope}/{name}" if self.scope else name

    def run(self, names: Iterable[str] | None = None) -> None:
        """Find a home for every affine among ``names`` (all operators by default) and whatever that stirs up."""
        wanted = self.levels if names is None else self._watching(names)
        queue = [(self.levels[name], name) for name in wanted if name in self.graph]
        heapq.heapify(queue)
        queued = {name for _, name in queue}
        while True:
            for dirty in self._stirred():
                if dirty in self.graph and dirty not in queued:
                    queued.add(dirty)
                    heapq.heappush(queue, (self.levels[dirty], dirty))
            if queue:
                _, name = heapq.heappop(queue)
                queued.discard(name)
                chain = self._chain(name) if name in self.graph else None
                if chain is not None:
                    self.graph.complete_shapes()
                    self._settle(chain)
            elif not self._meet() and not self._gauge():
                break

    def remaining(self) -> list[Remaining]:
        """The affines that stayed, with the reasons of both sides."""
        left = []
        for head, (chain, back, ahead) in self._stuck.items():
            if head not in self.graph:
                continue
            for op in chain.ops:
                if op.name in self.graph:
                    batchnorm = facts_of(op).role is Role.BATCHNORM
                    left.append(Remaining(self.key(op.name), op.display, op.type, batchnorm, back, ahead, self.scope))
        return left

    # -- chains ----------------------------------------------------------------------------------

    def _affine(self, op: Op) -> Affine | None:
        if op.name in self.frozen or op.name in self.idioms:
            return None
        known = self._affines.get(op.name)
        if known is None or known[0] is not op:
            affine = facts_of(op).as_affine(Node(self.graph, op))
            known = self._affines[op.name] = (op, affine if isinstance(affine, Affine) else None)
        return known[1]

    def _successor(self, op: Op) -> tuple[Op, int] | None:
        """The only reader of an operator's output, if nobody else sees that."""
        output = op.outputs[0]
        uses = list(islice(self.graph.uses(output), 2))
        if len(uses) != 1 or uses[0].slot == CAPTURE or self.graph.is_output(output):
            return None
        return self.graph.op(uses[0].op), uses[0].slot

    def _links(self, first: Op, total: Affine) -> tuple[Op, Affine] | None:
        """The affine that follows in the chain, and the total with it."""
        following = self._successor(first)
        if following is None:
            return None
        op, slot = following
        affine = self._affine(op)
        if affine is None or facts_of(op).data_slot(Node(self.graph, op)) != slot or not total.composes(affine):
            return None
        composed = total.then(affine)
        return (op, composed) if composed.is_finite else None

    def _chain(self, name: str) -> Chain | None:
        """The chain an operator belongs to; None if it is no affine."""
        op = self.graph.op(name)
        affine = self._affine(op)
        if affine is None:
            return None
        # Up to the first of the chain …
        while True:
            producer = self.graph.producer(op.input(facts_of(op).data_slot(Node(self.graph, op))))
            before = self._affine(producer) if producer is not None else None
            if producer is None or before is None or producer.outputs[0] == "":
                break
            link = self._links(producer, before)
            if link is None or link[0].name != op.name:
                break
            op, affine = producer, before
        # … and down to the last: where not all of them compose, to the end of the part with this one.
        while True:
            chain = self._run_from(op)
            if any(part.name == name for part in chain.ops):
                return chain
            following = self._successor(chain.ops[-1])
            assert following is not None, "the way up led through here"
            op = following[0]

    def _run_from(self, op: Op) -> Chain:
        """The longest chain that begins with an affine operator."""
        affine = self._affine(op)
        assert affine is not None
        ops, total = [op], affine
        slot = facts_of(op).data_slot(Node(self.graph, op))
        while (link := self._links(ops[-1], total)) is not None:
            ops.append(link[0])
            total = link[1]
        return Chain(tuple(ops), total, op.input(slot), slot)

    # -- one chain -------------------------------------------------------------------------------

    def _settle(self, chain: Chain) -> None:
        """Try everything in order of preference; keep the reasons if nothing helps."""
        for op in chain.ops:
            self._stuck.pop(op.name, None)
        if self._is_identity(chain):
            self._remove_identity(chain)
            return
        if self._into_constant(chain):
            return
        back = self._backward(chain, chain.total)
        bias = isinstance(back, Move) and _is_bias(chain, back)
        if isinstance(back, Move) and not bias and self._worthwhile(chain, [back]):
            self._apply(chain, [back], "backward")
            return
        ahead = self._forward(chain, chain.total)
        if isinstance(ahead, Move) and self._worthwhile(chain, [ahead]):
            self._apply(chain, [ahead], "forward")
            return
        if self._split(chain) or self._cheaper(chain):
            return
        self._leave(chain, back, ahead, bias=bias)

    def _backward(self, chain: Chain, affine: Affine) -> Move | Blocked:
        return backward(self._terrain, chain.reader, affine)

    def _forward(self, chain: Chain, affine: Affine) -> Move | Blocked:
        return forward(self._terrain, chain.output, affine)

    def _is_identity(self, chain: Chain) -> bool:
        if chain.total.is_identity:
            return True
        op = chain.ops[0]
        near = len(chain.ops) == 1 and bool((np.abs(chain.total.scale - 1.0) < 0.01).all())
        return near and facts_of(op).is_identity(Node(self.graph, op))

    def _worthwhile(self, chain: Chain, moves: list[Move]) -> bool:
        """Fewer operators; or as many, where a linear operator's bias is all that stays of a scale."""
        added = sum(move.added for move in moves)
        if added < len(chain.ops):
            return True
        bare = all(rewrite.becomes is None for move in moves for rewrite in move.rewrites.values())
        return added == len(chain.ops) == 1 and bare and not chain.total.is_shift

    def _price(self, op: Op, rewrite: Rewrite) -> int | Refusal:
        """How many operators a rewrite adds, or why they cannot be built."""
        affine = rewrite.becomes or rewrite.residual
        if affine is None:
            return 0
        tensor = op.input(facts_of(op).data_slot(Node(self.graph, op))) if rewrite.becomes else op.outputs[0]
        form = self._form(tensor, affine, op)
        if isinstance(form, Refusal):
            return form
        return max(1, len(form)) - 1 if rewrite.becomes else len(form)

    def _form(self, tensor: str, affine: Affine, op: Op) -> list[NewOp] | Refusal:
        """The cheapest form of an affine in the dtype of ``op``, or why there is none that survives rounding."""
        dtype = self.editor.dtype_of(op)
        form = cheapest_form(self.graph, tensor, affine, dtype)
        if isinstance(form, Refusal):
            return form
        params = [part for new in form for part in new.inputs if isinstance(part, Param)]
        faults = [scale_fault(affine.scale, dtype), *map(rounding_fault, params)]
        fault = next((fault for fault in faults if fault), None)
        if fault is None:
            return form
        return Refusal(overflow_code(dtype), f"{op.display} ({op.type}) cannot take it: {fault}")

    def _split(self, chain: Chain) -> bool:
        """Scale one way and shift the other, where both find a home."""
        total = chain.total
        if total.is_scale or total.is_shift:
            return False
        orders = [(total.scale_part(), total.shift_part())]
        if total.scale.all():
            # s x + t = s (x + t/s): the shift can come first where no scale is zero.
            shift_first = Affine(total.scale, total.shift / total.scale, total.axis, total.grid)
            orders.append((shift_first.shift_part(), total.scale_part()))
        for first, second in orders:
            back = self._backward(chain, first)
            ahead = self._forward(chain, second) if isinstance(back, Move) else back
            if isinstance(back, Move) and isinstance(ahead, Move) and self._worthwhile(chain, [back, ahead]):
                self._apply(chain, [back, ahead], "split")
                return True
        return False

    def _cheaper(self, chain: Chain) -> bool:
        """Replace a chain that has to stay by fewer operators, or a BatchNormalization by a simpler one."""
        first, *rest = chain.ops
        batchnorm = facts_of(first).role is Role.BATCHNORM
        if not rest and not batchnorm:
            return False
        form = self._form(chain.source, chain.total, first)
        if isinstance(form, Refusal):
            return False
        simpler = batchnorm and len(form) == len(chain.ops) == 1 and form[0].type != first.type
        if len(form) >= len(chain.ops) and not simpler:
            return False
        self.editor.drop(op.name for op in rest)
        self.editor.replace_affine(first, chain.source, chain.total, chain.output)
        for op in rest:
            self._record(op, "composed", [first.name], [], {})
        if self.graph.op(first.name).type != first.type:
            self._record(first, "cheaper", [first.name], [], {})
        return True

    def _meet(self) -> bool:
        """Affines that are stuck on several inputs of one operator become one behind it."""
        meeting: dict[str, dict[int, Chain]] = {}
        for head, (chain, _, _) in self._stuck.items():
            following = self._successor(chain.ops[-1]) if head in self.graph else None
            if following is not None and following[0].name not in self.frozen:
                meeting.setdefault(following[0].name, {})[following[1]] = chain
        # All of them in one go: looking through everything that is stuck is dear.
        places = sorted((self.levels[name], name) for name, chains in meeting.items() if len(chains) > 1)
        joined = [self._join(self.graph.op(name), meeting[name]) for _, name in places]
        return any(joined)

    def _gauge(self) -> bool:
        """Affines that are stuck one by one may go together."""
        stays = [
            Stay(head, tuple(op.name for op in chain.ops), chain.total, chain.source, chain.output)
            for head, (chain, _, _) in self._stuck.items()
            if head in self.graph
        ]
        outcome = gauge(self._terrain, self.editor, stays) if stays else None
        for gone in outcome.gone if outcome is not None else ():
            for op in self._stuck.pop(gone.stay.head)[0].ops:
                self._record(op, "gauge", [], [], dict(gone.rename), names=self._labels(gone.into), past=gone.streams)
        return outcome is not None and bool(outcome.gone)

    def _join(self, op: Op, chains: dict[int, Chain]) -> bool:
        node, facts = Node(self.graph, op), facts_of(op)
        if any(chain.total.grid for chain in chains.values()) and not facts.grids:
            return False
        crossing = facts.sink(node, {slot: chain.total for slot, chain in chains.items()})
        if isinstance(crossing, Refusal) or set(crossing.affines) != {0} or crossing.rewrite is not None:
            return False
        behind = Rewrite(residual=crossing.affines[0])
        added, ops = self._price(op, behind), [part for chain in chains.values() for part in chain.ops]
        if isinstance(added, Refusal) or added >= len(ops):
            return False
        output = op.outputs[0]
        self.editor.drop(part.name for part in ops)
        for chain in chains.values():
            self._stuck.pop(chain.head)
            self.editor.redirect(chain.output, chain.source)
        self.editor.carry_out([Move(rewrites={op.name: behind})], {})
        last = self.graph.producer(output)
        for part in ops:
            self._record(part, "composed", [last.name] if last is not None else [], [op.name], {})
        return True

    def _remove_identity(self, chain: Chain) -> None:
        graph, output, source = self.graph, chain.output, chain.source
        producer = graph.producer(source)
        captured = graph.captured(output) is not None
        if not graph.is_output(output) and not captured:
            self.editor.drop(op.name for op in chain.ops)
            self.editor.redirect(output, source)
        elif producer is not None and not graph.is_output(source) and not graph.captured(source):
            self.editor.drop(op.name for op in chain.ops)
            self.editor.carry_out([], {source: output})
        else:
            first, *rest = chain.ops
            self.editor.drop(op.name for op in rest)
            self.editor.replace_affine(first, source, Affine.identity(), output)
        for op in chain.ops:
            self._record(op, "identity", [], [], {})

    def _into_constant(self, chain: Chain) -> bool:
        """An affine of a constant is a constant."""
        graph, output = self.graph, chain.output
        param = graph.constant(chain.source)
        if param is None or not param.is_float:
            return False
        new = mapped(param.renamed(output), chain.total)
        if new is None or rounding_fault(new):
            return False
        if graph.is_output(output):
            # An operator has to produce what the model returns.
            first, *rest = chain.ops
            self.editor.drop(op.name for op in rest)
            self.editor.replace_affine(first, self.editor.constant(new), Affine.identity(), output)
        else:
            self.editor.drop(op.name for op in chain.ops)
            graph.params[output] = new
        for op in chain.ops:
            self._record(op, "constant", [], [], {}, names=(param.name,))
        return True

    def _apply(self, chain: Chain, moves: list[Move], kind: str) -> None:
        changed = dict.fromkeys(tensor for move in moves for tensor in move.changed)
        keep = {chain.source: chain.output} if kind == "backward" else {}
        rename = renamed(self.graph, changed, keep)
        holders = list(dict.fromkeys(name for move in moves for name in move.holders))
        through = list(dict.fromkeys(name for move in moves for name in move.through))
        names = tuple(param.name for move in moves for param in move.constants.values())
        if not holders and not names:
            kind = "cancelled"
            holders = [name for name in through if not any(tensor in changed for tensor in self.graph.op(name).outputs)]
            through = [name for name in through if name not in holders]
        elif all(move.rewrites[name].becomes is not None for move in moves for name in move.holders) and not names:
            kind = "composed"
        into, past = self._labels(holders), self._labels(through)
        self.editor.drop(op.name for op in chain.ops)
        if not keep or chain.source not in rename:
            self.editor.redirect(chain.output, chain.source)
        self.editor.carry_out(moves, rename)
        for op in chain.ops:
            self._record(op, kind, holders, through, rename, names=(*into, *names), past=past)

    def _labels(self, names: Iterable[str]) -> tuple[str, ...]:
        return tuple(self.graph.op(name).display for name in names)

    def _record(
        self,
        op: Op,
        kind: str,
        holders: list[str],
        through: list[str],
        rename: dict[str, str],
        *,
        names: tuple[str, ...] | None = None,
        past: tuple[str, ...] | None = None,
    ) -> None:
        into = self._labels(holders) if names is None else names
        past = self._labels(through) if past is None else past
        keys = tuple(self.key(name) for name in holders)
        self.steps.append(FoldStep(self.key(op.name), op.display, op.type, kind, into, past, rename, self.scope, keys))

    def _leave(self, chain: Chain, back: Move | Blocked, ahead: Move | Blocked, *, bias: bool) -> None:
        """Keep the reasons, and look again when something that was asked changes."""
        reasons = []
        for found in (back, ahead):
            if isinstance(found, Blocked):
                reasons.append(found.refusal)
            else:
                into = ", ".join(self._labels(found.holders)) or "constants"
                reasons.append(Refusal("no-gain", f"moving it into {into} would leave no fewer operators"))
            for name in found.touched:
                self._watchers.setdefault(name, set()).add(chain.head)
        if not bias:
            self._stuck[chain.head] = (chain, reasons[0], reasons[1])

    def _stirred(self) -> set[str]:
        """Operators to look at (again) after a change."""
        dirty, self.editor.dirty = self.editor.dirty, set()
        again = set(dirty)
        for name in dirty:
            again |= self._watchers.pop(name, set())
        return again

    def _watching(self, names: Iterable[str]) -> set[str]:
        """These operators, and those that watch them or watched one that is gone."""
        again = set(names)
        for name in [name for name in self._watchers if name in again or name not in self.graph]:
            again |= self._watchers.pop(name)
        return again


def _is_bias(chain: Chain, back: Move) -> bool:
    """Is this the one Add that a linear operator without a bias of its own needs?"""
    if facts_of(chain.ops[0]).role is Role.BATCHNORM:
        return False
    bare = all(rewrite.residual is not None or rewrite.type for rewrite in back.rewrites.values())
    return len(chain.ops) == 1 and chain.total.is_shift and bool(back.rewrites) and bare and not back.through


def levels_of(graph: ModelGraph) -> dict[str, float]:
    """For each operator the length of the longest path to it: every edge goes to a higher level."""
    levels: dict[str, float] = {}
    waiting = graph.ops()
    while waiting:
        later = []
        for op in waiting:
            producers = [graph.producer(tensor) for tensor in (*op.inputs, *op.captures) if tensor]
            names = [producer.name for producer in producers if producer is not None]
            if any(name not in levels for name in names):
                later.append(op)
            else:
                levels[op.name] = 1.0 + max((levels[name] for name in names), default=0.0)
        if len(later) == len(waiting):
            raise ValueError("the graph has a cycle")
        waiting = later
    return levels
