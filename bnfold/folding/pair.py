"""A model's graph before and after folding, with the plan that leads from one to the other: what can be drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bnfold.folding.plan import Plan
from bnfold.graph import ModelGraph


@dataclass(frozen=True, slots=True, repr=False)
class Pair:
    """The graph that was given, the graph that came out, and the plan."""

    before: ModelGraph
    after: ModelGraph
    plan: Plan

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as None: a graph holds its file open and stays in its process; reports do travel."""
        return type(None), ()
