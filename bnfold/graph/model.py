"""A model of some file format, as the rest of the package sees it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bnfold.graph.dtypes import Array
from bnfold.graph.modelgraph import ModelGraph

#: Gives values as they were before they were rounded.
Exact: TypeAlias = Callable[[], NDArray[np.float64]]


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

    @property
    def trainable(self) -> TrainableModel | None:
        """The same model where its framework can train it; None elsewhere."""

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


@dataclass(frozen=True, slots=True, eq=False)
class Computed:
    """What a converter made of a model's weights: ``sizes`` that it was rounded at, ``exact`` where that is known."""

    sizes: Array
    exact: NDArray[np.float64] | None = None


class ConvertedModel(Model, Protocol):
    """A model of another format than ONNX: what its conversion does to weights, for those who verify it.

    Nothing has to be known: each may return an empty dict, and the verdict allows for the roundings that it sees.
    """

    def unrounded(self) -> dict[str, Exact]:
        """The weights that folding computed, before they are rounded, each by a key of the format's own."""

    def unrounded_in_onnx(self, known: Mapping[str, Exact]) -> dict[str, Exact]:
        """The same for the initializers of :meth:`as_onnx`'s file, by name; ``known`` is what :meth:`unrounded` gave,
        perhaps of the model that this one was read back from.
        """

    def computed_in_onnx(self) -> dict[str, Computed]:
        """The constants of that file that the converter computed in float32, by name."""


class TrainableModel(ConvertedModel, Protocol):
    """A Keras model: Keras itself can run it, train it, and build others of its layers."""

    @property
    def keras_model(self) -> Any:
        """The ``keras.Model`` of the graph. Raises OutputError where no Keras layer expresses what is in it."""

    def retrainable(self, graph: ModelGraph, *, fresh: int | None = None) -> tuple[TrainableModel, str]:
        """A model of a changed graph, built and compiled as this one was, and a remark on what of that was not kept.

        With a seed in ``fresh`` its weights are initialised anew. Raises OutputError.
        """

    def load_data(self, data: str | PathLike[str] | Array | Mapping[str, Array]) -> Mapping[str, Array]:
        """Examples by input name: from a ``.npz`` or ``.npy`` file, or arrays as they are. Raises UsageError."""

    def measure(self, norms: Collection[str], data: Mapping[str, Array]) -> None:
        """Give BN operators that do nothing, in place, the statistics of what passes them on ``data``."""

    def conversion_difference(self) -> float:
        """How far the ONNX of it strays from Keras's predictions, as part of the largest output."""

    def prediction_difference(self, other: Any) -> tuple[float, float]:
        """How far another such model's predictions stray from this one's, and what rounding explains; as above."""
