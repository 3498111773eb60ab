"""Files for Google's Model Explorer: the graph, overlays of its nodes, and which node became which.

The formats are those of the package ai-edge-model-explorer 0.1.34 (``graph_builder.py``, ``node_data_builder.py``)
and of its "sync navigation" files. Overlays are keyed by node and by output tensor: what opens the original file
calls its nodes by the one or the other (the adapter model-explorer-onnx 0.4.2 by their names; it numbers nodes
without one, which no overlay finds).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from bnfold.reporting.drawing.networks import attributes
from bnfold.reporting.drawing.palette import FINDING_COLOUR, colours
from bnfold.reporting.drawing.view import OPERATOR, Edge, Node, Picture, View


def files(path: str | PathLike[str], model: str, drawn: Picture) -> dict[str, bytes]:
    """The bytes by file name: the graph as it is in ``path``, everything else beside it under its stem."""
    target = Path(path)
    name = Path(model).name
    beside = {
        "after": graph(drawn.after, f"{name} folded"),
        "navigation": navigation(drawn.links),
        **overlays(drawn.before),
    }
    found = {str(target): _dump(graph(drawn.before, name))}
    found |= {str(target.with_name(f"{target.stem}.{part}.json")): _dump(data) for part, data in beside.items()}
    return found


def graph(view: View, label: str) -> dict[str, Any]:
    """One graph with all its nodes; paths in names and subgraphs are its nested layers."""
    incoming: dict[str, list[Edge]] = {}
    for edge in view.edges:
        incoming.setdefault(edge.target, []).append(edge)
    nodes = [_node(node, incoming.get(node.key, ())) for node in view.nodes]
    return {"label": label, "graphs": [{"id": label, "nodes": nodes}]}


def _node(node: Node, incoming: Iterable[Edge]) -> dict[str, Any]:
    known = {"name": node.label, **attributes(node)}
    return {
        "id": node.key,
        "label": node.type if node.kind == OPERATOR else node.label,
        "namespace": namespace(node),
        "attrs": [{"key": key, "value": str(value)} for key, value in known.items() if key not in ("label", "type")],
        "incomingEdges": [
            {
                "sourceNodeId": edge.source,
                "sourceNodeOutputId": str(edge.output),
                "targetNodeInputId": str(number if edge.slot is None else edge.slot),
            }
            for number, edge in enumerate(incoming)
        ],
        "outputsMetadata": [
            # The viewer shows this key; under "tensor_name" it would take each value twice, by node and by tensor.
            {"id": str(number), "attrs": [{"key": "__tensor_tag", "value": name}]}
            for number, name in enumerate(node.outputs)
        ],
    }


def namespace(node: Node) -> str:
    """The layers that a node lies in: its subgraph, and the path in its name."""
    path = [part for part in node.scope.split("/") if part]
    if node.kind == OPERATOR:
        path += [part for part in node.label.split("/")[:-1] if part]
    return "/".join(path)


def overlays(view: View) -> dict[str, dict[str, Any]]:
    """One node-data document each for what folding does, placements, findings and the spread of weights in bits."""
    return {
        "steps": _overlay("folding", view, lambda node: node.state, lambda node: colours(node.state)[0]),
        "placements": _overlay("placement of BN", view, lambda node: node.placement, lambda node: colours("")[0]),
        "findings": _overlay("findings", view, lambda node: " ".join(node.findings), lambda node: FINDING_COLOUR),
        "spread": {
            **_overlay("spread of folded weights, bits", view, _spread, lambda node: ""),
            "gradient": [{"stop": 0, "bgColor": "#ffffff"}, {"stop": 1, "bgColor": "#c53030"}],
        },
    }


def _spread(node: Node) -> float | str:
    return "" if node.spread_bits is None else node.spread_bits[1]


def _overlay(
    name: str, view: View, value: Callable[[Node], float | str], colour: Callable[[Node], str]
) -> dict[str, Any]:
    results: dict[str, dict[str, Any]] = {}
    known = {node.key for node in view.nodes}
    for node in view.nodes:
        if (found := value(node)) != "":
            shown = {"value": found, **({"bgColor": colour(node)} if colour(node) else {})}
            results[node.key] = shown
            # A tensor that is called like some operator would lay its value on that.
            results.update({tensor: shown for tensor in node.outputs[:1] if tensor not in known})
    return {"name": f"bnfold: {name}", "results": results}


def navigation(links: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    """Which nodes of the folded graph hold what of each original node: a node stands in one entry alone."""
    group: dict[str, tuple[list[str], list[str]]] = {}
    entries: list[tuple[list[str], list[str]]] = []
    for left, rights in links.items():
        if not rights:
            continue
        joined = ([left], list(rights))
        for other in {id(group[right]): group[right] for right in rights if right in group}.values():
            entries.remove(other)
            joined = (other[0] + joined[0], list(dict.fromkeys(other[1] + joined[1])))
        entries.append(joined)
        group.update(dict.fromkeys(joined[1], joined))
    return {
        "type": "sync_navigation",
        "mappingEntries": [{"leftNodeIds": left, "rightNodeIds": right} for left, right in entries],
        "showDiffHighlights": True,
        "disableMappingFallback": True,
    }


def _dump(data: Any) -> bytes:
    return (json.dumps(data, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")
