"""Are two models equivalent? Feeds, onnxruntime sessions, comparison, and where it went wrong."""

from __future__ import annotations

from bnfold.verification.latency import Latency, latency
from bnfold.verification.localise import smallest_failing
from bnfold.verification.results import FeedSummary, FirstDifference, OutputCheck, Verification
from bnfold.verification.runtime import RuntimeCheck, check_runtime
from bnfold.verification.verifier import verify

__all__ = [
    "FeedSummary",
    "FirstDifference",
    "Latency",
    "OutputCheck",
    "RuntimeCheck",
    "Verification",
    "check_runtime",
    "latency",
    "smallest_failing",
    "verify",
]
