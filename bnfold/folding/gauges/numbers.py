"""How far a gauge may go before it costs precision or leaves a dtype's range."""

from __future__ import annotations

from typing import Any

import numpy as np

from bnfold.folding.candidates import Candidate
from bnfold.graph import ModelGraph, float_limits
from bnfold.operators import BatchNorm, batchnorm


#: A shifted stream may have so many times the size that it had: it loses as many bits as this has.
MAX_GROWTH = 16.0


def reach_of(dtype: np.dtype[Any]) -> float:
    """How far apart log|a| may be along one stream: a quarter of what the exponents of the dtype hold."""
    limits = float_limits(dtype)
    return float(np.log(limits.largest) - np.log(limits.smallest_normal)) / 4


def may_go(graph: ModelGraph, candidate: Candidate) -> bool:
    """Would no channel's shift cost the stream its precision, and has every channel a scale?

    A BN knows its input: mean m and standard deviation d, so a root mean square of ``sqrt(m^2 + d^2)``. Shifted
    by ``t / s`` it is ``gamma``-normalised to ``d sqrt(1 + (beta / gamma)^2)``. Their ratio is how much larger
    the numbers are that the stream is rounded at. An affine without statistics says nothing about its input.
    """
    numbers = batchnorm(graph, candidate.ops[0])
    if not candidate.total.scale.all():
        return False
    if not isinstance(numbers, BatchNorm):
        return True
    live = numbers.gamma != 0
    mean, variance = numbers.mean[live], numbers.variance[live] + numbers.epsilon
    before = np.sqrt(mean**2 + variance)
    behind = np.sqrt(variance * (1.0 + (numbers.beta[live] / numbers.gamma[live]) ** 2))
    return bool((behind <= MAX_GROWTH * before).all())
