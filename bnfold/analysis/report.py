"""What ``analyze`` says about one model, as values that reports print and programs read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from bnfold.analysis.placement import Placement
from bnfold.analysis.size import Size
from bnfold.display import Displayed
from bnfold.folding.pair import Pair
from bnfold.folding.plan import FoldKind

#: The version of :meth:`Report.to_dict`; it rises when a key changes its meaning or goes away.
SCHEMA_VERSION = 1


class Severity(str, Enum):
    """How much a finding matters; ``error`` outranks ``warning``, ``warning`` outranks ``info``."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"

    @property
    def rank(self) -> int:
        """3 for an error, 2 for a warning, 1 for information."""
        return {"error": 3, "warning": 2, "info": 1}[self.value]


class Repair(str, Enum):
    """Which command removes the cause of a finding."""

    NONE = ""
    FIX = "fix"
    FOLD = "fold"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing a rule found.

    ``layer`` is the name that people know the operator by, ``op`` its key in the graph; both are
    empty where the finding is about the whole model. ``values`` are the numbers that made the rule
    true, by name, as plain data.
    """

    code: str
    name: str
    severity: Severity
    message: str
    layer: str = ""
    op: str = ""
    scope: str = ""
    repair: Repair = Repair.NONE
    values: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, object]:
        """Plain data for JSON."""
        return {
            "code": self.code,
            "name": self.name,
            "severity": self.severity.value,
            "message": self.message,
            "layer": self.layer,
            "scope": self.scope,
            "repair": self.repair.value,
            "values": dict(self.values),
        }


@dataclass(frozen=True, slots=True)
class Foldability:
    """What folding would do with a BN: ``direction`` is ``"stays"`` or a kind of fold step.

    ``backward`` and ``forward`` say why it stays, or why that stays which it is composed into.
    """

    direction: str
    into: tuple[str, ...] = ()
    through: tuple[str, ...] = ()
    backward: str = ""
    forward: str = ""
    #: The codes of the two reasons, by which reports tell what is alike.
    codes: tuple[str, ...] = ()
    #: The type of what stays under the name of the BN, where something does.
    becomes: str = ""

    @property
    def folds(self) -> bool:
        return self.direction != "stays"

    def sentence(self) -> str:
        """``folds backward into conv_3 through relu_3``, or why it stays."""
        reasons = "; ".join(dict.fromkeys(text for text in (self.backward, self.forward) if text))
        text = self.clause() if self.folds else "stays"
        return f"{text}: {reasons}" if reasons else text

    def clause(self) -> str:
        """:meth:`sentence` without the reasons."""
        if not self.folds:
            return "stays after folding"
        text = FoldKind(self.direction).would
        text = f"{text} {', '.join(self.into)}" if self.into else text.removesuffix(" into")
        text = f"{text} ({self.becomes})" if self.becomes else text
        text = f"{text} through {', '.join(self.through)}" if self.through else text
        return f"{text}, which stays" if self.backward or self.forward else text

    def to_dict(self) -> dict[str, object]:
        return {
            "direction": self.direction,
            "into": list(self.into),
            "through": list(self.through),
            "backward": self.backward,
            "forward": self.forward,
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

    def to_dict(self) -> dict[str, object]:
        """Plain data for JSON."""
        data: dict[str, object] = {
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


@dataclass(frozen=True, slots=True)
class Summary:
    """The model in numbers: its size, what BN has of it, and its size after folding.

    ``trainable`` and ``non_trainable`` are None where the format does not tell them apart (ONNX).
    """

    size: Size
    folded: Size
    placements: Mapping[str, int] = field(default_factory=dict)
    foldable: int = 0
    parameters_in_batchnorm: int = 0
    trainable: int | None = None
    non_trainable: int | None = None

    @property
    def parameters(self) -> int:
        """All parameters: as the format counts them, or as :class:`Size` does."""
        if self.trainable is None or self.non_trainable is None:
            return self.size.parameters
        return self.trainable + self.non_trainable

    @property
    def batchnorms(self) -> int:
        """BN in the model, those taken apart into Mul and Add included."""
        return sum(self.placements.values())

    def to_dict(self) -> dict[str, object]:
        """Plain data for JSON."""
        return {
            "batchnorms": self.batchnorms,
            "foldable": self.foldable,
            "placements": dict(self.placements),
            "nodes": self.size.nodes,
            "parameters": {
                "total": self.parameters,
                "trainable": self.trainable,
                "non_trainable": self.non_trainable,
                "in_batchnorm": self.parameters_in_batchnorm,
            },
            "after_folding": {"nodes": self.folded.nodes, "parameters": self.folded.parameters},
        }


@dataclass(frozen=True, slots=True)
class Report(Displayed):
    """Everything about one model. ``model`` is its path, or its name where it has none."""

    model: str
    format: str
    batchnorms: tuple[BatchNormReport, ...]
    findings: tuple[Finding, ...]
    summary: Summary
    #: The graph, and what folding would make of it, for pictures; None in a report that came from another process.
    pair: Pair | None = field(default=None, repr=False, compare=False)

    def __repr__(self) -> str:
        found = len(self.findings)
        return f"Report({self.model!r}, {self.summary.batchnorms} BN, {self.summary.foldable} fold, {found} findings)"

    def worst(self) -> Severity | None:
        """The highest severity among the findings."""
        return max((finding.severity for finding in self.findings), key=lambda s: s.rank, default=None)

    def to_dict(self) -> dict[str, object]:
        """Plain data for JSON, as documented in docs/json.md."""
        return {
            "model": self.model,
            "format": self.format,
            "batchnorms": [item.to_dict() for item in self.batchnorms],
            "findings": [finding.to_dict() for finding in self.findings],
            "summary": self.summary.to_dict(),
        }
