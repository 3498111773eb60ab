"""What a page's script draws, as compact plain data: the graphs, how they are linked, and the numbers of every BN."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bnfold.analysis.profiles import HIGHEST, LOWEST, PER_DECADE, Profile, profiles
from bnfold.reporting.drawing.groups import group
from bnfold.reporting.drawing.view import View, picture

if TYPE_CHECKING:
    from bnfold.analysis.report import Report
    from bnfold.folding.pair import Pair


def drawing(pair: Pair, report: Report | None) -> dict[str, Any]:
    """Nodes by number: lists of ``[key, label or 0 for the key, type, kind, state, group, shape, findings, fate,
    numbers of the nodes that it blocks]``, edges as pairs, groups as ``[label, parent]``, and ``links`` from nodes
    before to nodes after where they are not the node of the same key.
    """
    drawn = picture(pair, report)
    before, after = _numbers(drawn.before), _numbers(drawn.after)
    links = {
        str(number): [after[key] for key in drawn.links.get(node.key, ()) if key in after]
        for number, node in enumerate(drawn.before.nodes)
        if drawn.links.get(node.key, ()) != (node.key,)
    }
    sites = profiles(pair)
    keys = [_key(item.scope, item.op) for item in report.batchnorms] if report is not None else []
    return {
        "before": _graph(drawn.before, before),
        "after": _graph(drawn.after, after),
        "links": links,
        "bns": [before.get(key, -1) for key in keys],
        "names": [item.name for item in report.batchnorms] if report is not None else [],
        "profiles": [_profile(sites.get(key)) for key in keys],
        "axis": [LOWEST, HIGHEST, PER_DECADE],
    }


def _key(scope: str, name: str) -> str:
    return f"{scope}/{name}" if scope else name


def _numbers(view: View) -> dict[str, int]:
    return {node.key: number for number, node in enumerate(view.nodes)}


def _graph(view: View, numbers: Mapping[str, int]) -> dict[str, Any]:
    grouping = group(view)
    return {
        "nodes": [
            [
                node.key, 0 if node.label == node.key else node.label, node.type, node.kind, node.state, place,
                node.shape, list(node.messages), node.fate,
                [numbers[key] for key in node.blocks if key in numbers],
            ]
            for node, place in zip(view.nodes, grouping.member, strict=True)
        ],
        "edges": [[numbers[edge.source], numbers[edge.target]] for edge in view.edges],
        "groups": [[item.label, item.parent] for item in grouping.groups],
    }  # fmt: skip


def _profile(found: Profile | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "scale": found.scale,
        "variance": found.variance,
        "channels": found.channels,
        "negative": found.negative_scales,
        "dead": found.dead,
        "collapsed": found.collapsed,
        "epsilon": found.epsilon,
        "before": found.ranges[0],
        "after": found.ranges[1],
    }
