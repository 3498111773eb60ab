"""A model of some file format, as the rest of the package sees it."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Protocol

from bnfold.graph.modelgraph import ModelGraph

#: Called with a complete file that has not got its name yet; what it raises keeps it from that.
Approve = Callable[[Path], object]


class Model(Protocol):
    """A model of some file format: the graph, and the way back to a file."""

    @property
    def graph(self) -> ModelGraph: ...

    @property
    def path(self) -> Path | None:
        """The file it was read from; None for one that was built in memory."""

    @property
    def format(self) -> str:
        """``"onnx"`` or ``"keras"``."""

    def with_graph(self, graph: ModelGraph) -> Model:
        """The same model (metadata, opset…) around a changed graph."""

    def save(self, path: str | PathLike[str], *, approve: Approve | None = None) -> None:
        """Write to ``path`` atomically. The suffix decides the format.

        ``approve`` is called with the complete file under a temporary name; what it raises leaves
        ``path`` as it was.
        """

    def as_onnx(self, directory: Path) -> Path:
        """An ONNX file of this model for onnxruntime: its own where nothing changed, else one
        written into ``directory``.
        """
