"""Where a BatchNormalization stands: its class, and the pattern around it for people to read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from bnfold.analysis.flow import Flow, Kind
from bnfold.analysis.sites import Site
from bnfold.graph import ModelGraph, Op
from bnfold.operators import Node, Role, facts_of
from bnfold.operators.patterns import is_sum, word

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


def _word(flow: Flow, op: Op) -> str:
    return "BN" if flow.role(op) is Role.BATCHNORM else word(op)


def _passed_over(flow: Flow, op: Op) -> bool:
    return flow.role(op) in _PASSED_OVER


def _upstream(graph: ModelGraph, flow: Flow, tensor: str) -> list[str]:
    words: list[str] = []
    for _ in range(_PATTERN_DEPTH):
        op = graph.producer(tensor)
        if op is None:
            return ["input", *words] if graph.is_input(tensor) else words
        words.insert(0, _word(flow, op))
        if not _passed_over(flow, op) and flow.role(op) is not Role.ACTIVATION:
            return words
        tensor = op.input(facts_of(op).data_slot(Node(graph, op)))
    return ["…", *words]


def _downstream(graph: ModelGraph, flow: Flow, tensor: str) -> list[str]:
    words: list[str] = []
    for _ in range(_PATTERN_DEPTH):
        readers = list(dict.fromkeys(use.op for use in graph.consumers(tensor)))
        here = [_word(flow, graph.op(name)) for name in readers]
        if graph.is_output(tensor):
            here.append("output")
        if len(here) != 1:
            shown = list(dict.fromkeys(here))
            return [*words, "(" + ", ".join(_cut(shown)) + ")"] if len(shown) > 1 else [*words, *shown]
        words.append(here[0])
        if not readers or not (_passed_over(flow, graph.op(readers[0])) or is_sum(graph.op(readers[0]))):
            return words
        tensor = graph.op(readers[0]).outputs[0]
    return [*words, "…"]


def _cut(words: list[str]) -> list[str]:
    return words if len(words) <= _PATTERN_WIDTH else [*words[: _PATTERN_WIDTH - 1], "…"]


@dataclass(frozen=True, slots=True)
class Foldability:
    """What folding would do with a BN: ``direction`` is ``"stays"`` or a kind of fold step."""

    direction: str
    into: tuple[str, ...] = ()
    through: tuple[str, ...] = ()
    backward: str = ""
    forward: str = ""

    @property
    def folds(self) -> bool:
        return self.direction != "stays"

    def sentence(self) -> str:
        """``folds backward into conv_3 through relu_3``, or why it stays."""
        if not self.folds:
            reasons = dict.fromkeys(text for text in (self.backward, self.forward) if text)
            return "stays: " + "; ".join(reasons) if reasons else "stays"
        text = _DIRECTIONS[self.direction]
        text = f"{text} {', '.join(self.into)}" if self.into else text
        return f"{text} through {', '.join(self.through)}" if self.through else text

    def clause(self) -> str:
        """:meth:`sentence` without the reasons."""
        return self.sentence() if self.folds else "stays after folding"

    def to_dict(self) -> dict[str, Any]:
        return {
            "direction": self.direction,
            "into": list(self.into),
            "through": list(self.through),
            "backward": self.backward,
            "forward": self.forward,
        }


_DIRECTIONS = {
    "backward": "folds backward into",
    "forward": "folds forward into",
    "split": "folds, scale and shift apart, into",
    "composed": "is taken into",
    "constant": "folds into the constant",
    "identity": "is removed: it does nothing",
    "cheaper": "becomes",
    "cancelled": "is cancelled by",
    "branch": "merges with its parallel branches into",
    "chain": "merges with the convolution after it into",
}


@dataclass(frozen=True, slots=True)
class BatchNormReport:
    """What ``analyze`` says about one BN.

    ``channels`` is None where it cannot be told. ``decomposed`` means that an exporter wrote it as
    Mul and Add. ``statistics`` are the numbers behind the rules, present on request alone.
    """

    name: str
    type: str
    channels: int | None
    pattern: str
    placement: Placement
    foldability: Foldability
    decomposed: bool = False
    scope: str = ""
    op: str = ""
    statistics: Mapping[str, Any] | None = field(default=None)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        data: dict[str, Any] = {
            "name": self.name,
            "type": self.type,
            "channels": self.channels,
            "pattern": self.pattern,
            "placement": self.placement.value,
            "foldable": self.foldability.to_dict(),
            "decomposed": self.decomposed,
            "scope": self.scope,
        }
        if self.statistics is not None:
            data["statistics"] = dict(self.statistics)
        return data
