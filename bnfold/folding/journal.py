"""What was done to one graph, step by step, in the words of the plan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from bnfold.folding.plan import FoldKind, FoldStep
from bnfold.graph import ModelGraph, Op

if TYPE_CHECKING:
    from bnfold.folding.gauges import Gone


class Journal:
    """The steps on one graph, which is the whole one or the subgraph that ``scope`` leads to."""

    def __init__(self, graph: ModelGraph, scope: str) -> None:
        self.graph, self.scope = graph, scope
        self.steps: list[FoldStep] = []

    def key(self, name: str) -> str:
        """How the plan calls an operator: unique over all subgraphs."""
        return f"{self.scope}/{name}" if self.scope else name

    def keys(self, names: Iterable[str]) -> tuple[str, ...]:
        return tuple([self.key(name) for name in names])

    def labels(self, names: Iterable[str]) -> tuple[str, ...]:
        """What people call the operators of these names."""
        return tuple([self.graph.op(name).display for name in names])

    def add(
        self,
        op: Op,
        kind: FoldKind,
        *,
        into: tuple[str, ...] = (),
        through: tuple[str, ...] = (),
        changed: Mapping[str, str] | None = None,
        holders: tuple[str, ...] = (),
        removed: tuple[str, ...] = (),
    ) -> None:
        """An operator that went; ``into`` and ``through`` are labels, ``holders`` and ``removed`` keys."""
        step = FoldStep(
            subject=self.key(op.name),
            label=op.display,
            type=op.type,
            kind=kind,
            into=into,
            through=through,
            changed=changed or {},
            scope=self.scope,
            holders=holders,
            removed=removed,
        )
        self.steps.append(step)

    def add_gauge(self, op: Op, gone: Gone) -> None:
        """An affine that went with its stream, or became a multiplication by signs."""
        made = self.graph.op(op.name).display if op.name in self.graph else ""
        step = FoldStep(
            subject=self.key(op.name),
            label=op.display,
            type=op.type,
            kind=FoldKind.CHEAPER if made else FoldKind.GAUGE,
            into=(made,) if made else self.labels(gone.into),
            changed=gone.rename,
            scope=self.scope,
            holders=self.keys([op.name] if made else gone.into),
            stream=gone.stream,
            repaid=self.labels(gone.repaid),
        )
        self.steps.append(step)
