"""What ``fold``, ``equalize``, ``fix`` and ``restyle`` return."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING

from bnfold.analysis.size import Size
from bnfold.display import Displayed
from bnfold.folding.plan import FoldStep, Plan, Remaining

if TYPE_CHECKING:
    from pathlib import Path

    from bnfold.analysis.report import Finding
    from bnfold.equalization import EqualizationPlan
    from bnfold.folding.pair import Pair
    from bnfold.graph import Model
    from bnfold.repair import Change
    from bnfold.restyling import Change as StyleChange
    from bnfold.restyling import LeftAlone
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
class FoldResult(Displayed):
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
    #: Both graphs, for pictures; None where the result came from another process.
    pair: Pair | None = field(default=None, repr=False, compare=False)

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
class EqualizeResult(Displayed):
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
    #: The graph before and after, for pictures; None where the result came from another process.
    pair: Pair | None = field(default=None, repr=False, compare=False)

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
class FixResult(Displayed):
    """A repaired model: what was changed, and which findings remain."""

    model: Model
    changes: tuple[Change, ...]
    remaining: tuple[Finding, ...]
    summary: Comparison
    _: KW_ONLY
    verification: Verification | None = None
    path: Path | None = None
    #: The graph before and after, for pictures; None where the result came from another process.
    pair: Pair | None = field(default=None, repr=False, compare=False)

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


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far Keras's own predictions of two models lie apart, as part of the largest output, and how far they may."""

    difference: float
    allowed: float

    @property
    def equivalent(self) -> bool:
        return self.difference <= self.allowed

    def sentence(self) -> str:
        """``Keras's predictions agree to 3.1e-07 of the largest output``."""
        amount = f"{self.difference:.1e} of the largest output"
        if self.equivalent:
            return f"Keras's predictions agree to {amount}"
        return f"not equivalent: Keras's predictions differ by {amount}, {self.allowed:.1e} is allowed"

    def to_dict(self) -> dict[str, object]:
        """Plain data for JSON."""
        return {
            "equivalent": self.equivalent,
            "difference": self.difference,
            "allowed": self.allowed,
            "sentence": self.sentence(),
        }


@dataclass(frozen=True, slots=True)
class RestyleResult(Displayed):
    """A model in another style: what was changed, which layers were left alone, and the lists of layers.

    ``model`` is None for a dry run. ``verification`` (or ``agreement``, where no ONNX can be made of the model) is
    about the exact changes; None where nothing is exact or none was asked for. ``path`` is None where nothing was
    written; ``refused`` says why, where that was asked for.
    """

    model: Model | None
    changes: tuple[StyleChange, ...]
    left: tuple[LeftAlone, ...]
    before: tuple[str, ...]
    after: tuple[str, ...]
    _: KW_ONLY
    exact_part: Model | None = None
    verification: Verification | None = None
    agreement: Agreement | None = None
    path: Path | None = None
    refused: str = ""
    notes: tuple[str, ...] = ()
    #: Both graphs, for pictures; None where the result came from another process.
    pair: Pair | None = field(default=None, repr=False, compare=False)

    def __repr__(self) -> str:
        changes = f"{len(self.changes)} changes, {len(self.inexact)} of them need training"
        return f"RestyleResult({changes}, {len(self.left)} layers left alone{_verdict(self.verification)})"

    @property
    def inexact(self) -> tuple[StyleChange, ...]:
        """The changes after which the model has to be trained."""
        return tuple(change for change in self.changes if not change.exact)

    @property
    def equivalent(self) -> bool:
        """Do the exact changes leave the outputs as they are, as far as that was asked?"""
        return all(check is None or check.equivalent for check in (self.verification, self.agreement))

    def to_dict(self) -> dict[str, object]:
        """Plain data for JSON: everything but the model."""
        return {
            "output": str(self.path) if self.path is not None else None,
            "changes": [change.to_dict() for change in self.changes],
            "left": [item.to_dict() for item in self.left],
            "layers": {"before": list(self.before), "after": list(self.after)},
            "verification": self.verification.to_dict() if self.verification is not None else None,
            "agreement": self.agreement.to_dict() if self.agreement is not None else None,
            "refused": self.refused,
            "notes": list(self.notes),
        }
