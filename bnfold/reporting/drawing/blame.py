"""Which operator stands in the way of an affine that stays: the one that refuses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bnfold.folding.plan import Remaining
from bnfold.graph import ModelGraph


def blockers(graph: ModelGraph, remaining: Sequence[Remaining]) -> dict[str, tuple[str, ...]]:
    """The keys of what stays, by the key of the operator that refuses it; only operators of ``graph`` count."""
    scopes = dict(_scopes(graph, ""))
    found: dict[str, dict[str, None]] = {}
    for item in remaining:
        inner = scopes.get(item.scope)
        for refusal in (item.backward, item.forward):
            key = f"{item.scope}/{refusal.op}" if item.scope else refusal.op
            if inner is not None and refusal.op in inner and key != item.subject:
                found.setdefault(key, {})[item.subject] = None
    return {key: tuple(subjects) for key, subjects in found.items()}


def _scopes(graph: ModelGraph, scope: str) -> Iterable[tuple[str, ModelGraph]]:
    yield scope, graph
    for op in graph.ops():
        for name, body in op.subgraphs.items():
            yield from _scopes(body, f"{scope}/{op.name}/{name}" if scope else f"{op.name}/{name}")
