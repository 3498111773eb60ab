"""Parallel linear branches become one convolution, and so do convolutions in a row where that is cheaper.

Works on sums: the leaves of a tree of additions are followed up through linear operators that
nobody else sees, and those that start from one tensor are added up as convolutions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations, islice

from bnfold.affine import Affine
from bnfold.folding.apply import Editor
from bnfold.folding.numbers import rounding_fault
from bnfold.folding.plan import FoldStep
from bnfold.graph import CAPTURE, ModelGraph, Op, Param
from bnfold.operators import Node, Role, facts_of
from bnfold.operators.base import NewOp, dim_of, rank_of
from bnfold.operators.convolution import Convolution, add, add_plain, chain, per_channel, write
from bnfold.operators.forms import sum_form

#: How many linear operators in a row one branch may have.
_MAX_DEPTH = 8


@dataclass(frozen=True, slots=True)
class Term:
    """A leaf of a sum as a convolution of ``source``; ``ops`` compute it and nothing else."""

    leaf: str
    source: str
    convolution: Convolution
    ops: tuple[Op, ...]


@dataclass(slots=True)
class Sum:
    """A tree of additions: the operators, its root first, and the tensors at its leaves with signs."""

    ops: list[Op]
    leaves: list[tuple[str, float]]


@dataclass(slots=True)
class Merger:
    """Merges the branches of one graph in place."""

    graph: ModelGraph
    editor: Editor
    frozen: frozenset[str]
    key: Callable[[str], str]
    scope: str
    steps: list[FoldStep] = field(default_factory=list)
    _step: float = 0.0

    def run(self) -> set[str]:
        """Merge everything that can be merged now; returns the operators that changed."""
        stirred: set[str] = set()
        for op in sorted(self.graph.ops(), key=lambda op: (self.editor.levels[op.name], op.name)):
            while op.name in self.graph and self._merge_at(self.graph.op(op.name)):
                stirred |= self.editor.dirty
                self.editor.dirty = set()
        return {name for name in stirred if name in self.graph}

    def _merge_at(self, op: Op) -> bool:
        if op.name in self.frozen:
            return False
        if self._is_sum(op):
            return self._is_root(op) and self._merge_sum(self._sum(op))
        return self._merge_chain(op)

    # -- sums ------------------------------------------------------------------------------------

    def _is_sum(self, op: Op | None) -> bool:
        return op is not None and op.name not in self.frozen and facts_of(op).addends(Node(self.graph, op)) is not None

    def _only_reader(self, tensor: str) -> Op | None:
        """The one operator that reads a tensor once, if nobody else sees it."""
        uses = list(islice(self.graph.uses(tensor), 2))
        if len(uses) != 1 or uses[0].slot == CAPTURE or self.graph.is_output(tensor):
            return None
        return self.graph.op(uses[0].op)

    def _is_root(self, op: Op) -> bool:
        return not self._is_sum(self._only_reader(op.outputs[0]))

    def _sum(self, root: Op) -> Sum:
        ops, leaves = [], []
        stack = [(root, 1.0)]
        while stack:
            op, sign = stack.pop()
            ops.append(op)
            for slot, own in (facts_of(op).addends(Node(self.graph, op)) or {}).items():
                tensor = op.input(slot)
                producer = self.graph.producer(tensor)
                if producer is not None and self._is_sum(producer) and self._only_reader(tensor) is not None:
                    stack.append((producer, sign * own))
                else:
                    leaves.append((tensor, sign * own))
        return Sum(ops, leaves)

    def _merge_sum(self, total: Sum) -> bool:
        if len(total.leaves) > 64:
            return False  # quadratic below; no branch block comes near
        candidates = [self._terms(leaf, sign) for leaf, sign in total.leaves]
        wanted = {term.source: term.convolution for terms in candidates for term in terms}
        for terms, (leaf, sign) in zip(candidates, total.leaves, strict=True):
            identity = self._identity(leaf, sign, wanted[leaf]) if leaf in wanted else None
            if identity is not None:
                terms.insert(0, identity)
        sources: dict[str, int] = {}
        for terms in candidates:
            for term in terms:
                sources[term.source] = sources.get(term.source, 0) + 1
        shared = sorted((s for s, count in sources.items() if count > 1), key=lambda s: (-sources[s], s))
        for source in shared:
            chosen = {}
            for index, terms in enumerate(candidates):
                matching = [term for term in terms if term.source == source]
                if matching:
                    chosen[index] = matching[0]
            if self._merge_terms(total, source, chosen):
                return True
        return False

    def _terms(self, leaf: str, sign: float) -> list[Term]:
        """The leaf as a convolution of what its operator reads, of what comes before that, and so on upward."""
        terms: list[Term] = []
        tensor = leaf
        so_far: Convolution | None = None
        ops: tuple[Op, ...] = ()
        for _ in range(_MAX_DEPTH):
            op = self.graph.producer(tensor)
            if op is None or op.name in self.frozen or op.outputs[0] != tensor or self._only_reader(tensor) is None:
                break
            own = facts_of(op).convolution(Node(self.graph, op))
            if own is None:
                break
            so_far = own if so_far is None else chain(own, so_far)
            if so_far is None:
                break
            ops = (*ops, op)
            tensor = op.input(facts_of(op).data_slot(Node(self.graph, op)))
            terms.append(Term(leaf, tensor, _signed(so_far, sign), ops))
        return terms

    def _identity(self, leaf: str, sign: float, like: Convolution) -> Term | None:
        """The leaf as an identity of itself, in the shape of the convolutions it is added to."""
        rank, channels = rank_of(self.graph, leaf), dim_of(self.graph, leaf, like.channel_axis)
        dtype = self.graph.tensor(leaf).dtype
        if rank != len(like.shape) or channels is None or dtype is None or self.graph.constant(leaf) is not None:
            return None
        own = per_channel(Affine.identity(), channels, rank - 2, dtype, 0.0, like.channel_axis)
        return Term(leaf, leaf, _signed(own, sign), ())

    def _merge_terms(self, total: Sum, source: str, chosen: dict[int, Term]) -> bool:
        for subset in _subsets(chosen):
            terms = {index: chosen[index] for index in subset}
            parts = [term.convolution for term in terms.values()]
            if not any(term.ops for term in terms.values()):
                continue
            plain = add_plain(parts)
            if plain is not None:
                self._replace(total, terms, partial(self._put_plain, source, plain))
                return True
            merged = add(parts)
            host = _host(terms.values())
            new = None if merged is None else write(self.graph.format, source, merged, host.display)
            if new is not None and _sound(new):
                self._replace(total, terms, partial(self._put, new))
                return True
        return False

    def _replace(self, total: Sum, terms: dict[int, Term], put: Callable[[str, Op, str], str]) -> None:
        """Take out the branches and the whole sum; ``put`` what they merge into and add what is left to it."""
        root = total.ops[0]
        output, host = root.outputs[0], _host(terms.values())
        doomed = list(dict.fromkeys(op for term in terms.values() for op in term.ops))
        rest = [leaf for index, leaf in enumerate(total.leaves) if index not in terms]
        known = {name: self.graph.tensor(name) for name in (output, host.outputs[0])}
        merged = output if not rest else self.graph.fresh(f"{output}_branch")
        self._record(root, host, doomed, merged)
        at = self._place(total, len(rest))
        self.editor.drop(op.name for op in [*doomed, *total.ops])
        self.graph.declare(replace(known[host.outputs[0]] if rest else known[output], name=merged))
        last = put(merged, host, at)
        spare = iter([op.name for op in total.ops[1:]])
        data = merged
        for index, (leaf, sign) in enumerate(rest):
            final = index == len(rest) - 1
            target = output if final else self.graph.fresh(f"{output}_partial")
            self.graph.declare(replace(known[output], name=target))
            name = root.name if final else next(spare)
            new = sum_form(self.graph.format, data, leaf, sign)
            label = root.label if final else name
            self._insert(Op(name, new.type, (data, leaf), (target,), new.attributes, new.domain, label), last)
            data, last = target, name
        self.graph.remove(at)

    def _place(self, total: Sum, count: int) -> str:
        """A placeholder where the sum stood, with levels below the sum's for what comes before it."""
        root = total.ops[0]
        levels = self.editor.levels
        producers = [self.graph.producer(leaf) for leaf, _ in total.leaves]
        floor = max((levels[op.name] for op in producers if op is not None), default=0.0)
        at = self.graph.fresh("merged")
        self.graph.put(Op(at, "", (), ()), after=root.name)
        self._step = (levels[root.name] - floor) / (count + 1)
        levels[at] = floor
        return at

    def _insert(self, op: Op, after: str) -> None:
        self.graph.put(op, after=after)
        self.editor.levels[op.name] = self.editor.levels[after] + self._step
        self.editor.dirty.add(op.name)

    def _put(self, new: NewOp, output: str, host: Op, at: str) -> str:
        inputs = tuple(self.editor.constant(part) if isinstance(part, Param) else part for part in new.inputs)
        self._insert(
            Op(host.name, new.type, inputs, (output,), new.attributes, new.domain, host.label, host.origin), at
        )
        return host.name

    def _put_plain(self, source: str, plain: Affine, output: str, host: Op, at: str) -> str:
        op = Op(host.name, host.type, (source,), (), label=host.label, origin=host.origin)
        self._insert(op, at)
        return self.editor.replace_affine(op, source, plain, output)

    def _record(self, root: Op, host: Op, doomed: list[Op], merged: str) -> None:
        removed = tuple(self.key(op.name) for op in doomed if op is not host)
        step = FoldStep(
            self.key(root.name), root.display, root.type, "branch", (host.display,), (), {}, self.scope,
            (self.key(host.name),), removed,
        )  # fmt: skip
        self.steps.append(step)

    # -- chains ----------------------------------------------------------------------------------

    def _merge_chain(self, first: Op) -> bool:
        """Two convolutions in a row, where one costs less."""
        tensor = first.outputs[0] if first.outputs else ""
        second = self._only_reader(tensor) if tensor else None
        if second is None or second.name in self.frozen or not self._chainable(first) or not self._chainable(second):
            return False
        one, two = (facts_of(op).convolution(Node(self.graph, op)) for op in (first, second))
        if one is None or two is None or one.plain is not None or two.plain is not None:
            return False
        merged = chain(one, two)
        if merged is None or merged.own_macs >= merged.macs:
            return False
        source = first.input(facts_of(first).data_slot(Node(self.graph, first)))
        new = write(self.graph.format, source, merged, second.display)
        if new is None or not _sound(new):
            return False
        inputs = tuple(self.editor.constant(part) if isinstance(part, Param) else part for part in new.inputs)
        step = FoldStep(
            self.key(first.name), first.display, first.type, "chain", (second.display,), (), {}, self.scope,
            (self.key(second.name),),
        )  # fmt: skip
        self.steps.append(step)
        self.editor.loose.update(name for name in second.inputs[1:] if name)
        self.graph.put(replace(second, type=new.type, inputs=inputs, attributes=new.attributes, record=None))
        self.editor.drop([first.name])
        self.editor.dirty.add(second.name)
        return True

    def _chainable(self, op: Op) -> bool:
        # Reading weights is dear: ask the cheap question first.
        return facts_of(op).role is Role.LINEAR


def _signed(convolution: Convolution, sign: float) -> Convolution:
    if sign > 0:
        return convolution
    plain = convolution.plain
    negative = None if plain is None else Affine(-plain.scale, -plain.shift, plain.axis)
    load = convolution.load
    return replace(convolution, load=lambda: -load(), bias=-convolution.bias, plain=negative)


def _host(terms: Iterable[Term]) -> Op:
    """The operator whose name the merged one gets: that of the largest kernel."""
    ranked = [
        (facts_of(op).role is Role.LINEAR, term.convolution.own_macs, op.display, op)
        for term in terms
        for op in term.ops
    ]
    return max(ranked, key=lambda entry: entry[:3])[3]


def _subsets(chosen: dict[int, Term]) -> Iterator[tuple[int, ...]]:
    """All of the terms, then all but one, then pairs."""
    indices = tuple(sorted(chosen))
    yield indices
    if len(indices) > 2:
        for left_out in indices:
            yield tuple(index for index in indices if index != left_out)
    if len(indices) > 3:
        yield from combinations(indices, 2)


def _sound(new: NewOp) -> bool:
    """Do the merged weights survive rounding?"""
    return not any(isinstance(part, Param) and rounding_fault(part) for part in new.inputs)
