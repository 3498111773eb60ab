"""Samples of a model's inputs: one part to calibrate on, the other to measure with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from bnfold.errors import UsageError
from bnfold.graph import Array
from bnfold.verification.runtime.sessions import ValueSpec

#: More samples than these teach calibration and measurement nothing.
_MOST = 1024
#: Samples a run, unless the model has a batch size of its own.
_BATCH = 32

Feeds = list[dict[str, Array]]


@dataclass(frozen=True, slots=True)
class Samples:
    """Feeds of one batch each; every second sample of the data is held out."""

    calibration: Feeds
    held_out: Feeds
    batch: int

    @property
    def counts(self) -> tuple[int, int]:
        """How many samples there are of each."""
        first, second = (
            sum(len(next(iter(feed.values()))) for feed in feeds) for feeds in (self.calibration, self.held_out)
        )
        return first, second


def read_samples(path: str | PathLike[str], inputs: Sequence[ValueSpec]) -> Samples:
    """The samples in a ``.npz`` (by input name; other arrays are left alone) or ``.npy`` (for the only input).

    The first axis of every array counts samples. Raises UsageError where they do not fit the model.
    """
    arrays = _arrays(Path(path), inputs)
    counts = {len(array) for array in arrays.values()}
    if len(counts) != 1:
        raise UsageError(f"{path} has different numbers of samples for the inputs of the model")
    (count,) = counts
    batch = _batch(inputs)
    chosen = np.arange(min(count, 2 * _MOST))
    parts = [_batches({name: array[chosen[start::2]] for name, array in arrays.items()}, batch) for start in (0, 1)]
    if not all(parts):
        there = "1 sample" if count == 1 else f"{count} samples"
        raise UsageError(f"{path} has {there}; {2 * (batch or 1)} are needed to calibrate and to measure")
    calibration, held_out = parts
    return Samples(calibration, held_out, len(next(iter(held_out[0].values()))))


def _arrays(path: Path, inputs: Sequence[ValueSpec]) -> dict[str, Array]:
    try:
        loaded = np.load(path, allow_pickle=False)
        found = dict(loaded) if hasattr(loaded, "files") else {inputs[0].name: loaded}
    except (OSError, ValueError, EOFError, BadZipFile, IndexError) as error:
        raise UsageError(f"{path} cannot be read as a .npz or .npy file of plain arrays") from error
    if len(inputs) == 1 and len(found) == 1:
        found = {inputs[0].name: next(iter(found.values()))}
    missing = [spec.name for spec in inputs if spec.name not in found]
    if missing:
        raise UsageError(f"{path} has no samples for the input {missing[0]!r}; it has {', '.join(found) or 'nothing'}")
    return {spec.name: _fitted(found[spec.name], spec, path) for spec in inputs}


def _fitted(array: Array, spec: ValueSpec, path: Path) -> Array:
    shape = spec.shape
    if spec.kind != "tensor" or spec.dtype is None or shape is None or not shape:
        raise UsageError(f"the input {spec.name} ({spec.type}) is no tensor with an axis that counts samples")
    fits = array.ndim == len(shape) and all(
        not isinstance(size, int) or size == own for size, own in zip(shape[1:], array.shape[1:], strict=True)
    )
    if not fits or array.dtype.kind not in "fiub":
        raise UsageError(f"{path}: {spec.name} is {array.dtype} {list(array.shape)}, the model takes {list(shape)}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UsageError(f"{path}: {spec.name} holds values that are NaN or infinite")
    return array.astype(spec.dtype, copy=False)


def _batch(inputs: Sequence[ValueSpec]) -> int | None:
    """The batch size that the model insists on, None for any."""
    sizes = {spec.shape[0] for spec in inputs if spec.shape and isinstance(spec.shape[0], int)}
    if len(sizes) > 1:
        raise UsageError("the model's inputs have different batch sizes, so its samples cannot be told")
    return int(next(iter(sizes))) if sizes else None


def _batches(arrays: dict[str, Array], batch: int | None) -> Feeds:
    count = len(next(iter(arrays.values())))
    step = _BATCH if batch is None else batch
    feeds = [
        {name: np.ascontiguousarray(array[start : start + step]) for name, array in arrays.items()}
        for start in range(0, count, max(step, 1))
    ]
    return [feed for feed in feeds if batch is None or len(next(iter(feed.values()))) == batch]
