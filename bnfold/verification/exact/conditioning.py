"""Values that hang on the last digit of what they are computed from: 0/0 and its kin.

Normalising a constant channel divides what rounding has left of nothing by itself; so does a Div of two differences
that vanish, and a logarithm or a root of one is anything or NaN. Such values say nothing about a model. They are
found by perturbing all that they are computed from, whatever the operators are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnfold.graph import Array
from bnfold.verification.exact.members import flat, whole
from bnfold.verification.exact.perturbation import Perturbed
from bnfold.verification.float64 import Evaluator, Hook, NotEvaluatedError
from bnfold.verification.float64.registry import Value, is_real
from bnfold.verification.float64.tensors import widened

Mask = NDArray[np.bool_]
#: What evaluates a model with a hook: the values of the tensors in question, by name.
Evaluate = Callable[[Hook | None], Mapping[str, Array]]

#: Rounding that is so large a part of a range leaves nothing to compare.
MEANINGLESS = 0.1
#: So often it is perturbed: what moves freely comes to lie within a tenth of where it was in one of ten, not in all.
#: Where nothing has moved after the first ones nothing will.
_FIRST, _SAMPLES = 2, 8


def undefined(evaluate: Evaluate, eta: float) -> dict[str, Mask]:
    """Where values move by a tenth of their own size, or come and go, when all is moved by a relative ``eta`` at most.

    Empty where the model does not stand it.
    """
    return {name: mask for name, (_, mask) in unstable(evaluate, eta).items()}


def unstable(evaluate: Evaluate, eta: float) -> dict[str, tuple[Array, Mask]]:
    """The same with the values."""
    found: dict[str, tuple[Array, Mask]] = {}
    try:
        still = evaluate(None)
        for seed in range(_SAMPLES):
            if seed == _FIRST and not any(mask.any() for _, mask in found.values()):
                break
            moved = evaluate(Perturbed(eta, seed, whole=True))
            for name in still.keys() & moved.keys():
                value, other = still[name], moved[name]
                if is_real(value) and other.shape == value.shape:
                    before = found[name][1] if name in found else np.zeros(value.shape, bool)
                    found[name] = value, before | _off(value, other)
    except NotEvaluatedError:
        return {}
    return found


def evaluated(model: Evaluator, feed: Mapping[str, Any], names: Collection[str], hook: Hook | None) -> dict[str, Array]:
    """The named tensors, or members of sequences, with what is fed under the hook as well. Raises NotEvaluatedError."""
    wanted = {whole(name) for name in names}
    found: dict[str, Value] = {}
    trace = model.trace(moved_feed(feed, hook), hook)
    while True:
        try:
            call, results = next(trace)
        except StopIteration as end:
            found.update(end.value)
            return {name: value for name, value in flat(found).items() if name in names}
        found.update((name, value) for name, value in zip(call.outputs, results, strict=False) if name in wanted)


def moved_feed(feed: Mapping[str, Any], hook: Hook | None) -> Mapping[str, Any]:
    """What is fed, treated by the hook as constants are."""
    if hook is None:
        return feed
    fed = {name: widened(value) for name, value in feed.items()}
    return {name: hook.constant(name, value) if is_real(value) else value for name, value in fed.items()}


def _off(still: Array, moved: Array) -> Mask:
    finite = np.isfinite(still) & np.isfinite(moved)
    same = (still == moved) | (np.isnan(still) & np.isnan(moved))
    with np.errstate(invalid="ignore", over="ignore"):
        far = np.abs(moved - still) > MEANINGLESS * np.abs(still)
    return np.asarray(np.where(finite, far, ~same))
