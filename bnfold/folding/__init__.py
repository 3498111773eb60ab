"""The search for a home for every affine of a model, and the plan that says what became of each."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace

from bnfold.folding.branches import Merger
from bnfold.folding.engine import Engine
from bnfold.folding.plan import FoldStep, Plan, Remaining
from bnfold.graph import ModelGraph

__all__ = ["FoldStep", "Plan", "Remaining", "fold_graph"]


def fold_graph(
    graph: ModelGraph, *, branches: bool = True, keep_overridable: bool = False, skip: Container[str] = ()
) -> tuple[ModelGraph, Plan]:
    """Fold a copy of ``graph`` and say what was done.

    ``branches`` merges parallel linear branches as well. Constants that the caller of the model may
    override become true constants unless ``keep_overridable``. Operators whose names are in ``skip``
    (``subject`` of a :class:`FoldStep`) stay as they are.
    """
    copy = graph.copy()
    notes: list[str] = []
    copy.freeze_overridable = not keep_overridable
    if copy.overridable and not keep_overridable:
        notes.append(f"{len(copy.overridable)} weights were also inputs of the model; they are constants now")
        copy.overridable.clear()
    steps: list[FoldStep] = []
    remaining: list[Remaining] = []
    _fold_scope(copy, "", branches, skip, steps, remaining)
    return copy, Plan(tuple(steps), tuple(remaining), tuple(notes))


def _fold_scope(
    graph: ModelGraph,
    scope: str,
    branches: bool,
    skip: Container[str],
    steps: list[FoldStep],
    remaining: list[Remaining],
) -> None:
    for op in graph.ops():
        for key, body in op.subgraphs.items():
            _fold_scope(
                body, f"{scope}/{op.name}/{key}" if scope else f"{op.name}/{key}", branches, skip, steps, remaining
            )
        if op.subgraphs:
            captures = tuple(name for name in op.captures if any(_reads(body, name) for body in op.subgraphs.values()))
            graph.put(replace(op, captures=captures, record=None))
    engine = Engine(graph, skip, scope)
    engine.run()
    while branches:
        merger = Merger(graph, engine.editor, engine.frozen, engine.key, scope)
        stirred = merger.run()
        engine.steps += merger.steps
        if not stirred:
            break
        engine.run(stirred)
    engine.editor.prune()
    steps += engine.steps
    remaining += engine.remaining()


def _reads(body: ModelGraph, name: str) -> bool:
    """Does a subgraph, or one inside it, still read an outer tensor by name?"""
    return body.use_count(name) > 0 or body.is_output(name)
