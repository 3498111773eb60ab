"""A view as a graph of networkx with plain attributes, and in the file formats that networkx writes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from bnfold.reporting.drawing.view import Node, View
from bnfold.reporting.text import clean

if TYPE_CHECKING:
    import networkx


def network(view: View) -> networkx.MultiDiGraph[str]:
    """The view for networkx: nodes by key, an edge from producer to consumer; every attribute a string or number."""
    import networkx

    graph: networkx.MultiDiGraph[str] = networkx.MultiDiGraph(name=view.name)
    for node in view.nodes:
        graph.add_node(node.key, **attributes(node))
    for edge in view.edges:
        slot = {} if edge.slot is None else {"slot": edge.slot}
        graph.add_edge(edge.source, edge.target, tensor=edge.tensor, output=edge.output, **slot)
    return graph


def attributes(node: Node) -> dict[str, Any]:
    """What is known about a node, without what is empty; lists as one string, as no list fits into GraphML."""
    found: dict[str, Any] = {
        "label": node.label,
        "type": node.type,
        "kind": node.kind,
        "scope": node.scope,
        "shape": node.shape,
        "placement": node.placement,
        "state": node.state,
        "fate": node.fate,
        "findings": " ".join(node.findings),
        "messages": "; ".join(node.messages),
        "blocks": "; ".join(node.blocks),
        "outputs": "; ".join(node.outputs),
    }
    if node.spread_bits is not None:
        found["spread_bits_before"], found["spread_bits_after"] = node.spread_bits
    return {key: value for key, value in found.items() if value != ""}


def node_link(view: View) -> bytes:
    """JSON in networkx's node-link form, with ``nodes`` and ``edges``."""
    import networkx

    data = networkx.node_link_data(network(view), edges="edges")
    return (json.dumps(data, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def graphml(view: View) -> bytes:
    """GraphML. XML has no control characters: those of a name are written as escapes."""
    import networkx

    graph = networkx.relabel_nodes(network(view), {node.key: clean(node.key) for node in view.nodes})
    graph.graph["name"] = clean(view.name)
    for _, data in graph.nodes(data=True):
        data.update({key: clean(value) for key, value in data.items() if isinstance(value, str)})
    for *_, data in graph.edges(data=True):
        data["tensor"] = clean(data["tensor"])
    text = "\n".join(networkx.generate_graphml(graph))
    return ('<?xml version="1.0" encoding="UTF-8"?>\n' + text + "\n").encode("utf-8")
