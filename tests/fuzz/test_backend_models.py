"""A sample of onnx's own backend tests, folded; backend_models.py runs them all."""

from __future__ import annotations

from collections import Counter

import pytest
from agreement import fold_and_compare
from backend_models import as_stored, cases, surrounded

pytestmark = pytest.mark.slow

STEP = 12


@pytest.fixture(scope="module")
def sample():
    """Every twelfth single operator, and all whole models."""
    return [(number, case) for number, case in enumerate(cases()) if number % STEP == 0 or "/" in case.name]


def test_folded_models_give_the_stored_outputs(sample):
    found = {case.name: as_stored(case) for _, case in sample}
    wrong = {name: outcome.detail for name, outcome in found.items() if outcome.verdict == "DIFFERENT"}
    assert not wrong
    assert Counter(outcome.verdict for outcome in found.values())["same"] > 150


def test_every_operator_between_batch_normalizations(sample):
    built = {case.name: surrounded(case, number) for number, case in sample}
    found = {name: fold_and_compare(*model) for name, model in built.items() if model is not None}
    wrong = {name: outcome.detail for name, outcome in found.items() if outcome.verdict == "DIFFERENT"}
    assert not wrong
    assert Counter(outcome.verdict for outcome in found.values())["same"] > 40
