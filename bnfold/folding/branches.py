"""Parallel linear branches become one convolution, and so do convolutions in a row where that is cheaper.

Works on sums: the leaves of a tree of additions are followed up through linear operators that
nobody else sees, and those that start from one tensor are added up as convolutions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations

from bnfold.affine import Affine
from bnfold.folding.editor import Editor
from bnfold.folding.journal import Journal
from bnfold.folding.plan import FoldKind
from bnfold.folding.rounding import rounding_fault, scale_fault
from bnfold.folding.sum_trees import Addition, MergeOperand, SumFinder, SumTree, broadcast
from bnfold.graph import ModelGraph, Op, Param, Place, Tensor
from bnfold.operators import Node, Role, facts_of
from bnfold.operators.answers import NewOp
from bnfold.operators.base import rank_of
from bnfold.operators.convolution import Convolution, add, add_plain, chain
from bnfold.operators.dialect import cheapest_form, dialect_of
from bnfold.refusal import Refusal

#: Puts the merged operator, with a given output, beside an operator; the names of what it made, in order.
Put = Callable[[str, str], list[str]]


@dataclass(slots=True)
class Merger:
    """Merges the branches of one graph in place."""

    graph: ModelGraph
    editor: Editor
    frozen: frozenset[str]
    journal: Journal
    sums: SumFinder = field(init=False)

    def __post_init__(self) -> None:
        self.sums = SumFinder(self.graph, self.frozen)

    def run(self) -> set[str]:
        """Merge everything that can be merged now; returns the operators that changed."""
        changed: set[str] = set()
        for name in self.editor.order.sorted(op.name for op in self.graph.ops()):
            while name in self.graph and self._merge_at(self.graph.op(name)):
                changed |= self.editor.take_changed()
        return {name for name in changed if name in self.graph}

    def _merge_at(self, op: Op) -> bool:
        if op.name in self.frozen:
            return False
        if self.sums.is_sum(op):
            return self.sums.is_root(op) and self._merge_sum(self.sums.tree(op))
        return self._merge_series(op)

    # -- sums ------------------------------------------------------------------------------------

    def _merge_sum(self, total: SumTree | None) -> bool:
        if total is None:
            return False
        options = self.sums.merge_operands(total)
        inputs: dict[str, int] = {}
        for operands in options:
            for operand in operands:
                inputs[operand.input] = inputs.get(operand.input, 0) + 1
        shared = sorted((name for name, count in inputs.items() if count > 1), key=lambda name: (-inputs[name], name))
        for tensor in shared:
            chosen: dict[int, MergeOperand] = {}
            for index, operands in enumerate(options):
                matching = [operand for operand in operands if operand.input == tensor]
                if matching:
                    chosen[index] = matching[0]
            if self._merge_operands(total, tensor, chosen):
                return True
        return False

    def _merge_operands(self, total: SumTree, tensor: str, chosen: dict[int, MergeOperand]) -> bool:
        """Merge as many as possible of the leaves that are convolutions of one tensor."""
        for subset in _subsets(chosen):
            operands = [chosen[index] for index in subset]
            parts = [operand.convolution for operand in operands]
            merged = add_plain(parts) or add(parts)
            if merged is None or not any(operand.ops for operand in operands) or not self._one_dtype(total, operands):
                continue
            inner = self._narrowest(total, subset)
            if inner is not total.ops[0]:
                # What is outside of that part of the sum stays as it is.
                if self._merge_sum(self.sums.tree(inner)):
                    return True
                continue
            rest = [leaf for index, leaf in enumerate(total.leaves) if index not in subset]
            additions = self._additions(total, rest)
            if additions is None:
                continue
            put = self._merged(tensor, merged, operands)
            if put is not None:
                self._replace(total, operands, put, additions)
                return True
        return False

    def _merged(self, tensor: str, merged: Affine | Convolution, operands: list[MergeOperand]) -> Put | None:
        """How to put one operator in the place of the operands, where the format has it and it survives rounding."""
        survivor = _survivor(operands)
        if isinstance(merged, Affine):
            fits = self._fits(tensor, merged, operands)
            return partial(self._put_plain, tensor, merged, survivor) if fits else None
        new = dialect_of(self.graph).convolution(tensor, merged, survivor.display)
        return partial(self._put, new, tensor, survivor) if new is not None and _sound(new) else None

    def _fits(self, tensor: str, merged: Affine, operands: list[MergeOperand]) -> bool:
        """Is there a form of an affine that takes no more operators than the operands do and survives rounding?"""
        dtype = operands[0].convolution.dtype
        form = cheapest_form(self.graph, tensor, merged, dtype)
        if isinstance(form, Refusal) or len(form) > sum(len(operand.ops) for operand in operands):
            return False
        return scale_fault(merged.scale, dtype) is None and all(map(_sound, form))

    def _one_dtype(self, total: SumTree, operands: list[MergeOperand]) -> bool:
        """Do the branches and their sum compute in one type? Keras's layers need not."""
        tensors = [total.ops[0].outputs[0], *(operand.leaf for operand in operands)]
        return len({self.graph.tensor(tensor).dtype for tensor in tensors} - {None}) < 2

    def _narrowest(self, total: SumTree, subset: Iterable[int]) -> Op:
        """The last operator of the sum that all of these leaves go through."""
        paths = [total.paths[index] for index in subset]
        common = [names[0] for names in zip(*paths, strict=False) if len(set(names)) == 1]
        return self.graph.op(common[-1])

    def _additions(self, total: SumTree, rest: list[tuple[str, float]]) -> list[Addition] | None:
        """Sums that add the leaves left over, no more than there were; None where the format has none for them."""
        rank = rank_of(self.graph, total.ops[0].outputs[0])
        if not all(dialect_of(self.graph).can_add(self.graph, leaf, rank) for leaf, _ in rest):
            return None
        many = tuple(leaf for leaf, sign in rest if sign > 0)
        additions = [Addition((leaf,), sign) for leaf, sign in rest]
        if len(many) > 1 and any(len(op.inputs) > 2 for op in total.ops):
            additions = [Addition(many, 1.0), *(addition for addition in additions if addition.sign < 0)]
        return additions if len(additions) <= len(total.ops) else None

    def _replace(self, total: SumTree, operands: list[MergeOperand], put: Put, additions: list[Addition]) -> None:
        """Take out the branches and the whole sum; ``put`` what they merge into and add what is left to it."""
        root, survivor = total.ops[0], _survivor(operands)
        output = root.outputs[0]
        removed = list(dict.fromkeys(op for operand in operands for op in operand.ops))
        known, branch = self.graph.tensor(output), self.graph.tensor(operands[0].leaf)
        gone = [op.name for op in removed if op is not survivor]
        self._record(FoldKind.BRANCH, root, survivor, gone)
        order, floor = self.editor.order, self._floor(total)
        top = order[root.name]
        at = self.graph.fresh(f"{root.name}_merged")
        self.graph.put(Op(at, "", (), ()), after=root.name)
        self.editor.drop(op.name for op in [*removed, *total.ops])
        data = self.graph.fresh(f"{output}_branch") if additions else output
        self.graph.declare(replace(branch if additions else known, name=data))
        order.put(at, floor)
        order.put(survivor.name, floor)
        made = put(data, at)
        made += self._add_up(data, additions, total.ops, known, made[-1])
        order.spread(made, floor, top)
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
            new = dialect_of(self.graph).sum(operands, addition.sign)
            op = Op(
                own.name, new.type, operands, (target.name,), {}, domain=new.domain, label=own.label, origin=own.origin
            )
            self.graph.put(op, after=after)
            self.editor.changed.add(own.name)
            made.append(own.name)
            data, after = target.name, own.name
        return made

    def _floor(self, total: SumTree) -> Place:
        """The last place of what a sum reads."""
        producers = [self.graph.producer(leaf) for leaf, _ in total.leaves]
        return max((self.editor.order[op.name] for op in producers if op is not None), default=0)

    def _put(self, new: NewOp, data: str, survivor: Op, output: str, at: str) -> list[str]:
        inputs = self.editor.inputs(new, data)
        op = Op(
            survivor.name,
            new.type,
            inputs,
            (output,),
            new.attributes,
            domain=new.domain,
            label=survivor.label,
            origin=survivor.origin,
        )
        self.graph.put(op, after=at)
        self.editor.changed.add(survivor.name)
        return [survivor.name]

    def _put_plain(self, data: str, plain: Affine, survivor: Op, output: str, at: str) -> list[str]:
        op = Op(survivor.name, survivor.type, (data,), (), label=survivor.label, origin=survivor.origin)
        self.graph.put(op, after=at)
        last = self.editor.replace_affine(op, data, plain, output)
        return list(dict.fromkeys([survivor.name, last]))

    def _record(self, kind: FoldKind, subject: Op, survivor: Op, removed: Iterable[str] = ()) -> None:
        journal = self.journal
        holders, into = (journal.key(survivor.name),), (survivor.display,)
        journal.add(subject, kind, into=into, holders=holders, removed=journal.keys(removed))

    # -- convolutions in a row -------------------------------------------------------------------

    def _merge_series(self, first: Op) -> bool:
        """Two convolutions in a row, where one costs less."""
        # Reading weights is expensive: ask for the roles first.
        if facts_of(first).role is not Role.LINEAR:
            return False
        use = self.graph.sole_reader(first.outputs[0])
        second = None if use is None else self.graph.op(use.op)
        if second is None or facts_of(second).role is not Role.LINEAR or second.name in self.frozen:
            return False
        one, two = (facts_of(op).convolution(Node(self.graph, op)) for op in (first, second))
        if one is None or two is None or one.plain is not None or two.plain is not None:
            return False
        merged = chain(one, two)
        if merged is None or merged.own_macs >= merged.macs:
            return False
        data = first.input(facts_of(first).data_slot(Node(self.graph, first)))
        new = dialect_of(self.graph).convolution(data, merged, second.display)
        if new is None or not _sound(new):
            return False
        inputs = self.editor.inputs(new, data)
        self._record(FoldKind.SERIES, first, second)
        self.editor.loose.update(name for name in second.inputs[1:] if name)
        self.graph.put(replace(second, type=new.type, inputs=inputs, attributes=new.attributes, record=None))
        self.editor.drop([first.name])
        self.editor.changed.add(second.name)
        return True


#: An affine is no good name for a convolution: the plan would speak of it as if it had stayed.
_AFFINE = (Role.BATCHNORM, Role.AFFINE, Role.JOIN)


def _survivor(operands: Iterable[MergeOperand]) -> Op:
    """The operator whose name the merged one gets: that of the largest kernel."""
    roles = {op.name: facts_of(op).role for operand in operands for op in operand.ops}
    ranked = [
        (roles[op.name] is Role.LINEAR, roles[op.name] not in _AFFINE, operand.convolution.own_macs, op.display, op)
        for operand in operands
        for op in operand.ops
    ]
    return max(ranked, key=lambda entry: entry[:-1])[-1]


def _subsets(chosen: dict[int, MergeOperand]) -> Iterator[tuple[int, ...]]:
    """All of the operands, then all but one, then pairs."""
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
