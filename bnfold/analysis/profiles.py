"""Every BN channel by channel, for plots: how scales and variances are distributed, and the weights they fold into."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bnfold.affine import Vector
from bnfold.analysis.context import Context, contexts_of
from bnfold.analysis.sites import Site
from bnfold.analysis.statistics import collapsed_channels, dead_channels
from bnfold.folding.pair import Pair

#: The bins of a distribution: a third of a power of ten each, from 1e-8 to 1e4; what is outside is in the last ones.
LOWEST, HIGHEST, PER_DECADE = -8, 4, 3
#: Sorted per-channel weight ranges are thinned out to so many.
_POINTS = 64


@dataclass(frozen=True, slots=True)
class Profile:
    """One BN. Distributions are counts of channels by bin; values that are 0 or no numbers are counted apart.

    ``ranges`` are the largest absolute weights by channel of the layer it folds into, in bits below the largest
    channel, sorted, before and after folding; empty where it does not fold straight into one.
    """

    scale: tuple[int, ...]
    variance: tuple[int, ...]
    channels: int
    negative_scales: int = 0
    dead: int = 0
    collapsed: int = 0
    epsilon: float | None = None
    ranges: tuple[tuple[float, ...], tuple[float, ...]] = ((), ())


def profiles(pair: Pair) -> Mapping[str, Profile]:
    """The profile of every BN whose numbers are known, by its key in the plan."""
    return {
        context.key(site.op): found
        for context in contexts_of(pair.before, pair.plan)
        for site in context.sites
        if (found := _profile(context, site)) is not None
    }


def _profile(context: Context, site: Site) -> Profile | None:
    affine, bn = site.affine, site.statistics
    if affine is None:
        return None
    linear = context.linear_before(site)
    ranges = context.weight_ranges(linear) if linear is not None else None
    if ranges is not None and affine.size not in (1, ranges.size):
        ranges = None
    return Profile(
        scale=_bins(np.abs(affine.scale)),
        variance=_bins(bn.variance) if bn is not None else (),
        channels=affine.size,
        negative_scales=int((affine.scale < 0).sum()),
        dead=int(dead_channels(affine).sum()),
        collapsed=int(collapsed_channels(bn).sum()) if bn is not None else 0,
        epsilon=bn.epsilon if bn is not None else None,
        ranges=((), ()) if ranges is None else (_bits(ranges), _bits(ranges * np.abs(affine.scale))),
    )


def _bins(values: Vector) -> tuple[int, ...]:
    good = values[np.isfinite(values) & (values > 0)]
    count = (HIGHEST - LOWEST) * PER_DECADE
    places = np.floor((np.log10(good) - LOWEST) * PER_DECADE).astype(int).clip(0, count - 1)
    return tuple(int(number) for number in np.bincount(places, minlength=count))


def _bits(values: Vector) -> tuple[float, ...]:
    good = np.sort(values[np.isfinite(values) & (values > 0)])[::-1]
    if not good.size:
        return ()
    places = np.unique(np.linspace(0, good.size - 1, min(_POINTS, good.size)).round().astype(int))
    return tuple(round(float(number), 2) for number in np.log2(good[places] / good[0]))
