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
    #: The depth of the operator that makes each tensor, None where it is not known yet.
    made: dict[str, int | None] = {tensor: None for op in waiting for tensor in op.outputs}
    made.pop("", None)
    while waiting:
        later = []
        for op in waiting:
            depth = 0
            for tensor in (*op.inputs, *op.captures) if op.captures else op.inputs:
                before = made.get(tensor, 0)
                if before is None:
                    later.append(op)
                    break
                if before > depth:
                    depth = before
            else:
                depths[op.name] = depth = 1 + depth
                for tensor in op.outputs:
                    if tensor:
                        made[tensor] = depth
        if len(later) == len(waiting):
            raise ValueError("the graph has a cycle")
        waiting = later
    return Order(depths)
