"""Results that change in steps: whether one that came out differently lay on an edge."""

from __future__ import annotations

import numpy as np

from bnfold.graph import Array
from bnfold.verification.float64 import Call

#: How near an edge a value must be, as part of the largest one, for either decision to be right.
_EDGE = 1e-9
#: Operators whose result grows with the input in steps.
_STEPS = frozenset({"Round", "Floor", "Ceil", "Sign", "Cast", "CastLike", "QuantizeLinear"})
_COMPARISONS = frozenset({"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"})
DECISIONS = _STEPS | _COMPARISONS | {"ArgMax", "ArgMin", "TopK", "Hardmax", "MaxPool"}


def on_edge(call: Call, slot: int, wanted: Array, found: Array) -> bool:
    """Whether every element in which a decision came out differently lay on the edge of both."""
    if call.op_type not in DECISIONS or wanted.shape != found.shape or not call.inputs:
        return False
    inputs = [np.asarray(value) for value in call.inputs if isinstance(value, np.ndarray)]
    x = inputs[0]
    if x.dtype.kind != "f" or not x.size:
        return False
    reach = _EDGE * float(np.abs(x[np.isfinite(x)]).max(initial=0.0))
    different = wanted != found
    if call.op_type in _COMPARISONS:
        gap = np.abs(x - inputs[1])
        return bool((np.broadcast_to(gap, wanted.shape)[different] <= reach).all())
    if call.op_type in _STEPS:
        return _between_steps(call, wanted, different, reach)
    if call.op_type in ("ArgMax", "ArgMin", "TopK") and wanted.dtype.kind == "i":
        axis = call.attribute("axis", -1 if call.op_type == "TopK" else 0)
        if call.op_type != "TopK" and not call.attribute("keepdims", 1):
            wanted, found = np.expand_dims(wanted, axis), np.expand_dims(found, axis)
        chosen = np.take_along_axis(x, wanted, axis)
        return bool((np.abs(chosen - np.take_along_axis(x, found, axis)) <= reach).all())
    if call.op_type == "MaxPool" and slot == 1:
        flat = np.ravel(x)
        return bool((np.abs(flat[wanted] - flat[found]) <= reach).all())
    return False


def _between_steps(call: Call, wanted: Array, different: Array, reach: float) -> bool:
    from bnfold.verification.float64.tables import OPERATORS

    evaluate = OPERATORS[call.domain, call.op_type]
    moved = []
    for step in (-reach, reach):
        other = Call(
            call.op_type,
            call.domain,
            call.version,
            [call.inputs[0] + step, *call.inputs[1:]],
            call.outputs,
            call.attributes,
        )
        moved.append(np.asarray(evaluate(other)).astype(np.float64)[different])
    want = wanted.astype(np.float64)[different]
    if wanted.dtype.kind == "b":  # not 0: the one step that is none
        return bool((np.abs(call.inputs[0])[different] <= reach).all())
    return bool(((want >= np.minimum(*moved)) & (want <= np.maximum(*moved))).all())
