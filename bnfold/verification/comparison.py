"""What a judge is given, and what it has to say: the interface of those who decide which differences are rounding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from bnfold.graph import Array
from bnfold.verification.deviation import Deviation, Measured
from bnfold.verification.reference import Reference
from bnfold.verification.runtime.interface import Interface
from bnfold.verification.runtime.sessions import Candidate
from bnfold.verification.verdict import Judgement

#: The outputs of one run by name.
Outputs = Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A candidate that was run on the feeds of a reference.

    ``measured`` is how its outputs, or tensors inside of it, differ from those in ``reference.answers`` on each feed;
    ``outputs`` are the candidate's, under the original's names, on each feed, and ``interface`` says which of its
    inputs and outputs is which: nothing where tensors inside are compared.
    """

    reference: Reference
    candidate: Candidate
    measured: Measured
    outputs: Sequence[Outputs] = ()
    interface: Interface = field(default_factory=Interface)


class Judge(Protocol):
    """Decides which differences are rounding."""

    def judge(self, case: Comparison) -> Judgement:
        """One check for each entry of ``case.measured``. May run either model again."""


class InnerJudge(Judge, Protocol):
    """One that judges tensors inside, of which there are many."""

    def doubts(self, item: Deviation) -> bool:
        """Whether the difference in one tensor on one feed has to be judged at all."""
