"""docs/operators.md is what the facts say, and says something of every answer."""

from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path

import pytest

from bnfold.operators.base import Conditions, Facts, facts_about, known_types
from bnfold.operators.table import QUESTIONS, table

DOCUMENT = Path(__file__).parents[2] / "docs/operators.md"
FAMILIES = sorted(
    {cls for domain in ("", "keras") for name in known_types(domain) for cls in type(facts_about(name, domain)).__mro__}
    - {Facts, object},
    key=lambda cls: (cls.__module__, cls.__name__),
)


def test_the_document_is_current():
    assert DOCUMENT.read_text(encoding="utf-8") == table(), "python -m bnfold.operators.table > docs/operators.md"


@pytest.mark.parametrize("cls", FAMILIES, ids=lambda cls: f"{cls.__module__.rpartition('.')[2]}.{cls.__name__}")
def test_an_answer_and_its_condition_stand_together(cls):
    """Who overrides an answer says its own condition, and nobody says one for a question that is refused."""
    words = vars(cls).get("conditions", Conditions())
    own = {field.name for field in fields(words) if getattr(words, field.name)}
    for question in QUESTIONS:
        names = {question, "cross"} if question in ("lift", "sink") else {question}
        if question in vars(cls) and "super()" not in _source(cls, question):
            assert names & own, f"{question} is overridden without a condition"
        if names & own:
            assert cls.answers(question), f"{question} has a condition and no answer"


def _source(cls: type, name: str) -> str:
    return inspect.getsource(vars(cls)[name])


@pytest.mark.parametrize(
    ("domain", "name", "answered"),
    [
        ("", "Conv", {"absorb_output", "absorb_input"}),
        ("", "BatchNormalization", {"as_affine", "absorb_output", "absorb_input"}),
        ("", "Relu", {"lift", "sink"}),
        ("", "Softmax", {"sink"}),
        ("", "Tanh", {"sink"}),
        ("", "MatMulInteger", set()),
        ("keras", "Embedding", {"absorb_output"}),
        ("keras", "LSTM", {"absorb_input"}),
        ("keras", "ops.Add", set(QUESTIONS)),
    ],
)
def test_the_marks_are_those_of_the_methods(domain, name, answered):
    facts = facts_about(name, domain)
    assert {question for question in QUESTIONS if facts.condition(question) is not None} == answered
