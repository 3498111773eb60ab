"""Are two models equivalent? Feeds, onnxruntime sessions, comparison, and where it went wrong."""

from __future__ import annotations

from bnfold.verification.optimizers import RuntimeCheck, check_runtime
from bnfold.verification.results import FeedSummary, FirstDifference, OutputCheck, Verification
from bnfold.verification.timing import Latency, latency
from bnfold.verification.verifier import Options, smallest_failing, verify

__all__ = [
    "FeedSummary",
    "FirstDifference",
    "Latency",
    "Options",
    "OutputCheck",
    "RuntimeCheck",
    "Verification",
    "check_runtime",
    "latency",
    "smallest_failing",
    "verify",
]
