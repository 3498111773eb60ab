"""Are two models equivalent? Feeds, an evaluation in float64, onnxruntime sessions, comparison, where it went wrong.

Nothing here asks the rooms that make models (``operators``, ``folding``, ``analysis``) what an operator does: the
tables of operators in ``float64``, ``feeds``, ``exact`` and ``noise`` are verification's own, written from the ONNX
specification. A mistake in a fact that folding relies on would otherwise be repeated where it is to be found.
"""

from __future__ import annotations

from bnfold.verification.optimizers import RuntimeCheck, check_runtime
from bnfold.verification.timing import Latency, latency
from bnfold.verification.verdict import FeedSummary, FirstDifference, OutputCheck, Verification
from bnfold.verification.verifier import smallest_failing, verify
from bnfold.verification.verify_options import VerifyOptions

__all__ = [
    "FeedSummary",
    "FirstDifference",
    "Latency",
    "OutputCheck",
    "RuntimeCheck",
    "Verification",
    "VerifyOptions",
    "check_runtime",
    "latency",
    "smallest_failing",
    "verify",
]
