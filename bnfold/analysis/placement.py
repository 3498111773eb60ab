"""Where a BatchNormalization stands: its class, and the pattern around it for people to read."""

from __future__ import annotations

from enum import Enum

from bnfold.analysis.flow import Flow, Kind
from bnfold.analysis.sites import Site
from bnfold.graph import ModelGraph, Op
from bnfold.operators import Node, Role, facts_of
from bnfold.operators.dialect import dialect_of
from bnfold.operators.patterns import is_sum

#: Operators shown on each side of a BN, and the length of a list of them.
_PATTERN_DEPTH = 3
_PATTERN_WIDTH = 3
_PASSED_OVER = frozenset({Role.SHAPE, Role.DROPOUT, Role.POOL, Role.AFFINE})


class Placement(str, Enum):
    """The classes of placement, in the words that reports print."""

    BEFORE_ACTIVATION = "before activation"
    AFTER_ACTIVATION = "after activation"
    PRE_ACTIVATION = "pre-activation residual"
    ON_INPUT = "on input"
    BEFORE_OUTPUT = "before output"
    BETWEEN_LINEAR = "between linear layers"
    OTHER = "other"


def classify(graph: ModelGraph, flow: Flow, site: Site) -> Placement:
    """The class of one BN, the first that fits:

    on the model's input; directly before its output or its last activation; before an activation
    and reading a sum, or a tensor that others read as well (pre-activation); after an activation;
    before one; between linear layers.
    """
    origin = flow.origin.get(site.tensor)
    goals = flow.goals.get(site.output, frozenset())
    kind = origin.kind if origin is not None else Kind.OTHER
    branch = is_branch(graph, site)
    shared = kind in (Kind.SUM, Kind.JOIN) or graph.use_count(site.tensor) > 1
    if kind is Kind.INPUT:
        return Placement.ON_INPUT
    if site.output in flow.final:
        return Placement.BEFORE_OUTPUT
    if Kind.ACTIVATION in goals and shared and not branch:
        return Placement.PRE_ACTIVATION
    if kind is Kind.ACTIVATION and not branch:
        return Placement.AFTER_ACTIVATION
    if Kind.ACTIVATION in goals:
        return Placement.BEFORE_ACTIVATION
    if kind is Kind.LINEAR and goals == {Kind.LINEAR}:
        return Placement.BETWEEN_LINEAR
    return Placement.OTHER


def is_branch(graph: ModelGraph, site: Site) -> bool:
    """Is it one of the parallel branches of a sum, whose other branches read the same tensor (RepVGG)?"""
    readers = graph.consumers(site.output)
    return graph.use_count(site.tensor) > 1 and len(readers) == 1 and is_sum(graph.op(readers[0].op))


def pattern(graph: ModelGraph, flow: Flow, site: Site) -> str:
    """``Conv → BN → Relu``: the operators around a BN up to the first that matters on each side.

    Upstream that is the first that is no activation: ``Conv → Relu → BN → Conv``.
    """
    return " → ".join([*_upstream(graph, flow, site.tensor), "BN", *_downstream(graph, flow, site.output)])


def _word(graph: ModelGraph, flow: Flow, op: Op) -> str:
    return "BN" if flow.role(op) is Role.BATCHNORM else dialect_of(graph).word(op)


def _passed_over(flow: Flow, op: Op) -> bool:
    return flow.role(op) in _PASSED_OVER


def _upstream(graph: ModelGraph, flow: Flow, tensor: str) -> list[str]:
    words: list[str] = []
    for _ in range(_PATTERN_DEPTH):
        op = graph.producer(tensor)
        if op is None:
            return ["input", *words] if graph.is_input(tensor) else words
        if not facts_of(op).is_border:
            words.insert(0, _word(graph, flow, op))
        if not _passed_over(flow, op) and flow.role(op) is not Role.ACTIVATION:
            return words
        tensor = op.input(facts_of(op).data_slot(Node(graph, op)))
    return ["…", *words]


def _downstream(graph: ModelGraph, flow: Flow, tensor: str) -> list[str]:
    words: list[str] = []
    for _ in range(_PATTERN_DEPTH):
        readers = list(dict.fromkeys(use.op for use in graph.consumers(tensor)))
        here = [_word(graph, flow, graph.op(name)) for name in readers]
        if graph.is_output(tensor):
            here.append("output")
        if len(here) != 1:
            shown = list(dict.fromkeys(here))
            return [*words, "(" + ", ".join(_cut(shown)) + ")"] if len(shown) > 1 else [*words, *shown]
        if not readers or not facts_of(graph.op(readers[0])).is_border:
            words.append(here[0])
        if not readers or not (_passed_over(flow, graph.op(readers[0])) or is_sum(graph.op(readers[0]))):
            return words
        tensor = graph.op(readers[0]).outputs[0]
    return [*words, "…"]


def _cut(words: list[str]) -> list[str]:
    return words if len(words) <= _PATTERN_WIDTH else [*words[: _PATTERN_WIDTH - 1], "…"]
