"""Do a model and its folded form compute the same? Asked of onnxruntime alone, its optimisations off."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
from onnx import ModelProto

import bnfold

#: How far outputs may differ, as part of their largest finite value.
TOLERANCE = {"float16": 1e-2, "bfloat16": 5e-2, "float32": 1e-4, "float64": 1e-9}
#: A model whose own outputs stray this much under rounding of its inputs says nothing about folding.
UNSTABLE = 0.1


class Outcome(NamedTuple):
    """``verdict`` is same, changed-nothing, unstable, unrunnable or DIFFERENT; ``steps`` is how much was folded."""

    verdict: str
    steps: int
    detail: str = ""


def session(model: ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def fold_and_compare(model: ModelProto, feeds: Mapping[str, Any]) -> Outcome:
    """Fold a model and run both on ``feeds``. What bnfold itself raises is not caught."""
    result = bnfold.fold(model)
    steps = len(result.plan.steps)
    try:
        before = session(model)
        expected = before.run(None, dict(feeds))
    except Exception as error:  # noqa: BLE001  onnxruntime's own exceptions have no common base
        return Outcome("unrunnable", steps, str(error).splitlines()[0][:200])
    if not steps:
        return Outcome("changed-nothing", 0)
    actual = session(result.model.to_proto()).run(None, dict(feeds))
    worst = max(map(difference, expected, actual), default=0.0)
    if worst <= 1:
        return Outcome("same", steps)
    jittered = before.run(None, {name: _jittered(value) for name, value in feeds.items()})
    own = max(map(difference, expected, jittered), default=0.0)
    return Outcome(
        "unstable" if own > UNSTABLE * worst else "DIFFERENT", steps, f"{worst:.3g} tolerances, own {own:.3g}"
    )


def difference(expected: Any, actual: Any) -> float:
    """How far two outputs differ, in tolerances; infinite where types, shapes or discrete values do."""
    a, b = np.asarray(expected), np.asarray(actual)
    if a.dtype != b.dtype or a.shape != b.shape:
        return float("inf")
    if a.dtype.name not in TOLERANCE:
        return 0.0 if np.array_equal(a, b) else float("inf")
    wide, other = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(wide)
    if not np.array_equal(wide[~finite], other[~finite], equal_nan=True):
        return float("inf")
    reach = np.abs(wide[finite]).max(initial=1e-6)
    return float(np.abs(wide[finite] - other[finite]).max(initial=0.0) / reach / TOLERANCE[a.dtype.name])


def _jittered(value: Any) -> Any:
    """Floats moved by a few units in the last place."""
    array = np.asarray(value)
    if array.dtype.name not in TOLERANCE:
        return value
    signs = np.random.default_rng(0).choice([-1.0, 1.0], array.shape)
    eps = float(np.finfo(array.dtype).eps)
    return np.asarray(array * (1 + 4 * eps * signs), array.dtype)
