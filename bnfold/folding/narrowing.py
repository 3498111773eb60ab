"""May an affine move into a narrower floating-point type, past a Cast? Its numbers are rounded there, and must fit.

Let z be the tensor that an affine y = s z + t reads, and N the narrower type on the other side of the Cast. Moved
backward, y is rounded to N where z was: its error is |y| eps where that of the original is |s z| eps. Moved forward, z
is rounded where y was. Either costs precision if the number that is rounded now is the larger one, and it may be too
large or too small for N.

Nothing is lost where y goes on into N anyway (moved backward: a BN that is computed in float32 between two Casts), or
where z came out of it (moved forward). Elsewhere a BN knows mean and standard deviation of z. Without these no shift
moves, and a scale by some of the bits of N's exponent: the eighth root of its largest number upward, the square root
of its smallest one downward.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from bnfold.affine import Affine
from bnfold.folding.candidates import Candidate
from bnfold.folding.moves import Move
from bnfold.graph import Limits, ModelGraph, float_limits, is_float
from bnfold.operators import BatchNorm, Node, batchnorm, facts_of
from bnfold.refusal import Refusal

#: A number that is rounded now may be so many times as large as the one before: two bits.
MAX_GROWTH = 4.0
#: So many standard deviations no input is off.
_FAR = 64.0
#: How many operators are looked at on the way to the next Cast.
_STEPS = 8
_TWICE = Affine.of(2.0, 0.0, None)


def narrowing_fault(
    graph: ModelGraph, candidate: Candidate, affine: Affine, move: Move, *, ahead: bool
) -> Refusal | None:
    """Why ``affine``, of ``candidate`` or a part of it, must not move so: what it costs in a narrower type."""
    narrow = narrowest(graph, (candidate.output, *move.changed))
    if narrow is None or narrow == graph.tensor(candidate.output).dtype:
        return None
    limits, tensor = float_limits(narrow), candidate.input if ahead else candidate.output
    if (_came_from if ahead else _goes_into)(graph, tensor, limits):
        return None
    measured = _fits_measured(graph, candidate, limits, ahead=ahead) if affine is candidate.total else None
    if measured or (measured is None and affine.is_scale and _fits_scaled(affine, limits, ahead=ahead)):
        return None
    sentence = f"{tensor} would be rounded to {narrow.name}, at the cost of its precision"
    return Refusal("narrow-float", sentence, _narrowing(graph, (*move.through, *move.targets), narrow))


def _narrowing(graph: ModelGraph, names: Iterable[str], narrow: np.dtype[Any]) -> str:
    """The operator, of some on a way, between that type and another floating-point one; empty where there is none."""
    for name in names:
        op = graph.op(name)
        dtypes = {graph.tensor(tensor).dtype for tensor in (*op.inputs, *op.outputs) if tensor}
        if narrow in dtypes and any(dtype is not None and is_float(dtype) for dtype in dtypes - {narrow}):
            return name
    return ""


def narrowest(graph: ModelGraph, tensors: Iterable[str]) -> np.dtype[Any] | None:
    """The floating-point type with the fewest bits among those of some tensors, if they have more than one."""
    dtypes = [graph.tensor(tensor).dtype for tensor in tensors]
    if all(dtype is dtypes[0] for dtype in dtypes):  # the rule
        return None
    found = set(dtypes) - {None}
    if len(found) < 2:
        return None
    floats = [dtype for dtype in found if dtype is not None and is_float(dtype)]
    return max(floats, key=lambda dtype: float_limits(dtype).eps, default=None)


def keeps_precision(graph: ModelGraph, candidate: Candidate, narrow: np.dtype[Any]) -> bool:
    """May what a candidate reads become what it makes, or the reverse, in tensors of that type among others?"""
    limits, total = float_limits(narrow), candidate.total
    if total.is_scale and all(_fits_scaled(total, limits, ahead=ahead) for ahead in (False, True)):
        return True
    back = _goes_into(graph, candidate.output, limits) or _fits_measured(graph, candidate, limits, ahead=False)
    return bool(
        back and (_came_from(graph, candidate.input, limits) or _fits_measured(graph, candidate, limits, ahead=True))
    )


def _fits_measured(graph: ModelGraph, candidate: Candidate, limits: Limits, *, ahead: bool) -> bool | None:
    """By the statistics of a BN, which reads z first; None where there are none."""
    numbers, total = batchnorm(graph, candidate.ops[0]), candidate.total
    if not isinstance(numbers, BatchNorm) or total.grid or total.size not in (1, numbers.channels):
        return None
    mean, deviation = numbers.mean, np.sqrt(numbers.variance + numbers.epsilon)
    middle, spread = total.scale * mean + total.shift, np.abs(total.scale) * deviation
    scaled, shifted = numbers.sizes(total)
    now, then = (scaled, shifted) if ahead else (shifted, scaled)
    far = np.abs(mean) + _FAR * deviation if ahead else np.abs(middle) + _FAR * spread
    return bool((now <= MAX_GROWTH * then).all() and (far <= limits.largest).all())


def _fits_scaled(affine: Affine, limits: Limits, *, ahead: bool) -> bool:
    sizes = np.abs(affine.scale[affine.scale != 0])
    growth = np.log2(1.0 / sizes if ahead else sizes)
    up, down = np.rint(np.log2(limits.largest)) / 8, np.log2(limits.smallest_normal) / 2
    return bool((growth <= up).all() and (growth >= down).all())


def _is_narrow(graph: ModelGraph, tensor: str, limits: Limits) -> bool:
    """Has the type of a tensor no more bits and no larger range?"""
    dtype = graph.tensor(tensor).dtype
    if dtype is None or not is_float(dtype):
        return False
    own = float_limits(dtype)
    return own.eps >= limits.eps and own.largest <= limits.largest


def _goes_into(graph: ModelGraph, tensor: str, limits: Limits) -> bool:
    """Is all that becomes of a tensor rounded to such a type, and only scaled or rectified before?"""
    waiting = [tensor]
    for _ in range(_STEPS):
        if not waiting:
            return True
        tensor = waiting.pop()
        if _is_narrow(graph, tensor, limits):
            continue
        if graph.is_output(tensor) or graph.captured(tensor) is not None:
            return False
        for use in graph.consumers(tensor):
            op = graph.op(use.op)
            if use.slot is None or isinstance(facts_of(op).sink(Node(graph, op), {use.slot: _TWICE}), Refusal):
                return False
            waiting += op.outputs
    return not waiting


def _came_from(graph: ModelGraph, tensor: str, limits: Limits) -> bool:
    """Was a tensor rounded to such a type, and only scaled or rectified since?"""
    for _ in range(_STEPS):
        if _is_narrow(graph, tensor, limits):
            return True
        op = graph.producer(tensor)
        if op is None or op.outputs[0] != tensor:
            return False
        node, facts = Node(graph, op), facts_of(op)
        if isinstance(facts.lift(node, {0: _TWICE}), Refusal) or _joins(graph, op.inputs):
            return False
        tensor = op.input(facts.data_slot(node))
    return False


def _joins(graph: ModelGraph, inputs: tuple[str, ...]) -> bool:
    return sum(1 for tensor in inputs if tensor and graph.constant(tensor) is None) > 1
