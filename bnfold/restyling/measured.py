"""Statistics that were measured change the numbers of a BN and not what it computes: the proof, number by number."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from bnfold.formats import load
from bnfold.graph import Model, ModelGraph, Op
from bnfold.operators import batchnorm
from bnfold.operators.batchnorm import BatchNorm
from bnfold.temporary import temporary_folder


@dataclass(frozen=True, slots=True)
class Rounding:
    """How far the BN with measured statistics are from the same without, in roundings, and how far they may be."""

    roundings: float
    #: Half a rounding for each of the four numbers of a BN.
    allowed: float = 2.0

    @property
    def equivalent(self) -> bool:
        return self.roundings <= self.allowed

    def sentence(self) -> str:
        """``with the measured statistics the new BN compute the same, to 0.5 roundings``."""
        if self.equivalent:
            return f"with the measured statistics the new BN compute the same, to {self.roundings:.1f} roundings"
        return (
            f"not equivalent: the measured statistics change the new BN by {self.roundings:.3g} roundings, "
            f"{self.allowed:g} are allowed"
        )

    def to_dict(self) -> dict[str, object]:
        """Plain data for JSON."""
        finite = self.roundings if math.isfinite(self.roundings) else None
        return {
            "equivalent": self.equivalent,
            "roundings": finite,
            "allowed": self.allowed,
            "sentence": self.sentence(),
        }


def rounding_of(unmeasured: Model, written: Path, norms: Collection[str]) -> Rounding:
    """What the measured statistics of a written file change; everything else in it has to be as in ``unmeasured``."""
    with temporary_folder() as folder:
        path = folder / "unmeasured.keras"
        unmeasured.save(path)
        wanted, found = (load(file, allow_unsafe=True).graph for file in (path, written))
        return Rounding(roundings_apart(wanted, found, norms))


def roundings_apart(wanted: ModelGraph, written: ModelGraph, norms: Collection[str]) -> float:
    """How far the BN ``norms`` of ``written`` are from those of ``wanted``, in roundings of what their numbers are.

    Scales and shifts are computed in float64 from the numbers as they are stored. One rounding is a machine epsilon: of
    the scale, or of the larger of beta and mean · scale, whose difference the shift is. Infinite where anything else
    in the two graphs differs.
    """
    ours, theirs = wanted.ops(), written.ops()
    if [(op.name, op.type) for op in ours] != [(op.name, op.type) for op in theirs]:
        return np.inf
    apart = 0.0
    for first, second in zip(ours, theirs, strict=True):
        if first.name in norms:
            apart = max(apart, _between(batchnorm(wanted, first), batchnorm(written, second)))
        elif not _equal(_constants(wanted, first), _constants(written, second)):
            return np.inf
    return apart


def _between(wanted: Any, written: Any) -> float:
    if not (isinstance(wanted, BatchNorm) and isinstance(written, BatchNorm)) or wanted.axis != written.axis:
        return np.inf
    step = float(ml_dtypes.finfo(written.dtype).eps)  # type: ignore[no-untyped-call]
    ours, theirs = wanted.affine, written.affine
    scales = np.abs(theirs.scale - ours.scale) / np.abs(ours.scale)
    terms = np.maximum(np.abs(written.beta), np.abs(written.mean * theirs.scale))
    shifts = np.abs(theirs.shift - ours.shift)
    relative = np.divide(shifts, terms, out=np.where(shifts > 0, np.inf, 0.0), where=terms > 0)
    return float(max(scales.max(), relative.max())) / step


def _constants(graph: ModelGraph, op: Op) -> list[Any]:
    found = [graph.params[name].array() if name in graph.params else None for name in op.inputs]
    while found and found[-1] is None:
        found.pop()
    return found


def _equal(ours: list[Any], theirs: list[Any]) -> bool:
    return len(ours) == len(theirs) and all(
        (a is None) == (b is None) and (a is None or np.array_equal(a, b)) for a, b in zip(ours, theirs, strict=True)
    )
