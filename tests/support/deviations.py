"""Deviations made by hand, for the tests of those who judge them."""

from __future__ import annotations

from bnfold.verification.deviation import Deviation


def apart(largest, rms=None, typical=None, *, dtype="float32", size=1000, low=-1.0, high=1.0):
    """A deviation whose three amounts are equal unless they are given."""
    rms = largest if rms is None else rms
    typical = rms if typical is None else typical
    return Deviation(dtype, size, largest=largest, rms=rms, typical=typical, signal=1.0, low=low, high=high)


def discrete(mismatches, size=100):
    return Deviation("int64", size, identical=not mismatches, mismatches=mismatches)
