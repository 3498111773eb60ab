"""The order in which values can be computed."""

from __future__ import annotations

from bnfold.graph.modelgraph import ModelGraph
from bnfold.graph.order import Order, Place


def dataflow_order(graph: ModelGraph) -> Order:
    """Each operator at the length of the longest path to it: every edge goes to a higher place.

    Raises ValueError where the graph has a cycle.
    """
    depths: dict[str, Place] = {}
    waiting = graph.ops()
    while waiting:
        later = []
        for op in waiting:
            depth: Place = 0
            for tensor in (*op.inputs, *op.captures) if op.captures else op.inputs:
                producer = graph.producer(tensor)
                if producer is None:
                    continue
                before = depths.get(producer.name)
                if before is None:
                    later.append(op)
                    break
                depth = max(depth, before)
            else:
                depths[op.name] = 1 + depth
        if len(later) == len(waiting):
            raise ValueError("the graph has a cycle")
        waiting = later
    return Order(depths)
