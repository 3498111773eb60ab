"""What folding did, as values: steps, and for what stayed the reasons on both sides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from bnfold.refusal import Refusal


class FoldKind(str, Enum):
    """What can happen to an affine. The values are what JSON says."""

    BACKWARD = "backward"
    FORWARD = "forward"
    #: Scale and shift went different ways.
    SPLIT = "split"
    #: Another affine took it in.
    COMPOSED = "composed"
    CONSTANT = "constant"
    IDENTITY = "identity"
    #: It stays, in a cheaper form.
    CHEAPER = "cheaper"
    #: An operator on the way cancels it.
    CANCELLED = "cancelled"
    BRANCH = "branch"
    #: Two convolutions in a row became one.
    SERIES = "chain"


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldStep:
    """One rewrite: an operator that went, where it went and through what.

    ``subject`` is the key of the removed operator (of the first one for a branch), stable between
    runs on the same model, so that a step can be skipped; ``changed`` are the tensors whose values
    are not the original's any more: they got new names. Names in ``into`` and ``through`` are for people.
    """

    subject: str
    label: str
    type: str
    kind: FoldKind
    into: tuple[str, ...] = ()
    through: tuple[str, ...] = ()
    changed: Mapping[str, str] = field(default_factory=dict)
    scope: str = ""
    #: Keys of the operators that now hold the subject's arithmetic.
    holders: tuple[str, ...] = ()
    #: For a branch merge: the keys of every operator that went.
    removed: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {
            "subject": self.subject,
            "label": self.label,
            "type": self.type,
            "kind": self.kind.value,
            "into": list(self.into),
            "through": list(self.through),
            "changed": dict(self.changed),
            "scope": self.scope,
            "holders": list(self.holders),
            "removed": list(self.removed),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Remaining:
    """An affine that stays, and what stands in its way on the producer's and the consumer's side."""

    subject: str
    label: str
    type: str
    is_batchnorm: bool
    backward: Refusal
    forward: Refusal
    scope: str = ""

    def sentence(self) -> str:
        return (
            f"{self.label} ({self.type}) stays. Backward: {self.backward.sentence}. Forward: {self.forward.sentence}."
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "subject": self.subject,
            "label": self.label,
            "type": self.type,
            "batchnorm": self.is_batchnorm,
            "backward": self.backward.to_dict(),
            "forward": self.forward.to_dict(),
            "scope": self.scope,
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything one run of folding did and did not do, in order."""

    steps: tuple[FoldStep, ...] = ()
    remaining: tuple[Remaining, ...] = ()
    #: Remarks about the whole model (constants that were overridable inputs, functions inlined…).
    notes: tuple[str, ...] = ()

    def fate(self, subject: str) -> FoldStep | Remaining | None:
        """What became of an operator in the end, following what it was composed into."""
        return Fates(self).of(subject)

    def to_dict(self) -> dict[str, Any]:
        return {
            "steps": [step.to_dict() for step in self.steps],
            "remaining": [item.to_dict() for item in self.remaining],
            "notes": list(self.notes),
        }


class Fates:
    """:meth:`Plan.fate` for many operators of one plan: the tables behind it are built once."""

    def __init__(self, plan: Plan) -> None:
        self._steps = {step.subject: step for step in plan.steps if step.kind is not FoldKind.BRANCH}
        for step in plan.steps:
            for key in step.removed:
                self._steps.setdefault(key, step)
        self._left = {item.subject: item for item in plan.remaining}

    def of(self, subject: str) -> FoldStep | Remaining | None:
        """What became of the operator with that key; None if the plan does not know it."""
        seen: set[str] = set()
        last: FoldStep | Remaining | None = self._left.get(subject)
        while subject in self._steps and subject not in seen:
            seen.add(subject)
            last = step = self._steps[subject]
            if step.kind not in (FoldKind.COMPOSED, FoldKind.CHEAPER) or len(step.holders) != 1:
                break
            subject = step.holders[0]
            last = self._left.get(subject, last)
        return last
