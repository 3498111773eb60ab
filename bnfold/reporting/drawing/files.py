"""Graphs and pages as files: which suffix stands for which format, and how they are written."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path

from bnfold.errors import UsageError
from bnfold.formats.atomic import staged_file
from bnfold.reporting.drawing.view import View

#: The formats of ``bnfold graph`` by the suffix of the file. ``.json`` may be asked to be Model Explorer's.
SUFFIXES = {".dot": "dot", ".gv": "dot", ".graphml": "graphml", ".json": "json", ".svg": "svg", ".png": "png"}
FORMATS = ("dot", "graphml", "json", "svg", "png", "model-explorer")


def format_of(path: str | PathLike[str], wanted: str | None = None) -> str:
    """The format that a file is written in: ``wanted``, or what its suffix says. Raises UsageError."""
    if wanted is not None:
        return wanted
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        known = ", ".join(SUFFIXES)
        raise UsageError(f"{path} has none of the suffixes {known}: say what to write with --format")
    return SUFFIXES[suffix]


def render(view: View, output_format: str) -> bytes:
    """A view as the bytes of a file. Raises UsageError where Graphviz is needed and not there."""
    from bnfold.reporting.drawing import graphviz, networks

    if output_format == "graphml":
        return networks.graphml(view)
    if output_format == "json":
        return networks.node_link(view)
    text = graphviz.dot(view)
    if output_format == "dot":
        return text.encode("utf-8", "backslashreplace")
    return graphviz.run(text, output_format)


def write(path: str | PathLike[str], data: bytes) -> None:
    """Write a file whole or not at all. Raises OutputError."""
    with staged_file(path) as staged:
        with staged.writing() as out:
            out.write(data)
        staged.commit()


def write_all(files: Mapping[str, bytes]) -> None:
    """Several files, in order."""
    for path, data in files.items():
        write(path, data)
