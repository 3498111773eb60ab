"""The table of all facts, for docs/operators.md: ``python -m bnfold.operators.table > docs/operators.md``."""

from __future__ import annotations

from collections.abc import Iterator

from bnfold.operators.base import Facts, facts_about, known_types
from bnfold.operators.dialect import Dialect
from bnfold.operators.keras import KERAS
from bnfold.operators.onnx import ONNX

#: The questions that folding asks, and what the columns are called.
QUESTIONS = {
    "as_affine": "is an affine",
    "absorb_output": "absorbs one behind it",
    "absorb_input": "absorbs one before it",
    "lift": "lifts",
    "sink": "sinks",
}
_TITLES = {ONNX: "ONNX", KERAS: "Keras"}
_INTRODUCTION = """\
# What the operators do to an affine

An affine is `scale * x + shift` with constant vectors along one axis, or along several; a uniform one has the
same two numbers everywhere. For each operator that bnfold knows, the columns say

* **is an affine**: when the operator is one itself,
* **absorbs one behind it**, **absorbs one before it**: when its constants take in an affine on its output or input,
* **lifts**: which affines on its output are affines on its inputs,
* **sinks**: which affines on its inputs are affines on its output.

A dash is a refusal in any case, and an operator without a row refuses everything. `(grid)` marks operators that
an affine along several axes may pass too.

This file is generated from the facts: `python -m bnfold.operators.table > docs/operators.md`.
"""


def table() -> str:
    """The whole document, in Markdown."""
    return "\n".join([_INTRODUCTION, *(line for dialect in _TITLES for line in _section(dialect))])


def _section(dialect: Dialect) -> Iterator[str]:
    yield f"## {_TITLES[dialect]}\n"
    yield f"| operator | {' | '.join(QUESTIONS.values())} |"
    yield "|---" * (len(QUESTIONS) + 1) + "|"
    for name in known_types(dialect.domain):
        yield f"| {' | '.join(_row(name, facts_about(name, dialect.domain)))} |"
    yield ""


def _row(name: str, facts: Facts) -> Iterator[str]:
    yield f"{name} (grid)" if facts.grids else name
    for question in QUESTIONS:
        yield facts.condition(question) or "—"


if __name__ == "__main__":
    print(table(), end="")
