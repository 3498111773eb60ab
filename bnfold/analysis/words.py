"""Small pieces of sentences."""

from __future__ import annotations

from collections.abc import Sequence

_SHOWN = 3


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
