"""What folding did, as values: steps, and for what stayed the reasons on both sides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from enum import Enum

from bnfold.records import value_record
from bnfold.refusal import Refusal


class FoldKind(str, Enum):
    """What can happen to an affine: the value that JSON says, what folding would do in words, and what it did."""

    would: str
    did: str

    def __new__(cls, value: str, would: str = "", did: str = "") -> FoldKind:
        kind = str.__new__(cls, value)
        kind._value_, kind.would, kind.did = value, would, did
        return kind

    BACKWARD = "backward", "folds backward into", "folded backward into"
    FORWARD = "forward", "folds forward into", "folded forward into"
    #: Scale and shift went different ways.
    SPLIT = "split", "folds, scale and shift apart, into", "split: scale and shift folded separately into"
    #: Another affine took it in.
    COMPOSED = "composed", "is taken into", "composed into"
    CONSTANT = "constant", "folds into the constant", "folded into the constant"
    IDENTITY = "identity", "is removed: it does nothing", "removed: it does nothing"
    #: It stays, in a cheaper form.
    CHEAPER = "cheaper", "becomes", "replaced by"
    #: An operator on the way cancels it.
    CANCELLED = "cancelled", "is cancelled by", "cancelled by"
    #: Several tensors changed at once: the stream that it reads, and whoever writes and reads that.
    GAUGE = "gauge", "folds with its stream into", "folded with its stream into"
    BRANCH = "branch", "merges with its parallel branches into", "merged with its parallel branches into"
    #: Two convolutions in a row became one.
    SERIES = "chain", "merges with the convolution after it into", "merged with the convolution after it into"


@value_record
class FoldStep:
    """One rewrite: an operator that went, where it went and through what.

    ``subject`` is the key of the removed operator (of the first one for a branch), stable between
    runs on the same model, so that a step can be skipped; ``changed`` are the tensors whose values
    are not the original's any more: they got new names. Names in ``into`` and ``through`` are for people.
    """

    _: KW_ONLY
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
    #: For a gauge: the tensor that is another one now, and the operators whose weights make up for that.
    stream: str = ""
    repaid: tuple[str, ...] = ()

    def sentence(self) -> str:
        """``bn_3 (BatchNormalization): folded backward into conv_3 through relu_3``."""
        did = self.kind.did if self.into else self.kind.did.removesuffix(" into")
        text = f"{self.label} ({self.type}): {did} {', '.join(self.into)}".rstrip()
        if self.repaid:
            text += f"; {self.stream} changes, which {', '.join(self.repaid)} makes up for"
        return f"{text} through {', '.join(self.through)}" if self.through else text

    def to_dict(self) -> dict[str, object]:
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
            "stream": self.stream,
            "repaid": list(self.repaid),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Contradiction:
    """Why no choice of gauges removes an affine: demands on a tensor that cannot all be met.

    ``of`` is what they are about ("shift", "scale", "sign", or "precision"), ``constraints`` name them:
    the affines by their labels, operators and observers by a clause.
    """

    sentence: str
    of: str
    tensor: str
    constraints: tuple[str, ...]

    def to_dict(self) -> dict[str, object]:
        return {
            "sentence": self.sentence,
            "of": self.of,
            "tensor": self.tensor,
            "constraints": list(self.constraints),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Remaining:
    """An affine that stays, and what stands in its way on the producer's and the consumer's side.

    A BatchNormalization that is no affine, as in training mode, is its own reason on both.
    """

    subject: str
    label: str
    type: str
    is_batchnorm: bool
    backward: Refusal
    forward: Refusal
    scope: str = ""
    #: Why it cannot go together with the tensors around it either; None where that was not asked.
    together: Contradiction | None = None

    @property
    def is_own(self) -> bool:
        """Is it no affine that folding could move, wherever it stood?"""
        return self.backward is self.forward

    def sentence(self) -> str:
        if self.is_own:
            return f"{self.label} ({self.type}) stays: {self.backward.sentence}."
        text = (
            f"{self.label} ({self.type}) stays. Backward: {self.backward.sentence}. Forward: {self.forward.sentence}."
        )
        return text if self.together is None else f"{text} With its stream: {self.together.sentence}."

    def to_dict(self) -> dict[str, object]:
        return {
            "subject": self.subject,
            "label": self.label,
            "type": self.type,
            "batchnorm": self.is_batchnorm,
            "backward": self.backward.to_dict(),
            "forward": self.forward.to_dict(),
            "scope": self.scope,
            "together": None if self.together is None else self.together.to_dict(),
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything one run of folding did and did not do, in order."""

    steps: tuple[FoldStep, ...] = ()
    remaining: tuple[Remaining, ...] = ()
    #: Remarks about the whole model (constants that were overridable inputs, functions inlined…).
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Plan({len(self.steps)} steps, {len(self.remaining)} left)"

    def fate(self, subject: str) -> FoldStep | Remaining | None:
        """What became of an operator in the end, following what it was composed into."""
        return Fates(self).of(subject)

    def to_dict(self) -> dict[str, object]:
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

    def step(self, subject: str) -> FoldStep | None:
        """The step that removed the operator with that key, whatever became of it later; None if it was not removed."""
        return self._steps.get(subject)

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
