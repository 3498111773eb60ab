"""An ONNX model: its graph, everything else in the file, and the way back to a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from os import PathLike
from pathlib import Path

from onnx import ModelProto

from bnfold.errors import UsageError
from bnfold.formats.atomic import StagedFile
from bnfold.formats.onnx.build import Builder
from bnfold.formats.onnx.context import Context
from bnfold.formats.onnx.inline import inline_functions
from bnfold.formats.onnx.payloads import Payloads
from bnfold.formats.onnx.reader import read_graph
from bnfold.formats.onnx.storage import FileStorage
from bnfold.formats.onnx.writer import staged_model, to_bytes
from bnfold.graph import ModelGraph
from bnfold.operators.onnx import ONNX
from bnfold.temporary import temporary_name


class OnnxModel:
    """A model read from ONNX; implements :class:`bnfold.graph.Model`.

    Whatever bnfold does not understand (metadata, doc strings, functions, quantization annotations,
    sparse initializers, training information, unknown fields) is written back as it was.
    """

    format = ONNX.name
    is_onnx = True
    trainable = None

    def __init__(
        self,
        context: Context,
        graph: ModelGraph,
        storage: FileStorage | None = None,
        *,
        data_files: tuple[str, ...] = (),
        changed: bool = False,
        origin: Path | None = None,
    ) -> None:
        self._context = context
        self._graph = graph
        self._storage = storage
        #: Where its external data was, relative to its own folder.
        self.data_files = data_files
        self._changed = changed
        self._origin = origin

    def __repr__(self) -> str:
        return f"<OnnxModel {self.path or self._graph.name or 'without a name'}: {len(self._graph)} operators>"

    @property
    def graph(self) -> ModelGraph:
        return self._graph

    @property
    def path(self) -> Path | None:
        return self._origin if self._storage is None else self._storage.path

    @property
    def ir_version(self) -> int:
        """The version of the file format. From 4 on, initializers among the inputs can be overridden."""
        return self._context.skeleton.ir_version

    @property
    def opsets(self) -> dict[str, int]:
        """The imported version of each operator set by domain; ``""`` is ONNX's own."""
        return self._context.opsets

    @cached_property
    def metadata(self) -> Mapping[str, str]:
        """The model's ``metadata_props``."""
        return {entry.key: entry.value for entry in self._context.skeleton.metadata_props}

    def with_graph(self, graph: ModelGraph) -> OnnxModel:
        """The same model around a changed graph."""
        changed = self._changed or graph is not self._graph
        return OnnxModel(
            self._context, graph, self._storage, data_files=self.data_files, changed=changed, origin=self._origin
        )

    def converted_from(self, origin: Path) -> OnnxModel:
        """The same model, known by the file or folder of another format that it was converted from."""
        return OnnxModel(self._context, self._graph, self._storage, data_files=self.data_files, origin=origin)

    def inlined(self) -> OnnxModel:
        """The model with those of its functions inlined that hold a BatchNormalization, or another
        operator that folding moves or moves into; itself where there are none.
        """
        if not self._context.skeleton.functions:
            return self
        builder = Builder(self._context.payloads)
        skeleton = inline_functions(builder.model(self._context.skeleton, self._graph))
        if skeleton is None:
            return self
        context = Context(self._context.label, skeleton, builder.payloads, self._context.partial)
        return OnnxModel(
            context, read_graph(context), self._storage, data_files=self.data_files, changed=True, origin=self._origin
        )

    @contextmanager
    def stage(self, path: str | PathLike[str], *, external_data: bool | None = None) -> Iterator[StagedFile]:
        """The complete file, with its external data, beside ``path`` under a temporary name.

        It replaces ``path`` when it is committed within the block, else nothing is left of it.
        ``external_data`` puts large tensors into ``<name>.data`` beside the model; None does so
        where the model had external data, or would be larger than the 2 GB that ONNX allows.
        Raises OutputError where the file cannot be written, UsageError for another suffix.
        """
        self.check_target(Path(path))
        model, payloads = self._build()
        if external_data is None and self.data_files:
            external_data = True
        with staged_model(path, model, payloads, external_data=external_data) as staged:
            yield staged

    def save(self, path: str | PathLike[str], *, external_data: bool | None = None) -> None:
        """Write to ``path`` atomically; arguments and errors as of :meth:`stage`."""
        with self.stage(path, external_data=external_data) as staged:
            staged.commit()

    def parameter_account(self) -> None:
        """ONNX does not say what is trained."""

    def check_target(self, path: Path) -> None:
        """Raise UsageError for another suffix than ``.onnx``."""
        if path.suffix.lower() in (".keras", ".h5", ".hdf5"):
            raise UsageError(f"{path.name}: an ONNX model cannot be written as a Keras model; use the suffix .onnx")
        if path.suffix.lower() != ".onnx":
            raise UsageError(f"{path.name}: an ONNX model is written as .onnx; the suffix decides")

    def converts_to(self, path: Path) -> bool:
        return False

    def to_proto(self) -> ModelProto:
        """The whole model in memory, for use with the onnx package."""
        model = ModelProto()
        model.ParseFromString(to_bytes(*self._build()))
        return model

    def as_onnx(self, directory: Path) -> Path:
        """A file for onnxruntime: the model's own where nothing changed, else one written into ``directory``."""
        if not self._changed and self._storage is not None and self._storage.is_current():
            return self._storage.path
        path = directory / temporary_name(".onnx")
        self.save(path)
        return path

    def _build(self) -> tuple[ModelProto, Payloads]:
        if self._context.partial:
            raise UsageError(f"{self._context.label} was read without its weights, so it cannot be written")
        builder = Builder(self._context.payloads)
        return builder.model(self._context.skeleton, self._graph), builder.payloads
