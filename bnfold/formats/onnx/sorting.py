"""Nodes in topological order: the standard demands it, files are found that do without."""

from __future__ import annotations

from collections.abc import Iterator

from onnx import GraphProto, NodeProto

from bnfold.formats.onnx.attributes import bodies
from bnfold.formats.onnx.context import Context


def sort_nodes(context: Context) -> None:
    """Put the nodes of every graph of a model in topological order, as near to the order of the file as that allows.

    Raises ModelFileError where there is none: the graph has a cycle.
    """
    _sort(context, context.skeleton.graph)


def _sort(context: Context, graph: GraphProto) -> None:
    import networkx

    nodes = list(graph.node)
    producer = {tensor: index for index, node in enumerate(nodes) for tensor in node.output if tensor}
    order: networkx.DiGraph[int] = networkx.DiGraph()
    order.add_nodes_from(range(len(nodes)))
    order.add_edges_from(
        (producer[tensor], index) for index, node in enumerate(nodes) for tensor in _reads(node) if tensor in producer
    )
    try:
        positions = list(networkx.lexicographical_topological_sort(order))
    except networkx.NetworkXUnfeasible:
        first, _ = networkx.find_cycle(order)[0]
        node = nodes[first]
        context.fail(f"is damaged: node {node.name!r} ({node.op_type}) reads what its own output leads to: a cycle")
    copies = [NodeProto.FromString(nodes[position].SerializeToString()) for position in positions]
    del graph.node[:]
    graph.node.extend(copies)
    for node in graph.node:
        for attribute in node.attribute:
            for _, body in bodies(attribute):
                _sort(context, body)


def _reads(node: NodeProto) -> Iterator[str]:
    """The tensors that a node reads, those that its subgraphs name included."""
    yield from node.input
    for attribute in node.attribute:
        for _, body in bodies(attribute):
            yield from (output.name for output in body.output)
            for inner in body.node:
                yield from _reads(inner)
