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
    weights of the second model and of the original.
    """

    node: str
    op_type: str
    reference: Slices
    difference: Array
    perturbed: list[Slices] = field(default_factory=list)
    rounded: list[Slices] = field(default_factory=list)
    rounded_before: list[Slices] = field(default_factory=list)

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
        for measure in ("rms", "along", "mean"):
            rounding = _pooled(item, self.rounded, measure) + _pooled(item, self.rounded_before, measure)
            allowed = base + _ROUNDED_FACTOR * rounding
            amount = np.abs(getattr(item, measure))
            ratio = np.divide(amount, allowed, out=np.where(amount > 0, np.inf, 0.0), where=allowed > 0)
            if ratio.max() > worst:
                worst, at, kind = float(ratio.max()), int(ratio.argmax()), measure
        if worst <= 1.0:
            return None
        size = float(item.size[at])
        amount = float(abs(getattr(item, kind)[at])) / size if size else np.inf
        words = f"{name} is off by {amount:.1e} of its own size in {item.place(at)}"
        return Fault(name, self.node, self.op_type, amount, words)


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
