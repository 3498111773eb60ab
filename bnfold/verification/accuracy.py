"""Is the result as accurate as the original? Both in onnxruntime, each measured against float64.

Where a model decides (a rounding, an argmax) or amplifies rounding, outputs say little about accuracy: one
element on an edge that falls to the other side is an error of a whole step. Then every rewritten part is
measured by itself, on the values of the original's own run, where nothing adds up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bnfold.graph import Array
from bnfold.verification.float64 import Evaluator, NotEvaluatedError
from bnfold.verification.float64.registry import Value
from bnfold.verification.float64.tensors import widened
from bnfold.verification.interface import MismatchError, match_inputs
from bnfold.verification.reference import Answers
from bnfold.verification.sessions import RunError, Session, Settings
from bnfold.verification.slices import slices
from bnfold.verification.source import OnnxFile

#: A result is less accurate if its error is so many times the original's. Folding takes roundings away and
#: adds one of each weight it changes, which weighs about as much as the rounding of a result: sqrt(2) is to
#: be expected where the original's only rounding was one of these, and 4 is 12 dB.
FACTOR = 4.0
#: The errors of n values have an rms that is itself uncertain; few values are allowed more by this over sqrt(n).
_FEW = 16.0
#: The largest relative error of one rounding.
ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
#: Below this a result is flushed to 0 or rounded to few bits by some machines: no error counts.
_TINY = {"float64": 2.0**-1022, "float32": 2.0**-126, "float16": 2.0**-24, "bfloat16": 2.0**-126}
#: Where the original's own rounding is so large a part of the range, outputs verify nothing.
MEANINGLESS = 0.1


@dataclass(frozen=True, slots=True)
class Error:
    """How far both models are from exact at one tensor: largest errors, in its own unit.

    ``factor`` is how many times the original's error the second model's is in the slice where that is most,
    in units of what is allowed there. ``flips`` are discrete values that differ from the float64 evaluation.
    """

    name: str
    original: float = 0.0
    result: float = 0.0
    low: float = np.inf
    high: float = -np.inf
    factor: float = 0.0
    flips: tuple[int, int] = (0, 0)
    words: str = ""

    @property
    def span(self) -> float:
        """The range of the exact values."""
        if self.low > self.high:
            return 0.0
        return self.high - self.low or abs(self.high)

    def joined(self, other: Error) -> Error:
        """Over two feeds."""
        flips = (self.flips[0] + other.flips[0], self.flips[1] + other.flips[1])
        return Error(
            self.name,
            max(self.original, other.original),
            max(self.result, other.result),
            min(self.low, other.low),
            max(self.high, other.high),
            max(self.factor, other.factor),
            flips,
            self.words or other.words,
        )


def error(name: str, truth: Array, mine: Array, theirs: Array) -> Error:
    """Of one tensor, in float64 and in the runtime."""
    if truth.shape != mine.shape or mine.shape != theirs.shape:
        return Error(name)
    if truth.dtype.kind != "f":
        return Error(name, flips=(int(np.count_nonzero(mine != truth)), int(np.count_nonzero(theirs != truth))))
    dtype = mine.dtype.name
    a, b = widened(mine), widened(theirs)
    usable = np.isfinite(truth) & np.isfinite(a)
    if not np.isfinite(b[usable]).all():
        return Error(name, factor=np.inf, words=f"{name} has NaN or infinity where the original has numbers")
    if not usable.any():
        return Error(name)
    with np.errstate(invalid="ignore", over="ignore"):
        own, other = (slices(truth, np.where(usable, values - truth, 0.0)) for values in (a, b))
        largest = [float(np.abs(values[usable] - truth[usable]).max()) for values in (a, b)]
    usual = own.rms[0] / own.size[0] if own.size[0] else 0.0
    floor = np.maximum(max(usual, ROUNDOFF.get(dtype, 0.0)) * own.size, _TINY.get(dtype, 0.0))
    allowed = (FACTOR + _FEW / np.sqrt(own.count)) * np.maximum(own.rms, floor)
    factor, at = other.worst(allowed)
    words = ""
    if factor > 1.0:
        times = float(other.rms[at] / own.rms[at]) if own.rms[at] else np.inf
        words = f"{name} is {times:.2g} times as far from exact as in the original in {own.place(at)}"
    return Error(name, *largest, float(truth[usable].min()), float(truth[usable].max()), factor, (0, 0), words)


# -- one rewritten part at a time ----------------------------------------------------------------


class Neighbourhoods:
    """The original's own run, tensor by tensor, and the second model's operators on its values.

    Raises RunError and NotEvaluatedError where that cannot be had.
    """

    def __init__(self, first: OnnxFile, second: OnnxFile, answers: Answers, settings: Settings) -> None:
        self._first, self._second, self._answers, self._settings = first, second, answers, settings

    def errors(self, feed: int, names: Sequence[str]) -> list[Error]:
        """For the named tensors, which both models compute in their main graphs."""
        values = self._answers.feeds[feed].values
        session = Session(self._first, self._settings, content=self._first.with_outputs(names))
        mine = session.run(values, {name: name for name in names})
        truth = self._truth(values, mine)
        theirs = self._theirs(values, mine)
        return [error(name, truth[name], mine[name], theirs[name]) for name in names if name in theirs]

    def _truth(self, values: Mapping[str, Any], mine: Mapping[str, Array]) -> dict[str, Value]:
        """What each part gives exactly for the values of the run."""
        evaluator = Evaluator(self._first.load(external=False), str(self._first.path.parent))
        trace = evaluator.trace(values)
        found: dict[str, Value] = {}
        carried = None
        while True:
            try:
                call, results = trace.send(carried)
            except StopIteration:
                return found
            found.update((name, value) for name, value in zip(call.outputs, results, strict=False) if name in mine)
            carried = [
                widened(mine[name]) if name in mine else value
                for name, value in zip(call.outputs, results, strict=False)
            ]

    def _theirs(self, values: Mapping[str, Any], mine: Mapping[str, Array]) -> dict[str, Array]:
        content, names = cut(self._second, mine)
        session = Session(self._second, self._settings, content=content)
        known = {spec.name for spec in (*session.inputs(), *session.optional_inputs())}
        wanted = Answers(self._answers.inputs, self._answers.optional, self._answers.declared)
        try:
            matching = match_inputs(wanted, session, set(mine))
        except MismatchError as failure:
            raise NotEvaluatedError(str(failure)) from failure
        fed = {matching.get(name, name): value for name, value in values.items()}
        fed.update((name, value) for name, value in mine.items() if name in known)
        return session.run(fed, names)


def cut(model: OnnxFile, at: Mapping[str, Array]) -> tuple[bytes, dict[str, str]]:
    """The model with every tensor in ``at`` an input where it is read, and an output where it is computed.

    And the names of these outputs by those of the tensors.
    """
    from onnx import helper

    proto = model.load(external=False)
    graph = proto.graph
    computed = {name for node in graph.node for name in node.output} & at.keys()
    names = {name: f"{name}/computed" for name in computed}
    for node in graph.node:
        node.output[:] = [names.get(name, name) for name in node.output]
    del graph.output[:]
    del graph.value_info[:]
    for name in computed:
        kind = helper.np_dtype_to_tensor_dtype(at[name].dtype)
        graph.input.append(helper.make_value_info(name, helper.make_tensor_type_proto(kind, None)))
        graph.output.append(helper.make_value_info(names[name], helper.make_tensor_type_proto(kind, None)))
    return bytes(proto.SerializeToString()), names
