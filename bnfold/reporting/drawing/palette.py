"""The colours of what became of an operator: fill and line, the same in every format that has colours."""

from __future__ import annotations

from bnfold.reporting.drawing import view

_PLAIN = ("#f3f4f6", "#9aa1ab")
_COLOURS = {
    view.FOLDED: ("#fbd5d5", "#c53030"),
    view.TOOK_IN: ("#cdeedd", "#1f7a4d"),
    view.THROUGH: ("#d5e4fb", "#2b62b8"),
    view.STAYS: ("#fbe8bd", "#a86b00"),
    view.NEW: ("#e6dbf8", "#6b46a8"),
    view.GONE: ("#e3e4e6", "#6b7280"),
}
FINDING_COLOUR = "#d6336c"


def colours(state: str) -> tuple[str, str]:
    """Fill and line of a node in that state."""
    return _COLOURS.get(state, _PLAIN)


def legend() -> dict[str, tuple[str, str]]:
    """Every state with its colours, in the order of a legend."""
    return dict(_COLOURS)
