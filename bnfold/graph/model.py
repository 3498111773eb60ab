"""A model of some file format, as the rest of the package sees it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class ParameterAccount:
    """Numbers of parameters, as a framework counts them; ``batchnorm`` are those in BN layers."""

    total: int
    trainable: int
    non_trainable: int
    batchnorm: int


class Model(Protocol):
    """A model of some file format: the graph, and the way back to a file."""

    @property
    def graph(self) -> ModelGraph: ...

    @property
    def path(self) -> Path | None:
        """The file it was read from; None for one that was built in memory."""

    @property
    def format(self) -> str:
        """What reports call the format."""

    @property
    def is_onnx(self) -> bool:
        """Is it ONNX itself? Others are converted for onnxruntime, which makes up names of tensors."""

    def with_graph(self, graph: ModelGraph) -> Model:
        """The same model (metadata, opset…) around a changed graph."""

    def inlined(self) -> Model:
        """The same model with what hides its operators (functions) written out, as far as it is of use."""

    def parameter_account(self) -> ParameterAccount | None:
        """How many parameters there are and of which kind; None where the format does not say."""

    def check_target(self, path: Path) -> None:
        """Raise UsageError where the model cannot be written to a file of that name."""

    def converts_to(self, path: Path) -> bool:
        """Is a file of that name of another format than the model?"""

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
