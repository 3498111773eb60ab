"""What ``fold``, ``equalize`` and ``fix`` return."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING

from bnfold.analysis.size import Size
from bnfold.folding.plan import FoldStep, Plan, Remaining

if TYPE_CHECKING:
    from pathlib import Path

    from bnfold.analysis.report import Finding
    from bnfold.equalization import EqualizationPlan
    from bnfold.graph import Model
    from bnfold.repair import Change
    from bnfold.verification import Latency, Verification


@dataclass(frozen=True, slots=True)
class Comparison:
    """A model before and after. ``file_before`` and ``file_after`` are bytes on disk, None without a file."""

    before: Size
    after: Size
    _: KW_ONLY
    file_before: int | None = None
    file_after: int | None = None

    def sentence(self) -> str:
        """``57 → 38 nodes, 20 → 1 BN``."""
        before, after = self.before, self.after
        return f"{before.nodes} → {after.nodes} nodes, {before.batchnorms} → {after.batchnorms} BN"

    def to_dict(self) -> dict[str, object]:
        """Plain data for JSON."""
        return {
            "before": {**self.before.to_dict(), "file": self.file_before},
            "after": {**self.after.to_dict(), "file": self.file_after},
        }


def _verdict(verification: Verification | None) -> str:
    return "" if verification is None else f", {verification.verdict}"


@dataclass(frozen=True, slots=True)
class FoldResult:
    """A folded model and how it came about.

    ``model`` is new; the one that was given is as it was. ``verification`` is None where none was
    asked for, ``path`` where nothing was written. ``culprits`` are the fewest steps that make the
    outputs differ, where they do; ``dropped`` those that were left out for that (``keep_going``).
    """

    model: Model
    plan: Plan
    summary: Comparison
    _: KW_ONLY
    verification: Verification | None = None
    latency: Latency | None = None
    path: Path | None = None
    culprits: tuple[FoldStep, ...] = ()
    dropped: tuple[FoldStep, ...] = ()
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        left = f"{len(self.plan.steps)} steps, {len(self.plan.remaining)} left"
        return f"FoldResult({self.summary.sentence()}, {left}{_verdict(self.verification)})"

    @property
    def refusals(self) -> tuple[Remaining, ...]:
        """What stayed, with the reasons on both sides."""
        return self.plan.remaining

    def to_dict(self) -> dict[str, object]:
        """Plain data for JSON: everything but the model."""
        return {
            "output": str(self.path) if self.path is not None else None,
            "plan": self.plan.to_dict(),
            "summary": self.summary.to_dict(),
            "verification": self.verification.to_dict() if self.verification is not None else None,
            "latency": self.latency.to_dict() if self.latency is not None else None,
            "culprits": [step.to_dict() for step in self.culprits],
            "dropped": [step.to_dict() for step in self.dropped],
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True)
class EqualizeResult:
    """A folded model with level weight ranges, and how it came about.

    ``folding`` is the plan of the fold that comes first. ``model`` is new; the one that was given is as it was.
    ``verification`` is None where none was asked for, ``path`` where nothing was written.
    """

    model: Model
    folding: Plan
    plan: EqualizationPlan
    summary: Comparison
    _: KW_ONLY
    verification: Verification | None = None
    path: Path | None = None

    def __repr__(self) -> str:
        return f"EqualizeResult({self.summary.sentence()}, {self.plan!r}{_verdict(self.verification)})"

    def to_dict(self) -> dict[str, object]:
        """Plain data for JSON: everything but the model."""
        return {
            "output": str(self.path) if self.path is not None else None,
            "folding": self.folding.to_dict(),
            "plan": self.plan.to_dict(),
            "summary": self.summary.to_dict(),
            "verification": self.verification.to_dict() if self.verification is not None else None,
        }


@dataclass(frozen=True, slots=True)
class FixResult:
    """A repaired model: what was changed, and which findings remain."""

    model: Model
    changes: tuple[Change, ...]
    remaining: tuple[Finding, ...]
    summary: Comparison
    _: KW_ONLY
    verification: Verification | None = None
    path: Path | None = None

    def __repr__(self) -> str:
        left = f"{len(self.changes)} changes, {len(self.remaining)} findings left"
        return f"FixResult({self.summary.sentence()}, {left}{_verdict(self.verification)})"

    def to_dict(self) -> dict[str, object]:
        """Plain data for JSON: everything but the model."""
        return {
            "output": str(self.path) if self.path is not None else None,
            "changes": [change.to_dict() for change in self.changes],
            "remaining": [finding.to_dict() for finding in self.remaining],
            "summary": self.summary.to_dict(),
            "verification": self.verification.to_dict() if self.verification is not None else None,
        }
