"""What ``fold``, ``equalize``, ``fix`` and ``restyle`` return."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Protocol

from bnfold.analysis.phrases import plural
from bnfold.analysis.size import Size
from bnfold.display import Displayed
from bnfold.folding.plan import FoldStep, Plan, Remaining

if TYPE_CHECKING:
    from pathlib import Path

    from bnfold.analysis.report import Finding
    from bnfold.equalization import EqualizationPlan
    from bnfold.folding.pair import Pair
    from bnfold.graph import Model, TrainableModel
    from bnfold.repair import Change
    from bnfold.restyling import Change as StyleChange
    from bnfold.restyling import LeftAlone
    from bnfold.restyling.measured import Rounding
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


class _Plain(Protocol):
    def to_dict(self) -> dict[str, object]: ...


def _plain(value: _Plain | None) -> dict[str, object] | None:
    return None if value is None else value.to_dict()


@dataclass(frozen=True, slots=True)
class Result(Displayed, ABC):
    """What a rewritten model is and how it came about.

    ``model`` is new; the one that was given is as it was. ``verification`` is None where none was asked for, or where
    ``agreement`` takes its place because no ONNX can be made of the model; ``path`` where nothing was written.
    """

    model: Model | None
    _: KW_ONLY
    verification: Verification | None = None
    agreement: Agreement | None = None
    path: Path | None = None
    #: The graph before and after, for pictures; None where the result came from another process.
    pair: Pair | None = field(default=None, repr=False, compare=False)

    @property
    def equivalent(self) -> bool:
        """Are the outputs as they were, as far as that was asked?"""
        return all(check is None or check.equivalent for check in (self.verification, self.agreement))

    @abstractmethod
    def to_dict(self) -> dict[str, object]:
        """Plain data for JSON: everything but the model."""

    @property
    def _verdict(self) -> str:
        return "" if self.verification is None else f", {self.verification.verdict}"

    @property
    def _output(self) -> str | None:
        return None if self.path is None else str(self.path)


@dataclass(frozen=True, slots=True)
class FoldResult(Result):
    """A folded model. ``model``, ``verification`` and ``path`` are those of :class:`Result`.

    ``culprits`` are the fewest steps that make the outputs differ, where they do; ``dropped`` those that were left
    out for that (``keep_going``).
    """

    model: Model
    plan: Plan
    summary: Comparison
    _: KW_ONLY
    latency: Latency | None = None
    culprits: tuple[FoldStep, ...] = ()
    dropped: tuple[FoldStep, ...] = ()
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        left = f"{len(self.plan.steps)} steps, {len(self.plan.remaining)} left"
        return f"FoldResult({self.summary.sentence()}, {left}{self._verdict})"

    @property
    def refusals(self) -> tuple[Remaining, ...]:
        """What stayed, with the reasons on both sides."""
        return self.plan.remaining

    def to_dict(self) -> dict[str, object]:
        """Plain data for JSON: everything but the model."""
        return {
            "output": self._output,
            "plan": self.plan.to_dict(),
            "summary": self.summary.to_dict(),
            "verification": _plain(self.verification),
            "agreement": _plain(self.agreement),
            "latency": _plain(self.latency),
            "culprits": [step.to_dict() for step in self.culprits],
            "dropped": [step.to_dict() for step in self.dropped],
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True)
class EqualizeResult(Result):
    """A folded model with level weight ranges; ``folding`` is the plan of the fold that comes first."""

    model: Model
    folding: Plan
    plan: EqualizationPlan
    summary: Comparison

    def __repr__(self) -> str:
        return f"EqualizeResult({self.summary.sentence()}, {self.plan!r}{self._verdict})"

    def to_dict(self) -> dict[str, object]:
        """Plain data for JSON: everything but the model."""
        return {
            "output": self._output,
            "folding": self.folding.to_dict(),
            "plan": self.plan.to_dict(),
            "summary": self.summary.to_dict(),
            "verification": _plain(self.verification),
        }


@dataclass(frozen=True, slots=True)
class FixResult(Result):
    """A repaired model: what was changed, and which findings remain."""

    model: Model
    changes: tuple[Change, ...]
    remaining: tuple[Finding, ...]
    summary: Comparison

    def __repr__(self) -> str:
        left = f"{plural(len(self.changes), 'change')}, {plural(len(self.remaining), 'finding')} left"
        return f"FixResult({self.summary.sentence()}, {left}{self._verdict})"

    def to_dict(self) -> dict[str, object]:
        """Plain data for JSON: everything but the model."""
        return {
            "output": self._output,
            "changes": [change.to_dict() for change in self.changes],
            "remaining": [finding.to_dict() for finding in self.remaining],
            "summary": self.summary.to_dict(),
            "verification": _plain(self.verification),
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
class RestyleResult(Result):
    """A model in another style: what was changed, which layers were left alone, and the lists of layers.

    ``model`` is None for a dry run. ``verification`` (or ``agreement``, where no ONNX can be made of the model) is
    about the exact changes; None where nothing is exact or none was asked for. Statistics that were measured are put
    into a model that was verified without them, ``unmeasured``; ``rounding`` is what they change in its new BN,
    ``norms``. ``path`` is None where nothing was written; ``refused`` says why, where that was asked for.
    """

    model: TrainableModel | None
    changes: tuple[StyleChange, ...]
    left: tuple[LeftAlone, ...]
    before: tuple[str, ...]
    after: tuple[str, ...]
    _: KW_ONLY
    exact_part: Model | None = None
    unmeasured: Model | None = None
    norms: tuple[str, ...] = ()
    rounding: Rounding | None = None
    refused: str = ""
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        changes = f"{plural(len(self.changes), 'change')}, {len(self.inexact)} of them need training"
        return f"RestyleResult({changes}, {plural(len(self.left), 'layer')} left alone{self._verdict})"

    @property
    def inexact(self) -> tuple[StyleChange, ...]:
        """The changes after which the model has to be trained."""
        return tuple(change for change in self.changes if not change.exact)

    def inexact_sentence(self) -> str:
        """``1 of 8 changes is not exact``."""
        count = len(self.inexact)
        return f"{count} of {plural(len(self.changes), 'change')} {'is' if count == 1 else 'are'} not exact"

    @property
    def equivalent(self) -> bool:
        """Do the exact changes leave the outputs as they are, as far as that was asked?"""
        checks = (self.verification, self.agreement, self.rounding)
        return all(check is None or check.equivalent for check in checks)

    def to_dict(self) -> dict[str, object]:
        """Plain data for JSON: everything but the model."""
        return {
            "output": self._output,
            "changes": [change.to_dict() for change in self.changes],
            "left": [item.to_dict() for item in self.left],
            "layers": {"before": list(self.before), "after": list(self.after)},
            "verification": _plain(self.verification),
            "agreement": _plain(self.agreement),
            "rounding": _plain(self.rounding),
            "refused": self.refused,
            "notes": list(self.notes),
        }
