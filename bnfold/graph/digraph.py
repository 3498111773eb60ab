"""A graph of operators for networkx."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import networkx  # 0.1 s to import, which a plain fold need not pay: who asks for a digraph imports this module

from bnfold.graph.elements import Op
from bnfold.graph.uses import Uses


def digraph_of(name: str, ops: Iterable[Op], uses: Uses, producers: Mapping[str, str]) -> networkx.MultiDiGraph[str]:
    """Nodes are operator names with their ``op``, an edge runs from producer to reader with ``tensor`` and ``slot``."""
    graph: networkx.MultiDiGraph[str] = networkx.MultiDiGraph(name=name)
    for op in ops:
        graph.add_node(op.name, op=op)
    for tensor in uses:
        if tensor in producers:
            for use in uses.of(tensor):
                graph.add_edge(producers[tensor], use.op, tensor=tensor, slot=use.slot)
    return graph
