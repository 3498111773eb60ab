"""Tables and sentences on a terminal, or the same without colour in a file."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import IO

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from bnfold.reporting.text import clean

#: The width of output that goes to a file or a pipe.
_FILE_WIDTH = 160
STYLES = {"error": "bold red", "warning": "yellow", "info": "cyan"}


def make_console(file: IO[str] | None = None) -> Console:
    """A console for results. NO_COLOR and COLUMNS are honoured; a pipe gets long lines and no colour."""
    stream = sys.stdout if file is None else file
    width = None
    if not stream.isatty() and "COLUMNS" not in os.environ:
        width = _FILE_WIDTH
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False, soft_wrap=False)


def table(*columns: str, right: Iterable[str] = ()) -> Table:
    """A table without lines; the columns in ``right`` hold numbers."""
    numbers = set(right)
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", show_edge=False)
    for name in columns:
        grid.add_column(name, justify="right" if name in numbers else "left", overflow="fold", no_wrap=name in numbers)
    return grid


def cell(value: object, style: str = "") -> Text:
    """A cell of a table: the text as it is, with nothing in it taken for markup or obeyed by a terminal."""
    return Text(clean(str(value)), style=style)


def line(console: Console, *parts: str | tuple[str, str], indent: int = 0) -> None:
    """Print parts, each plain or with a style, as one paragraph: one line in a file, wrapped on a terminal."""
    text = Text(" " * indent if not console.is_terminal else "")
    for part in parts:
        words, style = (part, "") if isinstance(part, str) else part
        text.append(clean(words), style=style)
    if console.is_terminal:
        console.print(Padding(text, (0, 0, 0, indent), expand=False))
    else:
        console.print(text, soft_wrap=True)


def show(console: Console, content: RenderableType, *, indent: int = 0) -> None:
    """Print a table or a page, without the spaces that would fill up its lines in a file."""
    if console.is_terminal:
        console.print(Padding(content, (0, 0, 0, indent), expand=False))
        return
    with console.capture() as captured:
        console.print(content, width=max(1, console.width - indent))
    margin = " " * indent
    console.file.write("".join(f"{margin}{row}".rstrip() + "\n" for row in captured.get().splitlines()))
