"""The fold candidates of a graph: maximal runs of affine operators."""

from __future__ import annotations

from dataclasses import KW_ONLY, replace

from bnfold.affine import Affine
from bnfold.folding.journal import Journal
from bnfold.folding.plan import Remaining
from bnfold.graph import ModelGraph, Op, Use
from bnfold.operators import Node, Role, as_affine, facts_of
from bnfold.records import record
from bnfold.refusal import Refusal


@record
class Candidate:
    """A run of affine operators, each the only reader of the one before, and the one affine they are together."""

    _: KW_ONLY
    ops: tuple[Op, ...]
    total: Affine
    #: The tensor that the first of them reads, and in which slot.
    input: str
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


#: Operators in a row that are looked at one by one.
MAX_PARTS = 4


class CandidateFinder:
    """Finds the candidate that an operator belongs to. Those in ``fixed`` belong to none."""

    def __init__(self, graph: ModelGraph, fixed: frozenset[str]) -> None:
        self._graph = graph
        self._fixed = fixed
        #: Operators of types that may be affine, and are not.
        self._others: dict[str, Op] = {}
        #: Operators that may be affine, but for the shape of their input.
        self._shapeless: set[str] = set()

    def of(self, name: str) -> Candidate | None:
        """The longest run with the operator of that name; None if it is no affine."""
        op = self._graph.op(name)
        if self._affine(op) is None:
            return None
        first = self._first(op)
        # Where not all of them compose, the run ends early: go on to the part with this operator.
        while True:
            candidate = self._run_from(first)
            if any(part.name == name for part in candidate.ops):
                return candidate
            use = self._graph.sole_reader(candidate.output)
            assert use is not None, "the way up led through here"
            first = self._graph.op(use.op)

    def parts(self, candidate: Candidate) -> tuple[Candidate, ...]:
        """A number, a scale and a shift apart, of which each may go without the others.

        It stays whole where a BatchNormalization belongs to it, where it makes a constant of a channel, and where it
        is longer: such a run was not composed since its numbers leave the range of its dtype.
        """
        ops = candidate.ops
        batchnorm = any(facts_of(op).role is Role.BATCHNORM for op in ops)
        if not 1 < len(ops) <= MAX_PARTS or batchnorm or not candidate.total.scale.all():
            return (candidate,)
        return tuple([self._alone(op) for op in ops])

    def _alone(self, op: Op) -> Candidate:
        total = self._affine(op)
        assert total is not None
        slot = facts_of(op).data_slot(Node(self._graph, op))
        return Candidate(ops=(op,), total=total, input=op.input(slot), slot=slot)

    def _affine(self, op: Op) -> Affine | None:
        if not facts_of(op).answers("as_affine") or op.name in self._fixed or self._others.get(op.name) is op:
            return None
        affine = as_affine(self._graph, op)
        if isinstance(affine, Affine):
            return affine
        self._others[op.name] = op
        if affine.code in ("unknown-rank", "unknown-shape"):
            self._shapeless.add(op.name)
        return None

    @property
    def shapeless(self) -> bool:
        """Was there an operator that more knowledge of shapes could show to be an affine?"""
        return bool(self._shapeless)

    def forget_shapeless(self) -> set[str]:
        """Ask those operators anew the next time; their names."""
        names, self._shapeless = self._shapeless, set()
        for name in names:
            del self._others[name]
        return names

    def _first(self, op: Op) -> Op:
        """The first operator from which each composes with the next, down to this one."""
        while True:
            producer = self._graph.producer(op.input(facts_of(op).data_slot(Node(self._graph, op))))
            affine = self._affine(producer) if producer is not None else None
            if producer is None or affine is None or producer.outputs[0] == "":
                return op
            following = self._following(producer, affine)
            if following is None or following[0].name != op.name:
                return op
            op = producer

    def _following(self, op: Op, total: Affine) -> tuple[Op, Affine] | None:
        """The affine behind an operator that composes with ``total``, and the two together."""
        use = self._graph.sole_reader(op.outputs[0])
        if use is None:
            return None
        reader = self._graph.op(use.op)
        affine = self._affine(reader)
        if affine is None or facts_of(reader).data_slot(Node(self._graph, reader)) != use.slot:
            return None
        composed = total.then(affine) if total.composes(affine) else None
        return (reader, composed) if composed is not None and composed.is_finite else None

    def _run_from(self, op: Op) -> Candidate:
        """The longest run that begins with an affine operator."""
        first = self._alone(op)
        ops, total = [op], first.total
        while (following := self._following(ops[-1], total)) is not None:
            ops.append(following[0])
            total = following[1]
        return first if len(ops) == 1 else replace(first, ops=tuple(ops), total=total)


def no_affines(journal: Journal) -> list[Remaining]:
    """The BatchNormalizations that are none, as in training mode: they are their own reason on both sides."""
    return [
        Remaining(
            subject=journal.key(op.name),
            label=op.display,
            type=op.type,
            is_batchnorm=True,
            backward=refusal,
            forward=refusal,
            scope=journal.scope,
        )
        for op in journal.graph.ops()
        if facts_of(op).role is Role.BATCHNORM and isinstance(refusal := as_affine(journal.graph, op), Refusal)
    ]
