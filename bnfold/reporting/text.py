"""Words and numbers for people."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

_UNITS = ("B", "KB", "MB", "GB", "TB")
#: From so many entries on, a table puts those that are alike into one row.
GROUP_FROM = 60
ELLIPSIS = "…"
#: Characters that turn the direction of what follows.
_DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
#: A common prefix shorter than this is not worth a symbol.
_SHORTEST_PREFIX = 12


def clean(text: str) -> str:
    """The text with everything escaped that a terminal would obey or cannot show: names come from strangers' files."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def visible(text: object) -> str:
    """The text with control characters and marks of direction written as escapes, and all else as it is: for HTML."""
    return "".join(
        char.encode("unicode_escape").decode()
        if char in _DIRECTIONS or unicodedata.category(char) in ("Cc", "Cs")
        else char
        for char in str(text)
    )


def cut(text: str, length: int) -> str:
    """The text in at most ``length`` characters: of a longer one the middle goes, as names differ at their ends."""
    if len(text) <= length:
        return text
    head = (length - 1) // 2
    return f"{text[:head]}{ELLIPSIS}{text[len(text) - (length - 1 - head) :]}"


def file_size(count: int | None) -> str:
    """``1.2 MB`` (powers of 1,000); a dash where there is no file."""
    if count is None:
        return "–"
    size, unit = float(count), 0
    while size >= 1000 and unit < len(_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{size:.0f} {_UNITS[unit]}" if not unit else f"{size:.3g} {_UNITS[unit]}"


def shortened(names: tuple[str, ...] | list[str], shown: int = 4) -> str:
    """``a, b, c, d and 12 more``."""
    if len(names) <= shown:
        return ", ".join(names)
    return f"{', '.join(names[:shown])} and {len(names) - shown:,} more"


@dataclass(frozen=True, slots=True)
class Shortening:
    """Writes ``…`` for the ``prefix`` that names have in common; called with a name or a sentence."""

    prefix: str

    def __call__(self, text: str) -> str:
        return text.replace(self.prefix, f"{ELLIPSIS}/") if self.prefix else text


def shortening(names: Sequence[str]) -> Shortening:
    """What several names of one path, ``model/block/…``, have in common, up to a slash; nothing if that is short."""
    folders = [name.split("/")[:-1] for name in names] if len(names) > 1 else []
    common = takewhile(lambda parts: len(set(parts)) == 1, zip(*folders, strict=False))
    prefix = "".join(f"{parts[0]}/" for parts in common)
    return Shortening(prefix if len(prefix) >= _SHORTEST_PREFIX else "")


def signed(value: float) -> str:
    """A difference with its sign and four decimals: ``-0.0159``; what rounds to zero is ``+0.0000``."""
    return f"{round(value, 4) + 0.0:+.4f}"
