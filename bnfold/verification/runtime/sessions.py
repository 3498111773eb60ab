"""onnxruntime sessions as verification needs them: deterministic, bounded, and quiet."""

from __future__ import annotations

import ctypes
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np

from bnfold.errors import ModelFileError, UsageError, one_line, shortened
from bnfold.graph import Array
from bnfold.verification.runtime.onnx_file import OnnxFile, with_ir_version

#: Graph optimisation levels by the names the command line uses, in rising order.
LEVELS = {
    "disabled": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
#: TensorProto.BFLOAT16.
_ONNX_BFLOAT16 = 16
CPU = "CPUExecutionProvider"
#: The setting that says where the external data are of a model that comes as bytes.
_EXTERNAL_FOLDER = "session.model_external_initializers_file_folder_path"
_NEWER_IR = re.compile(r"Unsupported model IR version: (\d+), max supported IR version: (\d+)")
_NEWER_OPSET = re.compile(r"Opset (\d+) is under development .* for domain (\S+) is till opset (\d+)")
_DTYPES = {
    "float": "float32",
    "double": "float64",
    "float16": "float16",
    "bool": "bool",
    "string": "object",
    **{f"{sign}int{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


class RunError(Exception):
    """onnxruntime would not load or run a model; the message is its own, shortened."""

    @property
    def kind(self) -> str:
        """The runtime's name for failures of that sort: ``NotImplemented``, ``InvalidGraph``, …"""
        return type(self.__cause__).__name__

    @property
    def out_of_memory(self) -> bool:
        """Whether the failure says nothing about the model, only about this machine."""
        text = str(self).lower()
        return "bad_alloc" in text or "failed to allocate memory" in text or isinstance(self.__cause__, MemoryError)


@dataclass(frozen=True, slots=True)
class Settings:
    """Where and how sessions run. ``threads`` None means as many as there are cores, at most four."""

    provider: str = CPU
    threads: int | None = None
    seed: int = 0

    def thread_count(self) -> int:
        if self.threads is not None:
            return self.threads
        available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return min(available, 4)


@dataclass(frozen=True, slots=True)
class ValueSpec:
    """An input or output as declared: ``kind`` is tensor, seq or optional; ``dtype`` None if numpy has none.

    ``shape`` holds sizes, symbols and None; it is None as a whole where the rank is not known.
    """

    name: str
    type: str
    kind: str
    dtype: np.dtype[Any] | None
    shape: tuple[int | str | None, ...] | None


class Session:
    """One model, loaded: run it on a feed. Everything that goes wrong is a :class:`RunError`."""

    def __init__(
        self,
        model: OnnxFile,
        settings: Settings,
        *,
        level: str = "disabled",
        content: bytes | None = None,
        disabled_optimizers: Sequence[str] = (),
        tuned: bool = False,
    ) -> None:
        """Load ``model``, or ``content`` in its place: a variant of it whose external data are the same.

        ``tuned`` leaves the runtime its defaults for speed, for measuring it.
        """
        import onnxruntime

        providers = _providers(settings.provider)
        options = _options(settings, level, tuned)
        if content is None and model.folder != model.path.parent:
            content = model.path.read_bytes()
        extra = {"disabled_optimizers": list(disabled_optimizers)} if disabled_optimizers else {}

        def load(source: str | bytes) -> Any:
            if isinstance(source, bytes):
                options.add_session_config_entry(_EXTERNAL_FOLDER, str(model.folder.resolve()))
            onnxruntime.set_seed(settings.seed)
            return onnxruntime.InferenceSession(source, options, providers=providers, **extra)

        source = os.fspath(model.path) if content is None else content
        #: The IR version that the model says and the newest that the runtime loads, as which it is run; None as a rule.
        self.newer_ir: tuple[int, int] | None = None
        try:
            try:
                self._session = load(source)
            except runtime_errors() as error:
                self.newer_ir = _newer_ir(error)
                if self.newer_ir is None:
                    raise
                # IR versions differ in what a file may hold, not in what its operators compute.
                source = with_ir_version(model.path.read_bytes() if content is None else content, self.newer_ir[1])
                self._session = load(source)
        except runtime_errors() as error:
            if type(error).__name__ in ("InvalidProtobuf", "NoSuchFile"):
                raise ModelFileError(f"{model.name} is not an ONNX model, or it is damaged") from error
            raise RunError(_words(error)) from error
        if self._session.get_providers()[0] != settings.provider:
            raise RunError(f"{settings.provider} could not be started")
        self._model = model
        #: What is drawn at random is drawn again from the beginning in every run.
        self._reload = partial(load, source) if model.draws else None

    @property
    def notes(self) -> list[str]:
        """What is to be known of how the model runs."""
        if self.newer_ir is None:
            return []
        said, known = self.newer_ir
        return [f"onnxruntime loads IR versions up to {known}: what says version {said} was run as version {known}"]

    def inputs(self) -> list[ValueSpec]:
        """What must be fed, in order. Overridable initializers are not among them."""
        return [self._spec(value) for value in self._session.get_inputs()]

    def optional_inputs(self) -> list[ValueSpec]:
        """Initializers that a feed may override."""
        return [_spec(value) for value in self._session.get_overridable_initializers()]

    def outputs(self) -> list[ValueSpec]:
        return [_spec(value) for value in self._session.get_outputs()]

    def run(self, feed: Mapping[str, Any], outputs: Mapping[str, str] | None = None) -> dict[str, Array]:
        """Run the model; sequences and maps are flattened into ``name[0]``, ``name['key']``.

        ``outputs`` maps the names under which to return outputs to the model's own names for them;
        by default all outputs are returned under their own.
        """
        if outputs is None:
            outputs = {value.name: value.name for value in self._session.get_outputs()}
        try:
            self._session = self._reload() if self._reload else self._session
            values = self._run(dict(feed), list(outputs.values()))
        except runtime_errors() as error:
            raise RunError(_words(error)) from error
        flat: dict[str, Array] = {}
        for name, value in zip(outputs, values, strict=True):
            _flatten(name, value, flat)
        return flat

    def _run(self, feed: dict[str, Any], names: list[str]) -> list[Any]:
        specs = (*self._session.get_inputs(), *self._session.get_outputs())
        if not any("bfloat16" in spec.type for spec in specs):
            return list(self._session.run(names, feed))
        # onnxruntime's numpy interface does not know bfloat16: it is passed as it lies in memory.
        values = {name: _to_ort(value) for name, value in feed.items()}
        return [_from_ort(value) for value in self._session.run_with_ort_values(names, values)]

    def _spec(self, value: Any) -> ValueSpec:
        spec = _spec(value)
        # onnxruntime shows a scalar and a tensor of unknown rank alike.
        if spec.shape == () and spec.kind == "tensor":
            for declared in self._model.skeleton.graph.input:
                if declared.name == spec.name and not declared.type.tensor_type.HasField("shape"):
                    return ValueSpec(spec.name, spec.type, spec.kind, spec.dtype, None)
        return spec


@dataclass(frozen=True, slots=True)
class Candidate:
    """What is compared with the original: a model, and how the runtime is to optimise it."""

    model: OnnxFile
    level: str = "disabled"
    disabled_optimizers: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.model.name

    def open(self, settings: Settings) -> Session:
        """Load it. Raises RunError."""
        return Session(self.model, settings, level=self.level, disabled_optimizers=self.disabled_optimizers)


@cache
def runtime_errors() -> tuple[type[Exception], ...]:
    """Everything onnxruntime raises: its own exceptions have no common base."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = [value for value in vars(state).values() if isinstance(value, type) and issubclass(value, Exception)]
    return (*own, RuntimeError, ValueError, TypeError, MemoryError)


def available_providers() -> list[str]:
    import onnxruntime

    return list(onnxruntime.get_available_providers())


def _providers(provider: str) -> list[str]:
    known = available_providers()
    if provider not in known:
        raise UsageError(f"onnxruntime has no execution provider {provider!r} here; it has {', '.join(known)}")
    return [provider] if provider == CPU else [provider, CPU]


def _options(settings: Settings, level: str, tuned: bool) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, LEVELS[level])
    options.intra_op_num_threads = settings.thread_count()
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if not tuned:
        options.use_deterministic_compute = True
        # Feeds have several sizes, so a memory plan made for one does not serve the next.
        options.enable_mem_pattern = False
        # Without rearranged copies of the weights, external data stay where they are mapped.
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _spec(value: Any) -> ValueSpec:
    kind, _, inner = value.type.rstrip(")").partition("(")
    element = inner.rpartition("(")[2].rstrip(")")
    shape = tuple(_dim(dim) for dim in value.shape or ())
    return ValueSpec(value.name, value.type, kind, _dtype(element), shape)


def _dtype(name: str) -> np.dtype[Any] | None:
    if name == "bfloat16":
        return _bfloat16()
    return np.dtype(_DTYPES[name]) if name in _DTYPES else None


def _bfloat16() -> np.dtype[Any]:
    import ml_dtypes

    dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return dtype


def _to_ort(value: Any) -> Any:
    import onnxruntime

    if isinstance(value, np.ndarray) and value.dtype.name == "bfloat16":
        bits = np.ascontiguousarray(value).view(np.uint16)
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, _ONNX_BFLOAT16)
    return onnxruntime.OrtValue.ortvalue_from_numpy(value)


def _from_ort(value: Any) -> Any:
    if value.data_type() != "tensor(bfloat16)":
        return value.numpy()
    if value.device_name() != "cpu":
        raise ValueError("bfloat16 outputs can only be read from the CPU")
    shape = value.shape()
    bits = (ctypes.c_uint16 * math.prod(shape)).from_address(value.data_ptr())
    return np.array(bits, np.uint16).view(_bfloat16()).reshape(shape)


def _dim(dim: Any) -> int | str | None:
    """A size or a symbol; onnxruntime writes a dimension that is neither in several ways."""
    named = isinstance(dim, str) and dim != ""
    sized = isinstance(dim, int) and dim >= 0
    return dim if named or sized else None


def _flatten(name: str, value: Any, flat: dict[str, Array]) -> None:
    if isinstance(value, Mapping):
        for key in sorted(value, key=str):
            _flatten(f"{name}[{key!r}]", value[key], flat)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _flatten(f"{name}[{index}]", item, flat)
    elif value is not None:
        flat[name] = np.asarray(value)


def _newer_ir(error: Exception) -> tuple[int, int] | None:
    """The IR version of a model that the runtime does not load for it, and the newest that it loads."""
    found = _NEWER_IR.search(str(error))
    return None if found is None else (int(found[1]), int(found[2]))


def _words(error: Exception) -> str:
    """The telling part of onnxruntime's message, on one line."""
    text = one_line(error)
    text = re.sub(r"^(\[ONNXRuntimeError\] : )?\d+ : [A-Z_]+ : (Load model from .*? failed:)?", "", text)
    text = re.sub(r"\S*/onnxruntime/\S+:\d+ .*?\)( const)? ", "", text)  # places in its sources
    newer = _NEWER_OPSET.search(text)
    return shortened(f"it knows opsets of {newer[2]} up to {newer[3]}, and this one has {newer[1]}" if newer else text)
