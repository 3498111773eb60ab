"""What a BN's parameters say about its channels: the numbers behind the rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnfold.affine import Affine, Vector
from bnfold.operators import BatchNorm
from bnfold.operators.patterns import NEGLIGIBLE, spread_bits

Mask = NDArray[np.bool_]

#: A variance below this part of epsilon leaves the scale to epsilon.
COLLAPSED_PART = 0.1


def is_untrained(bn: BatchNorm) -> bool:
    """Mean 0, variance 1, gamma 1 and beta 0 throughout, as every framework initialises them."""
    return bool((bn.mean == 0).all() and (bn.variance == 1).all() and (bn.gamma == 1).all() and (bn.beta == 0).all())


def faults(bn: BatchNorm) -> list[str]:
    """What is wrong with the parameters: ``2 negative variances``, ``1 NaN in beta``."""
    found = []
    for name in ("gamma", "beta", "mean", "variance"):
        values = getattr(bn, name)
        nans, infinities = int(np.isnan(values).sum()), int(np.isinf(values).sum())
        if nans:
            found.append(f"{nans} NaN in its {name}")
        if infinities:
            found.append(f"{infinities} infinite {'value' if infinities == 1 else 'values'} in its {name}")
    negative = int((bn.variance < 0).sum())
    if negative:
        found.append(f"{negative} negative {'variance' if negative == 1 else 'variances'}")
    return found


def dead_channels(affine: Affine) -> Mask:
    """Channels whose scale is 0, or negligible beside the layer's largest: they put out a constant."""
    size = np.abs(affine.scale)
    with np.errstate(invalid="ignore"):
        return np.asarray(size <= NEGLIGIBLE * size.max(initial=0.0))


def collapsed_channels(bn: BatchNorm) -> Mask:
    """Channels whose variance is so far below epsilon that epsilon decides the scale; dead ones do not count."""
    small = (bn.variance >= 0) & (bn.variance < COLLAPSED_PART * bn.epsilon)
    return np.asarray(small & ~dead_channels(bn.affine))


def describe(affine: Affine | None, bn: BatchNorm | None, ranges: Vector | None) -> Mapping[str, Any]:
    """``--stats``: smallest, median and largest |scale| and variance, dead channels, spread of the folded weights.

    ``ranges`` are the largest absolute weights, by output channel, of the layer that the BN folds
    into; the spread is in bits, before and after folding. What is not known is None.
    """
    data: dict[str, Any] = {"scale": None, "variance": None, "dead_channels": None, "weight_spread_bits": None}
    if affine is not None:
        data["scale"] = _spread(np.abs(affine.scale))
        data["dead_channels"] = int(dead_channels(affine).sum())
    if bn is not None:
        data["variance"] = _spread(bn.variance)
        data["epsilon"] = bn.epsilon
    if ranges is not None and affine is not None and affine.size in (1, ranges.size):
        folded = ranges * np.abs(affine.scale)
        data["weight_spread_bits"] = {"before": round(spread_bits(ranges), 2), "after": round(spread_bits(folded), 2)}
    return data


def _spread(values: Vector) -> dict[str, float | None]:
    """JSON has no NaN and no infinity: None stands for both."""
    found = {"min": values.min(), "median": np.median(values), "max": values.max()}
    return {name: float(value) if np.isfinite(value) else None for name, value in found.items()}
