"""The operators beside a tensor, with those passed over that only hand it on."""

from __future__ import annotations

from collections.abc import Collection

from bnfold.analysis.flow import Flow
from bnfold.graph import ModelGraph, Op
from bnfold.operators import Node, Role, facts_of


def producer_behind(graph: ModelGraph, flow: Flow, tensor: str, passing: Collection[Role]) -> Op | None:
    """The operator that computes a tensor, looking through operators with a role in ``passing``."""
    op = graph.producer(tensor)
    while op is not None and flow.role(op) in passing:
        op = graph.producer(op.input(facts_of(op).data_slot(Node(graph, op))))
    return op


def readers_beyond(graph: ModelGraph, flow: Flow, tensor: str, passing: Collection[Role]) -> list[Op] | None:
    """All operators that read a tensor, looking through those with a role in ``passing``.

    None where someone else sees it: the model's output, or the body of an If, Loop or Scan.
    """
    readers: dict[str, Op] = {}
    pending, seen = [tensor], {tensor}
    while pending:
        here = pending.pop()
        if graph.is_output(here) or graph.captured(here) is not None:
            return None
        for use in graph.consumers(here):
            op = graph.op(use.op)
            if flow.role(op) not in passing:
                readers[op.name] = op
                continue
            fresh = [output for output in op.outputs if output and output not in seen]
            seen.update(fresh)
            pending += fresh
    return sorted(readers.values(), key=lambda op: graph.position(op.name))
