"""A model of some file format, as the rest of the package sees it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from os import PathLike
from pathlib import Path
from typing import Protocol

from bnfold.graph.modelgraph import ModelGraph


class Staged(Protocol):
    """A file that is complete and has not got its name yet."""

    @property
    def path(self) -> Path:
        """Where it lies."""

    def commit(self) -> None:
        """Give it its name, in the place of what has it. Raises OutputError."""


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

    def save(self, path: str | PathLike[str]) -> None:
        """Write to ``path`` atomically. The suffix decides the format."""

    def stage(self, path: str | PathLike[str], *, external_data: bool | None = None) -> AbstractContextManager[Staged]:
        """The complete file beside ``path`` under a temporary name, dropped unless it is committed in the block.

        ``external_data`` puts an ONNX model's weights into a file of their own; None: where they have to be.
        """

    def as_onnx(self, directory: Path) -> Path:
        """An ONNX file of this model for onnxruntime: its own where nothing changed, else one
        written into ``directory``.
        """
