"""Gauges: several tensors changed at once, where no affine can be moved by itself. See docs/algebra.md."""

from __future__ import annotations

from bnfold.folding.gauges.carrying import Carrier, Change, Fault
from bnfold.folding.gauges.component import Candidate, Component, Stay, Survey
from bnfold.folding.gauges.solution import SIGNS, WHOLE, Choice, Clash, Solver

__all__ = ["SIGNS", "WHOLE", "Candidate", "Carrier", "Change", "Choice", "Clash", "Component", "Fault", "Solver", "Stay", "Survey"]
