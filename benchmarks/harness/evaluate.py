"""Count, compare and time models in onnxruntime; each job is a process of its own.

    python -m harness.evaluate count MODEL
    python -m harness.evaluate difference SIZE MODEL OTHER
    python -m harness.evaluate latency SIZE THREADS SECONDS MODEL…

Prints JSON. A model that onnxruntime rejects ends the process with onnxruntime's message.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from .count import count_file

_WARM_UP = 3
_SEEDS = (0, 1)


def session(path: str, *, optimised: bool, threads: int = 0) -> ort.InferenceSession:
    options = ort.SessionOptions()
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimised else level.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def feeds(of: ort.InferenceSession, size: int, batch: int, seed: int) -> dict[str, np.ndarray]:
    """Normal floats, small integers. An open first dimension is the batch, any other open one ``size``."""
    rng = np.random.default_rng(seed)
    values = {}
    for value in of.get_inputs():
        shape = [dim if isinstance(dim, int) else size if axis else batch for axis, dim in enumerate(value.shape)]
        if "int" in value.type or "bool" in value.type:
            name = value.type[len("tensor(") : -1]
            values[value.name] = rng.integers(0, 2, shape).astype("bool" if name == "bool" else name)
        else:
            dtype = {"tensor(float16)": np.float16, "tensor(double)": np.float64}.get(value.type, np.float32)
            values[value.name] = rng.standard_normal(shape).astype(dtype)
    return values


def difference(expected: Any, actual: Any) -> float:
    """The largest difference of two arrays, relative to the range (largest − smallest) of the first."""
    a, b = np.asarray(expected, np.float64), np.asarray(actual, np.float64)
    if a.shape != b.shape or not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return float("inf")
    finite = np.isfinite(a)
    if not finite.any():
        return 0.0
    reach = float(np.ptp(a[finite])) or float(np.abs(a[finite]).max()) or 1.0
    return float(np.abs(a[finite] - b[finite]).max()) / reach


def count(model: str) -> dict[str, Any]:
    counts = count_file(Path(model))
    return {**asdict(counts), "left": counts.left}


def compare(size: int, model: str, other: str) -> dict[str, Any]:
    """The other model's counts, and the largest difference of any output on any feed, optimisations off."""
    first, second = (session(path, optimised=False) for path in (model, other))
    worst = 0.0
    for seed in _SEEDS:
        values = feeds(first, size, 2, seed)
        outputs = zip(first.run(None, values), second.run(None, values), strict=True)
        worst = max(worst, *(difference(a, b) for a, b in outputs))
    return {**count(other), "difference": worst}


def latency(size: int, threads: int, seconds: float, *models: str) -> list[float]:
    """Median milliseconds of one inference of each model, all optimisations on, in alternating runs."""
    sessions = [session(path, optimised=True, threads=threads) for path in models]
    values = feeds(sessions[0], size, 1, 0)
    for _ in range(_WARM_UP):
        for one in sessions:
            one.run(None, values)
    times: list[list[float]] = [[] for _ in sessions]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 5:
        for one, series in zip(sessions, times, strict=True):
            started = time.perf_counter()
            one.run(None, values)
            series.append(time.perf_counter() - started)
    return [statistics.median(series) * 1e3 for series in times]


def main(job: str, *arguments: str) -> None:
    if job == "count":
        answer: Any = count(*arguments)
    elif job == "difference":
        answer = compare(int(arguments[0]), *arguments[1:])
    else:
        answer = latency(int(arguments[0]), int(arguments[1]), float(arguments[2]), *arguments[3:])
    print(json.dumps(answer))


if __name__ == "__main__":
    main(*sys.argv[1:])
