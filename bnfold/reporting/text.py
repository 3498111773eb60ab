"""Words and numbers for people."""

from __future__ import annotations

_UNITS = ("B", "KB", "MB", "GB", "TB")


def clean(text: str) -> str:
    """The text with everything escaped that a terminal would obey or cannot show: names come from strangers' files."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


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
