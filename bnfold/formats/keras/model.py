"""A Keras model as bnfold's other rooms see it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from bnfold.errors import OutputError, UsageError, shortened
from bnfold.formats.atomic import StagedFile, staged_file
from bnfold.formats.keras import topology, training
from bnfold.formats.keras.backend import quiet
from bnfold.formats.keras.convert import keras_to_onnx, valid_names
from bnfold.formats.keras.files import LOAD_ERRORS
from bnfold.formats.keras.read import read
from bnfold.formats.keras.reading import Reading
from bnfold.formats.keras.rebuild import rebuild
from bnfold.formats.keras.skeleton import Skeleton, fingerprint
from bnfold.graph import Array, Computed, Exact, ModelGraph, ParameterAccount
from bnfold.operators.keras import KERAS
from bnfold.temporary import temporary_folder, temporary_name

_SUFFIXES = (".keras", ".h5", ".hdf5", ".onnx")
_CHUNK_BYTES = 1 << 20
#: What stands for a size that the model leaves open, where a feed has to be made up.
_BATCH, _OPEN_SIZE = 2, 32
#: On how many batches two models' predictions are compared.
_PREDICTIONS = 3


class KerasModel:
    """A Keras model: the layers it was read from and the graph that says what it computes now.

    The ``keras.Model`` it was made from is never changed; :attr:`keras_model` is another one as soon
    as the graph is.
    """

    format = KERAS.name
    is_onnx = False

    def __init__(self, keras: Any, reading: Reading, graph: ModelGraph, path: Path | None) -> None:
        self._keras = keras
        self._reading = reading
        self._graph = graph
        self._path = path
        self._skeleton: Skeleton | None = None

    def __repr__(self) -> str:
        return f"<KerasModel {self._name}: {len(self._graph)} operators>"

    @property
    def graph(self) -> ModelGraph:
        return self._graph

    @property
    def path(self) -> Path | None:
        return self._path

    @property
    def trainable(self) -> KerasModel:
        """Itself; where it holds TimeDistributed layers, with these closed: what they hold is not restyled."""
        if not self._reading.borders or self._graph is not self._reading.graph:
            return self
        closed = read(self._keras, self._reading.root.model, self._name, open_steps=False)
        return KerasModel(self._keras, closed, closed.graph, self._path)

    def with_graph(self, graph: ModelGraph) -> KerasModel:
        """The same model around a changed graph."""
        return KerasModel(self._keras, self._reading, graph, self._path)

    @cached_property
    def keras_model(self) -> Any:
        """The ``keras.Model`` of this graph: the one that was loaded, or one built anew (not compiled).

        Raises OutputError where the graph holds what no Keras layer can express.
        """
        return self._build()

    def _build(self) -> Any:
        if self._graph is self._reading.graph:
            return self._reading.root.model
        return rebuild(self._keras, self._graph, self._reading)

    def retrainable(self, graph: ModelGraph, *, fresh: int | None = None) -> tuple[KerasModel, str]:
        """A model of a changed graph, built and compiled as this one was, and a remark on what of that was not kept.

        With a seed in ``fresh`` its weights are initialised anew by each layer's own initialisers. Raises OutputError.
        """
        model = rebuild(self._keras, graph, self._reading, fresh=fresh)
        settings = training.compile_settings(self._reading.root.model, self._path)
        remark = training.compile_as(self._keras, model, settings)
        reading = read(self._keras, model, self._name)
        return KerasModel(self._keras, reading, reading.graph, None), remark

    def load_data(self, data: str | PathLike[str] | Array | Mapping[str, Array]) -> Mapping[str, Array]:
        """Examples by input name: from a ``.npz`` or ``.npy`` file, or arrays as they are. Raises UsageError."""
        if isinstance(data, (str, PathLike)):
            return training.load_data(self._reading, Path(data))
        names = [tensor.name for tensor in self._graph.inputs]
        given = data if isinstance(data, Mapping) else {names[0]: np.asarray(data)}
        if set(given) != set(names):
            raise UsageError(f"the data need one array for each of {', '.join(names)}")
        training.check_data(self._reading, given, "the data")
        return given

    def measure(self, norms: Collection[str], data: Mapping[str, Array]) -> None:
        """Give BN operators that do nothing the statistics of what passes them on ``data``; they still do nothing.

        Their layers are changed in place: for a model that was just built.
        """
        training.measure(self._reading, norms, data)

    @property
    def _name(self) -> str:
        return str(self._path) if self._path is not None else self._reading.root.model.name

    def inlined(self) -> KerasModel:
        """Itself: the graph is that of the innermost layers."""
        return self

    def check_target(self, path: Path) -> None:
        """Raise UsageError for a suffix that is neither Keras's nor ``.onnx``."""
        if path.suffix.lower() not in _SUFFIXES:
            raise UsageError(f"{path.name}: a Keras model is written as .keras, .h5 or .onnx; the suffix decides")

    def converts_to(self, path: Path) -> bool:
        """``.onnx`` is written by tf2onnx."""
        return path.suffix.lower() == ".onnx"

    @contextmanager
    def stage(self, path: str | PathLike[str], *, external_data: bool | None = None) -> Iterator[StagedFile]:
        """The complete file beside ``path`` under a temporary name: ``.keras``, ``.h5`` / ``.hdf5`` or,
        converted by tf2onnx, ``.onnx``, as the suffix decides.

        It replaces ``path`` when it is committed within the block, else nothing is left of it. ``external_data``
        puts the weights of an ``.onnx`` file into one of their own; None does so above 2 GB. Raises OutputError,
        UsageError for another suffix, and MissingExtraError where ONNX is wanted and tf2onnx is not installed.
        """
        suffix = Path(path).suffix.lower()
        self.check_target(Path(path))
        if self.converts_to(Path(path)):
            with self._converted().stage(Path(path), external_data) as staged:
                yield staged
            return
        with temporary_folder() as directory:
            written = directory / f"model{suffix}"
            self._save(written, path)
            with staged_file(path) as staged:
                with staged.writing() as output, written.open("rb") as file:
                    while chunk := file.read(_CHUNK_BYTES):
                        output.write(chunk)
                yield staged

    def save(self, path: str | PathLike[str]) -> None:
        """Write to ``path``, whole or not at all; errors as of :meth:`stage`."""
        with self.stage(path) as staged:
            staged.commit()

    def _save(self, written: Path, path: str | PathLike[str]) -> None:
        # A model that is built for the file alone is not kept: it takes as much memory as the original.
        model = self.__dict__["keras_model"] if "keras_model" in self.__dict__ else self._build()
        try:
            with quiet():
                model.save(written)
        except LOAD_ERRORS as error:
            raise OutputError(f"{path} cannot be written by Keras: {shortened(error)}") from error

    def _converted(self) -> Skeleton:
        if self._skeleton is None or not self._skeleton.is_current():
            self._skeleton = keras_to_onnx(self._keras, self.keras_model, self._name)
        return self._skeleton

    def as_onnx(self, directory: Path) -> Path:
        """An ONNX file of this model in ``directory``, made by tf2onnx, its batch size open; the weights lie beside it.

        The conversion is done once. Raises OutputError where tf2onnx cannot convert it, MissingExtraError where
        it is not installed.
        """
        target = directory / temporary_name(".onnx")
        # Weights of their own file need not be in memory to read the model, or to run it.
        with self._converted().stage(target, True) as staged:
            staged.commit()
        return target

    def unrounded(self) -> dict[str, Exact]:
        """The weights that folding computed, before they are rounded, by the fingerprint of what they round to."""
        found: dict[str, Exact] = {}
        twice = set()
        for param in self._graph.params.values():
            if param.is_float and param.is_rounded:
                key = fingerprint(param.array())
                if key in found:
                    twice.add(key)
                found[key] = param.exact
        return {key: exact for key, exact in found.items() if key not in twice}

    def unrounded_in_onnx(self, known: Mapping[str, Exact]) -> dict[str, Exact]:
        """The weights of :meth:`as_onnx`'s file before they were rounded, by name; ``known`` as :meth:`unrounded`."""
        return self._converted().unrounded(known)

    def computed_in_onnx(self) -> dict[str, Computed]:
        """The float constants of :meth:`as_onnx`'s file that TensorFlow has computed, in float32, by name.

        Known exactly are scale and shift of a BN; ``beta - mean * scale`` may be small beside its terms.
        """
        known = []
        for layer in self.keras_model._flatten_layers(include_self=False):
            if isinstance(layer, self._keras.layers.BatchNormalization) and layer.built:
                mean, variance = (np.asarray(v, np.float64) for v in (layer.moving_mean, layer.moving_variance))
                gamma, beta = (0.0 if v is None else np.asarray(v, np.float64) for v in (layer.gamma, layer.beta))
                scale = (1.0 if layer.gamma is None else gamma) / np.sqrt(variance + np.float32(layer.epsilon))
                known.append(Computed(np.abs(scale), scale))
                known.append(Computed(np.abs(beta) + np.abs(mean * scale), beta - mean * scale))
        return self._converted().computed(known)

    def parameter_account(self) -> ParameterAccount:
        """How many parameters there are and of which kind. Rebuilds the model if its graph was changed."""
        model = self.keras_model
        norms = [
            layer
            for layer in model._flatten_layers(include_self=False)
            if isinstance(layer, self._keras.layers.BatchNormalization)
        ]
        return ParameterAccount(
            total=_count(model.weights),
            trainable=_count(model.trainable_weights),
            non_trainable=_count(model.non_trainable_weights),
            batchnorm=_count({id(value): value for layer in norms for value in layer.weights}.values()),
        )

    def predict(self, feeds: Mapping[str, Array]) -> list[Array]:
        """What Keras's own ``predict`` returns for one batch: ``feeds`` by input name, outputs in the graph's order.

        Raises OutputError where Keras cannot run it.
        """
        model = self.keras_model
        values = [np.asarray(feeds[tensor.name]) for tensor in self._graph.inputs]
        structure = topology.input_structure(topology.functional(self._keras, model))
        inputs = values[0] if len(values) == 1 else self._keras.tree.pack_sequence_as(structure, values)
        try:
            with quiet(), valid_names(model):
                outputs = self._keras.tree.flatten(model.predict_on_batch(inputs))
        except LOAD_ERRORS as error:
            raise OutputError(f"{self._name} cannot be run by Keras: {shortened(error)}") from error
        return [np.asarray(output) for output in outputs]

    def conversion_difference(self, feeds: Mapping[str, Array] | None = None) -> float:
        """How far tf2onnx's ONNX strays from Keras: the largest difference over all outputs, each relative
        to the largest magnitude in Keras's output. Infinite where NaN or infinity disagree.

        Without ``feeds`` (by input name) one random batch is used.
        """
        import onnxruntime

        feeds = feeds if feeds is not None else self._random_feeds()
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 3
        with temporary_folder() as directory:
            path = self.as_onnx(directory)
            session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            wanted = [entry.name for entry in session.get_inputs()]
            named = feeds if set(wanted) <= set(feeds) else dict(zip(wanted, feeds.values(), strict=True))
            actual = session.run(None, {name: named[name] for name in wanted})
        expected = self.predict(feeds)
        return max(_difference(a, b) for a, b in zip(expected, actual, strict=True))

    def prediction_difference(self, other: KerasModel) -> tuple[float, float]:
        """How far another model's predictions stray from this one's on random inputs, and what rounding explains.

        Both as parts of the largest output; the second is the root of the coarsest machine epsilon, that of an output
        or of what a layer computes in.
        """
        kinds = {layer.compute_dtype for layer in self.keras_model._flatten_layers()}
        gaps, steps = [0.0], [0.0, *(_eps(kind) for kind in kinds if "float" in str(kind))]
        for seed in range(_PREDICTIONS):
            feeds = self._random_feeds(seed)
            expected, actual = self.predict(feeds), other.predict(feeds)
            gaps += [_difference(a, b) for a, b in zip(expected, actual, strict=True)]
            steps += [_eps(a.dtype) for a in expected if "float" in a.dtype.name]
        return max(gaps), max(steps) ** 0.5

    def _random_feeds(self, seed: int = 0) -> dict[str, Array]:
        random = np.random.default_rng(seed)
        feeds: dict[str, Array] = {}
        for tensor in self._graph.inputs:
            sizes = [size if isinstance(size, int) else _OPEN_SIZE for size in (tensor.shape or ())]
            shape = (_BATCH, *sizes[1:])
            dtype = tensor.dtype if tensor.dtype is not None else np.dtype(np.float32)
            values = random.standard_normal(shape) if dtype.kind == "f" else random.integers(0, 2, shape)
            feeds[tensor.name] = values.astype(dtype)
        return feeds


def _eps(dtype: np.dtype[Any] | str) -> float:
    finfo: Any = ml_dtypes.finfo  # which knows bfloat16 as well, and no types of its own
    return float(finfo(dtype).eps)


def _count(variables: Any) -> int:
    return sum(int(np.prod(variable.shape)) for variable in variables)


def _difference(expected: Array, actual: Array) -> float:
    a, b = np.asarray(expected, np.float64), np.asarray(actual, np.float64)
    if a.shape != b.shape or not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return float("inf")
    finite = np.isfinite(a)
    largest = float(np.abs(a[finite]).max(initial=0.0))
    gap = float(np.abs(a[finite] - b[finite]).max(initial=0.0))
    return gap / largest if largest else gap
