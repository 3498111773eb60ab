"""What a page says about one model, as values: cards with the answers, tables, pictures. The template draws these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bnfold.analysis.report import Report
    from bnfold.folding.plan import Plan

#: The tones of an answer.
GOOD, BAD, CAUTION, PLAIN = "good", "bad", "caution", "plain"


@dataclass(frozen=True, slots=True)
class Card:
    """One answer at the top: a question, the answer in a few words, and its tone."""

    title: str
    answer: str
    tone: str = PLAIN
    details: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a grid: ``value`` is what it is sorted by where that is a number, ``details`` unfold below it."""

    text: str
    value: float | None = None
    tone: str = ""
    #: Pairs of a rule's code, empty where there is none, and a sentence.
    details: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Grid:
    """A table to sort and filter. The first column holds names; ``choose`` is the column that a list filters by."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    choose: int | None = None

    @property
    def choices(self) -> list[str]:
        return [] if self.choose is None else list(dict.fromkeys(row[self.choose].text for row in self.rows))


@dataclass(frozen=True, slots=True)
class Sheet:
    """One model, or one comparison. What does not apply is empty or None and is not shown."""

    title: str
    cards: tuple[Card, ...]
    report: Report | None = None
    plan: Plan | None = None
    changes: tuple[Mapping[str, str], ...] = ()
    #: Verifications by what they are about, as plain data.
    checks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    error: str = ""
    grids: tuple[Grid, ...] = ()
    #: What :mod:`bnfold.reporting.page.picture` made of a drawing, with its caption.
    picture: str = ""
    caption: str = ""
    #: The rules whose text is shown besides those of the report.
    codes: frozenset[str] = frozenset()
    data: Mapping[str, Any] = field(default_factory=dict)
