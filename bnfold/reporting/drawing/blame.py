"""Which operator stands in the way of an affine that stays: the one that its refusal names."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from bnfold.folding.plan import Remaining
from bnfold.graph import ModelGraph, Op

#: So many operators are looked at on each side: a refusal names one that the search came by.
_REACH = 200


def blockers(graph: ModelGraph, remaining: Sequence[Remaining]) -> dict[str, tuple[str, ...]]:
    """The keys of what stays, by the key of the operator that its refusals name.

    A refusal is a sentence that begins with an operator's name; several may share it, so the nearest counts.
    """
    scopes = dict(_scopes(graph, ""))
    found: dict[str, list[str]] = {}
    for item in remaining:
        inner = scopes.get(item.scope)
        name = item.subject.removeprefix(f"{item.scope}/") if item.scope else item.subject
        if inner is None or name not in inner:
            continue
        for refusal, back in ((item.backward, True), (item.forward, False)):
            for op in _nearest_first(inner, inner.op(name), back):
                if op.name != name and _names(refusal.sentence, op):
                    key = f"{item.scope}/{op.name}" if item.scope else op.name
                    found.setdefault(key, []).append(item.subject)
                    break
    return {key: tuple(dict.fromkeys(subjects)) for key, subjects in found.items()}


def _scopes(graph: ModelGraph, scope: str) -> Iterable[tuple[str, ModelGraph]]:
    yield scope, graph
    for op in graph.ops():
        for name, body in op.subgraphs.items():
            yield from _scopes(body, f"{scope}/{op.name}/{name}" if scope else f"{op.name}/{name}")


def _names(sentence: str, op: Op) -> bool:
    return sentence.startswith((f"{op.display} ", f"{op.type} {op.display} "))


def _nearest_first(graph: ModelGraph, start: Op, back: bool) -> Iterator[Op]:
    """The operators before (or behind) one, and beside those: siblings of a reader count as its side."""
    seen = {start.name}
    queue = deque([start])
    while queue and len(seen) < _REACH:
        op = queue.popleft()
        yield op
        if back:
            near = [graph.producer(tensor) for tensor in op.inputs]
        else:
            near = [graph.op(use.op) for tensor in op.outputs for use in graph.uses(tensor)]
        for other in near:
            if other is not None and other.name not in seen:
                seen.add(other.name)
                queue.append(other)
