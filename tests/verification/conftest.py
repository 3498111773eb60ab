"""A busy machine must not change what is compared in these tests: time is no object."""

from __future__ import annotations

import pytest

from bnfold.verification import reference
from bnfold.verification.exact import judge


@pytest.fixture(autouse=True)
def _no_hurry(monkeypatch):
    monkeypatch.setattr(reference, "_BUDGET", 1e3)
    monkeypatch.setattr(judge, "_SECONDS", 1e3)
