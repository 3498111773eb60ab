"""Pieces of the sentences that findings and reports share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bnfold.graph import Op

_SHOWN = 3


def title(op: Op) -> str:
    """An operator's name in a sentence: a bare number, as nameless nodes have, with its type (``Conv 245``)."""
    name = op.display
    return name if any(letter.isalpha() for letter in name) else f"{op.type} {name}"


def listed(names: Sequence[str], shown: int = _SHOWN) -> str:
    """``a``, ``a and b``, ``a, b and c``, ``a, b, c and 4 more``."""
    if len(names) > shown + 1:
        return f"{', '.join(names[:shown])} and {len(names) - shown} more"
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def plural(count: int, noun: str, several: str = "") -> str:
    """``1 channel``, ``1,024 channels``."""
    return f"{count:,} {noun if count == 1 else several or noun + 's'}"
