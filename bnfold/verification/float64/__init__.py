"""A model evaluated in float64, as the truth that rounding is measured against.

Every float, of whatever type in the file, is the real number it stands for and is computed with in float64;
a Cast between float types does nothing. Integers, booleans and strings keep their types and are exact.

This is what checks the rewriting, so it shares nothing with :mod:`bnfold.operators`: what an operator
computes is written down here a second time, from the ONNX specification, on purpose.
"""

from __future__ import annotations

from bnfold.verification.float64.evaluator import Evaluator, Hook
from bnfold.verification.float64.registry import Call, NotEvaluatedError

__all__ = ["Call", "Evaluator", "Hook", "NotEvaluatedError"]
