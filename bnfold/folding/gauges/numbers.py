"""How far a gauge may go before it costs precision or leaves a dtype's range."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnfold.affine import Vector
from bnfold.folding.candidates import Candidate
from bnfold.folding.plan import Contradiction
from bnfold.graph import ModelGraph, float_limits
from bnfold.operators import BatchNorm, batchnorm

Mask = NDArray[np.bool_]

#: So many standard deviations no input is off.
FAR = 1024.0
#: A shifted stream may have so many times the size that it had: it loses as many bits as this has.
MAX_GROWTH = 16.0


def reach_of(dtype: np.dtype[Any]) -> float:
    """How far apart log|a| may be along one stream: a quarter of what the exponents of the dtype hold."""
    limits = float_limits(dtype)
    return float(np.log(limits.largest) - np.log(limits.smallest_normal)) / 4


def constant_channels(candidate: Candidate, numbers: BatchNorm | None, dtype: np.dtype[Any]) -> tuple[Mask, Vector]:
    """Which channels hold one number, whatever comes in, and the number.

    Those of scale 0, and those of a BN whose gamma is so small that no input within :data:`FAR` standard deviations
    moves what comes out by more than one unit in the last place of beta.
    """
    total = candidate.total
    dead, values = total.scale == 0.0, total.shift
    if numbers is not None:
        constant = FAR * np.abs(numbers.gamma) <= float_limits(dtype).eps * np.abs(numbers.beta)
        values = np.where(constant, numbers.beta, values)
        dead = dead | constant
    return dead, values


def statistics(graph: ModelGraph, candidate: Candidate) -> BatchNorm | None:
    """Those of a BN that stands alone."""
    numbers = batchnorm(graph, candidate.ops[0]) if len(candidate.ops) == 1 else None
    return numbers if isinstance(numbers, BatchNorm) and numbers.channels == candidate.total.size else None


def out_of_reach(candidate: Candidate, numbers: BatchNorm | None, live: Mask) -> Contradiction | None:
    """Why no gauge should remove an affine, whatever the equations say: it would cost a stream its precision.

    A BN knows the size of its input, and of that shifted by ``t / s``, which is what the stream would be rounded at
    (:meth:`bnfold.operators.BatchNorm.sizes`). An affine without statistics says nothing about its input. Only
    channels that are ``live`` count.
    """
    if numbers is None or not live.any():
        return None
    scaled, shifted = numbers.sizes(candidate.total)
    growth = np.zeros(live.size)
    growth[live] = shifted[live] / scaled[live]
    if (growth <= MAX_GROWTH).all():
        return None
    op, worst = candidate.ops[0], int(growth.argmax())
    return Contradiction(
        sentence=f"{op.display} ({op.type}) would make channel {worst} of {candidate.input} {growth[worst]:.3g} times "
        f"as large, at the cost of its precision",
        of="precision",
        tensor=candidate.input,
        constraints=(op.display,),
    )
