"""What ``analyze`` found in one model, as values that reports print and programs read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bnfold.analysis.finding import Finding, Severity
from bnfold.analysis.placement import BatchNormReport
from bnfold.analysis.size import Size

#: The version of :meth:`Report.to_dict`; it rises when a key changes its meaning or goes away.
SCHEMA_VERSION = 1


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

    def to_dict(self) -> dict[str, Any]:
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
class Report:
    """Everything about one model. ``model`` is its path, or its name where it has none."""

    model: str
    format: str
    batchnorms: tuple[BatchNormReport, ...]
    findings: tuple[Finding, ...]
    summary: Summary

    def worst(self) -> Severity | None:
        """The highest severity among the findings."""
        return max((finding.severity for finding in self.findings), key=lambda s: s.rank, default=None)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, as documented in docs/json.md."""
        return {
            "model": self.model,
            "format": self.format,
            "batchnorms": [item.to_dict() for item in self.batchnorms],
            "findings": [finding.to_dict() for finding in self.findings],
            "summary": self.summary.to_dict(),
        }
