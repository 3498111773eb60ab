"""A busy machine must not change what is compared in these tests: time is no object."""

from __future__ import annotations

import pytest

from bnfold.verification import reference
from bnfold.verification.rounding import noise


@pytest.fixture(autouse=True)
def _no_hurry(monkeypatch):
    monkeypatch.setattr(reference, "_BUDGET", 1e3)
    monkeypatch.setattr(noise, "_EXACT_SECONDS", 1e3)
