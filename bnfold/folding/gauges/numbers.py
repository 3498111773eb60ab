"""How far a gauge may go before it costs precision or leaves a dtype's range."""

from __future__ import annotations

from typing import Any

import numpy as np

from bnfold.folding.candidates import Candidate
from bnfold.folding.plan import Contradiction
from bnfold.graph import ModelGraph, float_limits
from bnfold.operators import BatchNorm, batchnorm

#: A shifted stream may have so many times the size that it had: it loses as many bits as this has.
MAX_GROWTH = 16.0


def reach_of(dtype: np.dtype[Any]) -> float:
    """How far apart log|a| may be along one stream: a quarter of what the exponents of the dtype hold."""
    limits = float_limits(dtype)
    return float(np.log(limits.largest) - np.log(limits.smallest_normal)) / 4


def out_of_reach(graph: ModelGraph, candidate: Candidate) -> Contradiction | None:
    """Why no gauge should remove an affine, whatever the equations say: it would cost a stream its precision.

    A BN knows its input: mean m and standard deviation d, so a root mean square of ``sqrt(m^2 + d^2)``. Shifted
    by ``t / s = beta d / gamma - m`` the input has the mean ``beta d / gamma`` and the same deviation, so a root
    mean square of ``d sqrt(1 + (beta / gamma)^2)``. The quotient of the two is how much larger the numbers are
    that the stream is rounded at. An affine without statistics says nothing about its input.
    """
    op = candidate.ops[0]
    if not candidate.total.scale.all():
        return _refused(candidate, f"{op.display} ({op.type}) has channels of scale 0")
    numbers = batchnorm(graph, op)
    if not isinstance(numbers, BatchNorm):
        return None
    deviation = np.sqrt(numbers.variance + numbers.epsilon)
    growth = deviation * np.hypot(1.0, numbers.beta / numbers.gamma) / np.hypot(numbers.mean, deviation)
    if (growth <= MAX_GROWTH).all():
        return None
    worst = int(growth.argmax())
    return _refused(
        candidate,
        f"{op.display} ({op.type}) would make channel {worst} of {candidate.input} {growth[worst]:.3g} times as large, "
        f"at the cost of its precision",
    )


def _refused(candidate: Candidate, sentence: str) -> Contradiction:
    label = candidate.ops[0].display
    return Contradiction(sentence=sentence, of="precision", tensor=candidate.input, constraints=(label,))
