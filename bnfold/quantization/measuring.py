"""Calibrate, quantise, run, compare: every model per tensor and per channel."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnfold.errors import UsageError, shortened
from bnfold.graph import Array
from bnfold.quantization.report import Int8Output, Int8Report, Int8Row, LayerLoss
from bnfold.quantization.samples import Samples, read_samples
from bnfold.temporary import temporary_folder
from bnfold.verification.runtime.onnx_file import OnnxFile
from bnfold.verification.runtime.sessions import RunError, Session, Settings, runtime_errors

FLOAT, PER_TENSOR, PER_CHANNEL = "float", "per tensor", "per channel"
#: Layers that are shown.
_WORST = 5
#: Runs that are timed, of each model in turn.
_RUNS = 15
#: Held-out batches on which single layers are tried.
_BATCHES_A_LAYER = 4

Answers = dict[str, NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class WeightOf:
    """The constant ``tensor`` is the weight of ``layer``, its channels' ranges ``spread`` bits apart."""

    layer: str
    tensor: str
    spread: float


def measure_int8(
    models: Mapping[str, Path],
    data: str | PathLike[str],
    weights: Mapping[str, Sequence[WeightOf]],
    settings: Settings | None = None,
) -> Int8Report:
    """Quantise ONNX files that compute the same, and say how far each is from the first one in float.

    ``models`` are paths by what they are called, ``data`` what :func:`read_samples` reads. ``weights`` are those of
    some of the models; of these the layers that lose most are told. Activations get 8 bits with one scale for the
    tensor, weights 8 bits with one scale for the tensor or one for each output channel, in QDQ form. The answers are
    those with onnxruntime's optimisations off, which do not depend on the machine; the latency is with them on.

    Raises UsageError where the data do not fit or the original cannot be run.
    """
    settings = settings or Settings()
    original = OnnxFile(next(iter(models.values())), "the original")
    try:
        session = Session(original, settings)
        samples = read_samples(data, session.inputs())
        reference = _answers(session, samples.held_out)
    except RunError as error:
        raise UsageError(f"the original cannot be run on {data}: {error}") from error
    with temporary_folder() as folder:
        files: dict[tuple[str, str], OnnxFile] = {}
        errors: dict[tuple[str, str], str] = {}
        for name, path in models.items():
            files[name, FLOAT] = OnnxFile(path, name)
            for form in (PER_TENSOR, PER_CHANNEL):
                target = folder / f"{len(files) + len(errors)}.onnx"
                fault = _quantize(path, target, samples, session.newer_ir, per_channel=form == PER_CHANNEL)
                if fault:
                    errors[name, form] = fault
                else:
                    files[name, form] = OnnxFile(target, f"{name}, {form}")
        outputs = {key: _compared(file, settings, samples, reference, errors, key) for key, file in files.items()}
        times = _latencies({key: file for key, file in files.items() if key not in errors}, settings, samples)
        rows = [
            Int8Row(model=key[0], weights=key[1], error=errors[key])
            if key in errors
            else Int8Row(
                model=key[0], weights=key[1], outputs=outputs[key], size=files[key].size, latency_ms=times.get(key)
            )
            for name in models
            for key in ((name, form) for form in (FLOAT, PER_TENSOR, PER_CHANNEL))
        ]
    calibration, held_out = samples.counts
    losses = _losses(models, weights, settings, samples)
    return Int8Report(rows=tuple(rows), losses=losses, calibration=calibration, held_out=held_out, batch=samples.batch)


def _answers(session: Session, feeds: Sequence[Mapping[str, Array]]) -> Answers:
    """All float outputs, batch after batch."""
    parts = [session.run(feed) for feed in feeds]
    names = [name for name, value in parts[0].items() if value.dtype.kind == "f"]
    return {name: np.concatenate([np.atleast_1d(part[name]) for part in parts]).astype(np.float64) for name in names}


def snr_db(reference: NDArray[np.float64], found: NDArray[np.float64]) -> float:
    """Signal to noise in decibels; infinite where both are the same, minus infinity where one is not finite."""
    noise = float(((reference - found) ** 2).sum())
    signal = float((reference**2).sum())
    if noise == 0.0:
        return float("inf")
    return 10.0 * float(np.log10(signal / noise)) if np.isfinite(noise) and signal > 0.0 else float("-inf")


def _agreement(reference: NDArray[np.float64], found: NDArray[np.float64]) -> float | None:
    """The part of the rows with the same largest entry, where there is one row of several entries a sample."""
    if reference.ndim != 2 or reference.shape[1] < 2:
        return None
    return float((reference.argmax(axis=1) == found.argmax(axis=1)).mean())


def _compared(
    file: OnnxFile,
    settings: Settings,
    samples: Samples,
    reference: Answers,
    errors: dict[tuple[str, str], str],
    key: tuple[str, str],
) -> tuple[Int8Output, ...]:
    try:
        found = _answers(Session(file, settings), samples.held_out)
    except RunError as error:
        errors[key] = str(error)
        return ()
    # Names may be others, the order is not.
    pairs = zip(reference, reference.values(), found.values(), strict=True)
    return tuple(Int8Output(name=name, snr_db=snr_db(a, b), agreement=_agreement(a, b)) for name, a, b in pairs)


