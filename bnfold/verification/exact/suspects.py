"""A difference that is to be explained by rounding, or is a fault."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from bnfold.graph import Array
from bnfold.verification.exact.slices import Slices, Vector, slices

#: A right plan agrees to so much of a slice's own size: some million times the rounding of float64.
EXACT = 1e-10
#: How many times the effect of perturbing all that is computed is allowed.
_PERTURBED_FACTOR = 4.0
#: How many times the effect of rounding the weights is allowed, measured by doing it.
_ROUNDED_FACTOR = 4.0

#: How a difference is measured in each slice.
_MEASURES = ("rms", "along", "mean")
#: Of so few slices none is the usual one.
_FEW_SLICES = 2
#: How many standard deviations are allowed where the weights of both models were rounded, the median of a normal
#: distribution's absolute values, and how uncertain (over sqrt(n)) a median of n values is.
_DEVIATIONS, _MEDIAN, _UNCERTAIN = 5.7, 0.67, 2.0


@dataclass(frozen=True, slots=True)
class Fault:
    """A tensor that is not what it is in the original. ``amount`` is of its own size in the worst slice."""

    tensor: str
    node: str
    op_type: str
    amount: float
    words: str


@dataclass(slots=True)
class Suspect:
    """A tensor with a difference larger than a right plan has without rounding.

    The lists hold samples of what moves it: more than what float64 rounds (``perturbed``), and the roundings of the
    weights of the second model, of the original, and of the original when it was converted (``rounded_both``).
    """

    node: str
    op_type: str
    reference: Slices
    difference: Array
    perturbed: list[Slices] = field(default_factory=list)
    rounded: list[Slices] = field(default_factory=list)
    rounded_before: list[Slices] = field(default_factory=list)
    rounded_both: list[Slices] = field(default_factory=list)

    def without(self, values: Array, loose: Array) -> Suspect:
        """The same but for the places that are ``loose``; ``values`` are the original's."""
        measured = slices(np.where(loose, 0.0, values), np.where(loose, 0.0, self.difference))
        return replace(self, reference=measured)

    def judged(self, name: str, tolerance: float) -> Fault | None:
        """The fault that it is; None if rounding explains it and a difference of ``tolerance`` of a slice's size."""
        item, unit = self.reference, tolerance
        factor = _PERTURBED_FACTOR * unit / EXACT if unit > EXACT else _PERTURBED_FACTOR
        base = unit * item.size + factor * _pooled(item, self.perturbed, "rms")
        worst, at, kind = 0.0, 0, ""
        for measure in _MEASURES:
            amount = np.abs(getattr(item, measure))
            rounding = _pooled(item, self.rounded, measure) + _pooled(item, self.rounded_before, measure)
            allowed = base + np.maximum(_ROUNDED_FACTOR * rounding, self._converted(measure, amount))
            ratio = np.divide(amount, allowed, out=np.where(amount > 0, np.inf, 0.0), where=allowed > 0)
            if ratio.max() > worst:
                worst, at, kind = float(ratio.max()), int(ratio.argmax()), measure
        if worst <= 1.0:
            return None
        size = float(item.size[at])
        amount = float(abs(getattr(item, kind)[at])) / size if size else np.inf
        words = f"{name} is off by {amount:.1e} of its own size in {item.place(at)}"
        return Fault(name, self.node, self.op_type, amount, words)

    def _converted(self, measure: str, amount: Vector) -> Vector:
        """What is allowed if both models may be conversions of one in float32, whose weights were rounded in each.

        Then all slices along an axis are off by about as many standard deviations of that rounding. One that is off by
        far more than the usual one is not explained by it.
        """
        if not self.rounded_both:
            return np.zeros_like(amount)
        item = self.reference
        # The second model's weights were moved by twice of what rounding does.
        deviation = np.hypot(_pooled(item, self.rounded, measure) / 2.0, _pooled(item, self.rounded_both, measure))
        ratio = np.divide(amount, deviation, out=np.zeros_like(amount), where=deviation > 0)
        share = np.ones_like(amount)
        for axis in np.unique(item.axis):
            here = item.axis == axis
            usual = float(np.median(ratio[here])) / _MEDIAN * (1.0 + _UNCERTAIN / np.sqrt(here.sum()))
            share[here] = min(1.0, usual) if here.sum() > _FEW_SLICES else 1.0
        return np.asarray(_DEVIATIONS * share * deviation, np.float64)


def _pooled(item: Slices, samples: list[Slices], measure: str) -> Vector:
    """The rms of what samples show, and in every slice at least what is usual along its axis.

    The second since few samples of a slice of few elements may by chance all be small.
    """
    if not samples:
        return np.zeros_like(item.size)
    own = np.sqrt(np.mean([np.square(getattr(sample, measure)) for sample in samples], axis=0))
    relative = np.divide(own, item.size, out=np.zeros_like(own), where=item.size > 0)
    for axis in np.unique(item.axis):
        here = item.axis == axis
        moved = relative[here & (relative > 0)]
        if moved.size:
            own[here] = np.maximum(own[here], np.median(moved) * item.size[here])
    return np.asarray(own, np.float64)
