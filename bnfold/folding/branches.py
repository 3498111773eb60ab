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
from bnfold.folding.editor import Editor
from bnfold.folding.plan import FoldStep
from bnfold.folding.rounding import rounding_fault, scale_fault
from bnfold.folding.sum_trees import Addition, Sum, Term, broadcast
from bnfold.graph import CAPTURE, ModelGraph, Op, Param, Tensor
from bnfold.operators import Node, Role, facts_of
from bnfold.operators.base import NewOp, dim_of, rank_of
from bnfold.operators.convolution import Convolution, add, add_plain, chain, per_channel, write
from bnfold.operators.forms import can_add, cheapest_form, sum_form
from bnfold.refusal import Refusal

#: How many linear operators in a row one branch may have, and how many leaves a sum: bounds that no block reaches.
_MAX_DEPTH = 8
_MAX_LEAVES = 64


#: Puts the merged operator, with a given output, beside an operator; the names of what it made, in order.
Put = Callable[[str, str], list[str]]


@dataclass(slots=True)
class Merger:
    """Merges the branches of one graph in place."""

    graph: ModelGraph
    editor: Editor
    frozen: frozenset[str]
    key: Callable[[str], str]
    scope: str
    steps: list[FoldStep] = field(default_factory=list)

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

    def _sum(self, root: Op) -> Sum | None:
        """The tree of additions that ends in ``root``; None for one beyond the bounds."""
        total = Sum([], [], [])
        stack: list[tuple[str, float, tuple[str, ...]]] = [(root.outputs[0], 1.0, ())]
        while stack:
            tensor, sign, path = stack.pop()
            op = self.graph.producer(tensor)
            inside = op is root or (self._is_sum(op) and self._only_reader(tensor) is not None)
            if op is None or not inside:
                total.leaves.append((tensor, sign))
                total.paths.append(path)
                continue
            total.ops.append(op)
            addends = [*(facts_of(op).addends(Node(self.graph, op)) or {}).items()]
            stack += [(op.input(slot), sign * own, (*path, op.name)) for slot, own in reversed(addends)]
            if len(total.leaves) + len(stack) > _MAX_LEAVES:
                return None
        return total

    def _merge_sum(self, total: Sum | None) -> bool:
        if total is None:
            return False
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
            node = Node(self.graph, op)
            own = facts_of(op).convolution(node)
            if own is None or any(node.used(index) for index in range(1, len(op.outputs))):
                break
            so_far = own if so_far is None else chain(own, so_far)
            if so_far is None:
                break
            ops = (*ops, op)
            tensor = op.input(facts_of(op).data_slot(node))
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
            terms = [chosen[index] for index in subset]
            parts = [term.convolution for term in terms]
            merged = add_plain(parts) or add(parts)
            if merged is None or not any(term.ops for term in terms) or not self._one_dtype(total, terms):
                continue
            inner = self._narrowest(total, subset)
            if inner is not total.ops[0]:
                # What is outside of that part of the sum stays as it is.
                if self._merge_sum(self._sum(inner)):
                    return True
                continue
            rest = [leaf for index, leaf in enumerate(total.leaves) if index not in subset]
            additions = self._additions(total, rest)
            if additions is None:
                continue
            put = self._merged(source, merged, terms)
            if put is not None:
                self._replace(total, terms, put, additions)
                return True
        return False

    def _merged(self, source: str, merged: Affine | Convolution, terms: list[Term]) -> Put | None:
        """How to put one operator in the place of the terms, where the format has it and it survives rounding."""
        host = _host(terms)
        if isinstance(merged, Affine):
            fits = self._fits(source, merged, terms)
            return partial(self._put_plain, source, merged, host) if fits else None
        new = write(self.graph.format, source, merged, host.display)
        return partial(self._put, new, host) if new is not None and _sound(new) else None

    def _fits(self, source: str, merged: Affine, terms: list[Term]) -> bool:
        """Is there a form of an affine that takes no more operators than the terms do and survives rounding?"""
        dtype = terms[0].convolution.dtype
        form = cheapest_form(self.graph, source, merged, dtype)
        if isinstance(form, Refusal) or len(form) > sum(len(term.ops) for term in terms):
            return False
        return scale_fault(merged.scale, dtype) is None and all(map(_sound, form))

    def _one_dtype(self, total: Sum, terms: list[Term]) -> bool:
        """Do the branches and their sum compute in one type? Keras's layers need not."""
        tensors = [total.ops[0].outputs[0], *(term.leaf for term in terms)]
        return len({self.graph.tensor(tensor).dtype for tensor in tensors} - {None}) < 2

    def _narrowest(self, total: Sum, subset: Iterable[int]) -> Op:
        """The last operator of the sum that all of these leaves go through."""
        paths = [total.paths[index] for index in subset]
        common = [names[0] for names in zip(*paths, strict=False) if len(set(names)) == 1]
        return self.graph.op(common[-1])

    def _additions(self, total: Sum, rest: list[tuple[str, float]]) -> list[Addition] | None:
        """Sums that add the leaves left over, no more than there were; None where the format has none for them."""
        rank = rank_of(self.graph, total.ops[0].outputs[0])
        if not all(can_add(self.graph, leaf, rank) for leaf, _ in rest):
            return None
        many = tuple(leaf for leaf, sign in rest if sign > 0)
        additions = [Addition((leaf,), sign) for leaf, sign in rest]
        if len(many) > 1 and any(len(op.inputs) > 2 for op in total.ops):
            additions = [Addition(many, 1.0), *(addition for addition in additions if addition.sign < 0)]
        return additions if len(additions) <= len(total.ops) else None

    def _replace(self, total: Sum, terms: list[Term], put: Put, additions: list[Addition]) -> None:
        """Take out the branches and the whole sum; ``put`` what they merge into and add what is left to it."""
        root, host = total.ops[0], _host(terms)
        output = root.outputs[0]
        doomed = list(dict.fromkeys(op for term in terms for op in term.ops))
        known, branch = self.graph.tensor(output), self.graph.tensor(terms[0].leaf)
        self._record(root, host, doomed)
        floor, top = self._floor(total), self.editor.levels[root.name]
        at = self.graph.fresh(f"{root.name}_merged")
        self.graph.put(Op(at, "", (), ()), after=root.name)
        self.editor.drop(op.name for op in [*doomed, *total.ops])
        data = self.graph.fresh(f"{output}_branch") if additions else output
        self.graph.declare(replace(branch if additions else known, name=data))
        self.editor.levels[at] = self.editor.levels[host.name] = floor
        made = put(data, at)
        made += self._add_up(data, additions, total.ops, known, made[-1])
        for place, name in enumerate(made, start=1):
            self.editor.levels[name] = floor + (top - floor) * place / len(made)
        self.graph.remove(at)

    def _add_up(self, data: str, additions: list[Addition], ops: list[Op], known: Tensor, after: str) -> list[str]:
        """Add to ``data`` what is left over, by new operators named like the old ones; the last makes ``known``."""
        root, *others = ops
        made = []
        for index, addition in enumerate(additions, start=1):
            last = index == len(additions)
            own = root if last else others[index - 1]
            operands = (data, *addition.leaves)
            target = known
            if not last:
                shape = broadcast(self.graph.tensor(tensor).shape for tensor in operands)
                target = Tensor(self.graph.fresh(f"{known.name}_partial"), known.dtype, shape)
            self.graph.declare(target)
            new = sum_form(self.graph.format, operands, addition.sign)
            op = Op(own.name, new.type, operands, (target.name,), {}, new.domain, own.label, own.origin)
            self.graph.put(op, after=after)
            self.editor.dirty.add(own.name)
            made.append(own.name)
            data, after = target.name, own.name
        return made

    def _floor(self, total: Sum) -> float:
        """The highest level of what a sum reads."""
        producers = [self.graph.producer(leaf) for leaf, _ in total.leaves]
        return max((self.editor.levels[op.name] for op in producers if op is not None), default=0.0)

    def _put(self, new: NewOp, host: Op, output: str, at: str) -> list[str]:
        inputs = tuple(self.editor.constant(part) if isinstance(part, Param) else part for part in new.inputs)
        op = Op(host.name, new.type, inputs, (output,), new.attributes, new.domain, host.label, host.origin)
        self.graph.put(op, after=at)
        self.editor.dirty.add(host.name)
        return [host.name]

    def _put_plain(self, source: str, plain: Affine, host: Op, output: str, at: str) -> list[str]:
        op = Op(host.name, host.type, (source,), (), label=host.label, origin=host.origin)
        self.graph.put(op, after=at)
        last = self.editor.replace_affine(op, source, plain, output)
        return list(dict.fromkeys([host.name, last]))

    def _record(self, root: Op, host: Op, doomed: list[Op]) -> None:
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


#: An affine is no good name for a convolution: the plan would speak of it as if it had stayed.
_AFFINE = (Role.BATCHNORM, Role.AFFINE, Role.JOIN)


def _host(terms: Iterable[Term]) -> Op:
    """The operator whose name the merged one gets: that of the largest kernel."""
    roles = {op.name: facts_of(op).role for term in terms for op in term.ops}
    ranked = [
        (roles[op.name] is Role.LINEAR, roles[op.name] not in _AFFINE, term.convolution.own_macs, op.display, op)
        for term in terms
        for op in term.ops
    ]
    return max(ranked, key=lambda entry: entry[:-1])[-1]


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
