"""Feeds whose indices go through the whole of the tables that they index."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bnfold.verification.feeds.hints import Tracer
from bnfold.verification.runtime.onnx_file import OnnxFile
from bnfold.verification.runtime.sessions import ValueSpec


def all_rows(model: OnnxFile, inputs: Sequence[ValueSpec], values: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Feeds like the one with these ``values`` that read every row together, one after the other."""
    tracer = Tracer(model.skeleton)
    bounds: dict[str, int] = {}
    for spec in inputs:
        indexes = (
            spec.kind == "tensor" and spec.dtype is not None and spec.dtype.kind in "iu" and values[spec.name].size
        )
        hint = tracer.hint(spec.name) if indexes else None
        if hint is not None and hint.role == "index" and hint.bound:
            bounds[spec.name] = hint.bound
    for step in range(max((-(-bound // values[name].size) for name, bound in bounds.items()), default=0)):
        rows = {name: np.arange(values[name].size) + step * values[name].size for name in bounds}
        shaped = {name: (item % bounds[name]).reshape(values[name].shape) for name, item in rows.items()}
        yield {**values, **{name: item.astype(values[name].dtype) for name, item in shaped.items()}}
