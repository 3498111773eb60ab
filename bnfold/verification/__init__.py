"""Are two models equivalent? Feeds, onnxruntime sessions, comparison, and where it went wrong."""

from __future__ import annotations

from bnfold.verification.equivalence import verify
from bnfold.verification.results import FeedSummary, FirstDifference, OutputCheck, Verification

__all__ = ["FeedSummary", "FirstDifference", "OutputCheck", "Verification", "verify"]
