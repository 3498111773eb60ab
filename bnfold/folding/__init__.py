"""The search for a fold target for every affine of a model, and the plan that says what became of each."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field, replace

from bnfold.folding.branches import Merger
from bnfold.folding.plan import FoldKind, FoldStep, Plan, Remaining
from bnfold.folding.targets import Folder
from bnfold.graph import ModelGraph, Op

__all__ = ["FoldKind", "FoldStep", "Plan", "Remaining", "fold_graph"]


def fold_graph(
    graph: ModelGraph, *, branches: bool = True, keep_overridable: bool = False, skip: Container[str] = ()
) -> tuple[ModelGraph, Plan]:
    """Fold a copy of ``graph`` and say what was done.

    ``branches`` merges parallel linear branches as well. Constants that the caller of the model may
    override become true constants unless ``keep_overridable``. Operators whose names are in ``skip``
    (``subject`` of a :class:`FoldStep`) stay as they are.
    """
    copy = graph.copy()
    notes = list(graph.notes)
    copy.freeze_overridable = not keep_overridable
    if copy.overridable and not keep_overridable:
        notes.append(f"{len(copy.overridable)} weights were also inputs of the model; they are constants now")
        copy.overridable.clear()
    run = _Run(branches, skip)
    run.fold(copy, "")
    if run.unread:
        notes.append(f"{run.unread} operators whose results nobody reads are gone")
    return copy, Plan(tuple(run.steps), tuple(run.remaining), tuple(notes))


@dataclass(slots=True)
class _Run:
    """One run over a graph and, first, the subgraphs inside it."""

    branches: bool
    skip: Container[str]
    steps: list[FoldStep] = field(default_factory=list)
    remaining: list[Remaining] = field(default_factory=list)
    #: How many operators were there for nothing.
    unread: int = 0

    def fold(self, graph: ModelGraph, scope: str) -> None:
        freed = {tensor for op in graph.ops() if op.subgraphs for tensor in self._fold_bodies(graph, op, scope)}
        folder = Folder(graph, self.skip, scope)
        folder.editor.loose |= freed
        self.unread += folder.editor.sweep()
        while True:
            folder.run()
            if not (self._merge(folder) or folder.gauge_blocked() or folder.compose_with_growth()):
                break
        self.steps += folder.journal.steps
        self.remaining += folder.remaining()

    def _merge(self, folder: Folder) -> bool:
        """Merge parallel branches, if that is wanted; whether that changed anything."""
        if not self.branches:
            return False
        merger = Merger(folder.graph, folder.editor, folder.frozen, folder.journal)
        changed = merger.run()
        folder.revisit(changed)
        return bool(changed)

    def _fold_bodies(self, graph: ModelGraph, op: Op, scope: str) -> set[str]:
        """Fold the subgraphs of an operator; the outer tensors that they no longer read."""
        for key, body in op.subgraphs.items():
            self.fold(body, f"{scope}/{op.name}/{key}" if scope else f"{op.name}/{key}")
        read = tuple(name for name in op.captures if any(body.is_used(name) for body in op.subgraphs.values()))
        graph.put(replace(op, captures=read, record=None))
        return set(op.captures) - set(read)
