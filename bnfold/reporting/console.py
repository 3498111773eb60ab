"""Tables and sentences on a terminal, or the same without colour in a file."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from typing import IO

from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from bnfold.reporting.text import clean

#: The width of output that goes to a file or a pipe.
_FILE_WIDTH = 160
_UNLIMITED = 100_000
#: Columns between two columns of a table.
_GAP = 2
#: What GitHub's runner obeys in a log: ``##[``, and ``::command::`` at the beginning of a line, which wrapping moves.
_COMMAND = re.compile(r"(?<!\S)::(?=\w)|##(?=\[)")
#: The styles of an answer.
GOOD, BAD = "green", "bold red"
STYLES = {"error": "bold red", "warning": "yellow", "info": "cyan"}


def _obeyed_by_none(text: str) -> str:
    return _COMMAND.sub(lambda found: f"\\x{ord(found[0][0]):02x}{found[0][1]}", clean(text))


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Whoever read the output has enough. rich would end the process with an error; the command line does not."""
        raise BrokenPipeError


def make_console(file: IO[str] | None = None) -> Console:
    """A console for results. NO_COLOR and COLUMNS are honoured; a pipe gets long lines and no colour."""
    stream = sys.stdout if file is None else file
    width = None
    if not stream.isatty() and "COLUMNS" not in os.environ:
        width = _FILE_WIDTH
    return _Console(file=stream, width=width, highlight=False, markup=False, emoji=False, soft_wrap=False)


def table(*columns: str, right: Iterable[str] = ()) -> Table:
    """A table without lines; the columns in ``right`` hold numbers."""
    numbers = set(right)
    grid = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold", show_edge=False)
    for name in columns:
        grid.add_column(name, justify="right" if name in numbers else "left", overflow="fold", no_wrap=name in numbers)
    return grid


def cell(value: object, style: str = "") -> Text:
    """A cell of a table: the text as it is, with nothing in it taken for markup or obeyed by a terminal or a log."""
    return Text(_obeyed_by_none(str(value)), style=style)


def line(console: Console, *parts: str | tuple[str, str], indent: int = 0) -> None:
    """Print parts, each plain or with a style, as one paragraph: one line in a file, wrapped on a terminal."""
    text = Text(" " * indent if not console.is_terminal else "")
    for part in parts:
        words, style = (part, "") if isinstance(part, str) else part
        text.append(_obeyed_by_none(words), style=style)
    if console.is_terminal:
        console.print(Padding(text, (0, 0, 0, indent), expand=False))
    else:
        console.print(text, soft_wrap=True)


def _fit(console: Console, grid: Table, available: int) -> int:
    """Set the columns' widths so that no word is broken, and return the table's.

    The widest columns give way first; none becomes narrower than its longest word, so the table may be wider
    than what is available. rich by itself breaks words before it goes beyond that.
    """
    options = console.options.update(max_width=_UNLIMITED)
    sizes = []
    for column in grid.columns:
        parts = [Measurement.get(console, options, part) for part in (column.header, *column.cells)]
        widest = max(part.maximum for part in parts)
        sizes.append((widest if column.no_wrap else max(part.minimum for part in parts), widest))
    room = available - _GAP * len(sizes)
    cap = max((widest for _, widest in sizes), default=0)
    while cap and sum(max(longest, min(widest, cap)) for longest, widest in sizes) > room:
        cap -= 1
    for column, (longest, widest) in zip(grid.columns, sizes, strict=True):
        column.width = max(longest, min(widest, cap))
    return sum(column.width or 0 for column in grid.columns) + _GAP * len(sizes)


def show(console: Console, content: RenderableType, *, indent: int = 0) -> None:
    """Print a table or a page, without the spaces that would fill up its lines in a file.

    A table whose longest words do not fit beside each other is wider than the console: no word is broken.
    """
    usual = console.width
    if isinstance(content, Table):
        console.width = max(usual, _fit(console, content, usual - indent) + indent)
    try:
        if console.is_terminal:
            console.print(Padding(content, (0, 0, 0, indent), expand=False))
            return
        with console.capture() as captured:
            console.print(content, width=max(1, console.width - indent))
    finally:
        console.width = usual
    margin = " " * indent
    console.file.write("".join(f"{margin}{row}".rstrip() + "\n" for row in captured.get().splitlines()))