# -- quantising --------------------------------------------------------------------------------------


class _Reader:
    """What onnxruntime.quantization calls a CalibrationDataReader."""

    def __init__(self, samples: Samples) -> None:
        self._feeds: Iterator[Any] = iter(samples.calibration)

    def get_next(self) -> Any:
        return next(self._feeds, None)


def _quantize(
    source: Path, target: Path, samples: Samples, newer_ir: tuple[int, int] | None, *, per_channel: bool
) -> str:
    """Write the quantised model, of an IR version that the runtime loads; why that failed, or nothing."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    CalibrationDataReader.register(_Reader)
    try:
        with _quiet():
            given: Path | onnx.ModelProto = source
            if newer_ir is not None:
                given = onnx.load(source)
                given.ir_version = newer_ir[1]
            quantize_static(
                given,
                target,
                _Reader(samples),
                quant_format=QuantFormat.QDQ,
                per_channel=per_channel,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
            )
    except _quantizer_errors() as error:
        return f"onnxruntime.quantization: {shortened(error)}"
    return ""


def _quantizer_errors() -> tuple[type[Exception], ...]:
    """What onnxruntime.quantization raises for a model that it cannot quantise: it has no exceptions of its own."""
    return (*runtime_errors(), AssertionError, AttributeError, LookupError, OSError)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the remarks of onnxruntime.quantization, which come through the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)


# -- latency -----------------------------------------------------------------------------------------


def _latencies(
    files: Mapping[tuple[str, str], OnnxFile], settings: Settings, samples: Samples
) -> dict[tuple[str, str], float]:
    """Median milliseconds a batch, all of them in turn, so that a busy machine slows all alike."""
    feed = dict(samples.held_out[0])
    sessions: dict[tuple[str, str], Session] = {}
    times: dict[tuple[str, str], list[float]] = {}
    for key, file in files.items():
        try:
            session = Session(file, settings, level="all", tuned=True)
            session.run(feed)
        except RunError:
            continue
        sessions[key], times[key] = session, []
    for _ in range(_RUNS):
        for key, session in sessions.items():
            started = time.perf_counter()
            session.run(feed)
            times[key].append(time.perf_counter() - started)
    return {key: statistics.median(series) * 1e3 for key, series in times.items()}


# -- single layers -----------------------------------------------------------------------------------


def _losses(
    models: Mapping[str, Path], weights: Mapping[str, Sequence[WeightOf]], settings: Settings, samples: Samples
) -> tuple[LayerLoss, ...]:
    """The layers whose weights cost most when they alone are rounded, worst first, in the order of the first model."""
    by_layer: dict[str, LayerLoss] = {}
    for name, mine in weights.items():
        for weight, value in _alone(models[name], mine, settings, samples):
            loss = by_layer.setdefault(weight.layer, LayerLoss(layer=weight.layer, snr_db={}, spread_bits={}))
            loss.snr_db[name], loss.spread_bits[name] = value, weight.spread
    first = next(iter(weights), "")
    ranked = sorted(by_layer.values(), key=lambda loss: loss.snr_db.get(first, float("inf")))
    return tuple(ranked[:_WORST])


def _alone(
    path: Path, weights: Sequence[WeightOf], settings: Settings, samples: Samples
) -> Iterator[tuple[WeightOf, float]]:
    """The SNR of the worst output with each weight in turn rounded: the weights become inputs for that."""
    import onnx

    model = onnx.load(path)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    held = [weight for weight in weights if weight.tensor in stored]
    named = {value.name for value in model.graph.input}
    for tensor in dict.fromkeys(weight.tensor for weight in held):
        if tensor not in named:
            own = stored[tensor]
            model.graph.input.append(onnx.helper.make_tensor_value_info(tensor, own.data_type, list(own.dims)))
    model.ir_version = max(model.ir_version, 4)
    try:
        with temporary_folder() as folder:
            file = folder / "model.onnx"
            onnx.save(model, file, save_as_external_data=path.stat().st_size > 1 << 30)
            session = Session(OnnxFile(file, str(path)), settings)
        feeds = samples.held_out[:_BATCHES_A_LAYER]
        reference = _answers(session, feeds)
        for weight in held:
            values = onnx.numpy_helper.to_array(stored[weight.tensor], str(path.parent))
            rounded = _rounded(values)
            found = _answers(session, [{**feed, weight.tensor: rounded} for feed in feeds])
            yield weight, min((snr_db(reference[name], found[name]) for name in reference), default=float("inf"))
    except RunError:
        return


def _rounded(values: Array) -> Array:
    """To 255 steps, symmetric about zero, one scale for all."""
    step = float(np.abs(values).max(initial=0.0)) / 127.0
    return values if step == 0.0 else np.asarray(np.rint(values / step) * step, dtype=values.dtype)
