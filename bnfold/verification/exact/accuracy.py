"""Is the result as accurate as the original? Both in onnxruntime, each measured against float64.

Where a model decides (a rounding, an argmax) or amplifies rounding, outputs say little about accuracy: one
element on an edge that falls to the other side is an error of a whole step. Then every rewritten part is
measured by itself, on the values of the original's own run, where nothing adds up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from bnfold.graph import Array
from bnfold.verification.exact.conditioning import Mask, moved_feed, undefined
from bnfold.verification.exact.perturbation import Perturbed
from bnfold.verification.exact.slices import Slices, slices
from bnfold.verification.float64 import Call, Evaluator, Hook, NotEvaluatedError
from bnfold.verification.float64.registry import Value, is_real
from bnfold.verification.float64.tensors import REALS, widened
from bnfold.verification.precision import ROUNDOFF, TINY
from bnfold.verification.runtime.onnx_file import OnnxFile
from bnfold.verification.runtime.sessions import Session, Settings

#: A result is less accurate if its error is so many times the original's. Folding takes roundings away and
#: adds one of each weight it changes, which weighs about as much as the rounding of a result: sqrt(2) is to
#: be expected where the original's only rounding was one of these, and 4 is 12 dB.
FACTOR = 4.0
#: The errors of n values have an rms that is itself uncertain; few values are allowed more by this over sqrt(n).
_FEW = 16.0
#: Slices of fewer values are not looked at by themselves.
_MANY = 64
#: An error of so many roundings of the result's own size, four bits, is never held against it: an original may be
#: exact by chance, and folding may let a stream grow so much when a shift moves through it.
_LOSABLE_ROUNDINGS = 16.0
#: How often all that a part is computed from is rounded once more, to see what that may do.
_SAMPLES = 3


@dataclass(frozen=True, slots=True)
class Error:
    """How far both models are from exact at one tensor: largest errors, in its own unit.

    ``factor`` is how many times the original's error the second model's is in the slice where that is most,
    in units of what is allowed there. ``flips`` are discrete values that differ from the float64 evaluation,
    ``undefined`` values that were not compared, since they hang on the last digit.
    """

    name: str
    original: float = 0.0
    result: float = 0.0
    low: float = np.inf
    high: float = -np.inf
    factor: float = 0.0
    flips: tuple[int, int] = (0, 0)
    words: str = ""
    undefined: int = 0

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
            self.undefined + other.undefined,
        )


def error(
    name: str,
    truth: Array,
    mine: Array,
    theirs: Array,
    likewise: Sequence[Array] = (),
    usual_size: float = 0.0,
    hanging: Mask | None = None,
) -> Error:
    """Of one tensor, in float64 and in the runtime.

    ``likewise`` is what the original might as well give, rounded to its types in another way: a runtime may leave
    roundings out, and what it happens to leave out in the original the result need not match. ``usual_size``
    is the rms of the tensor on the feed where that is largest: on zeros an original may be exact by chance.
    ``hanging`` are values that hang on the last digit (:func:`undefined`), which are not compared.
    """
    if truth.shape != mine.shape or mine.shape != theirs.shape:
        return Error(name)
    if truth.dtype.kind != "f":
        return Error(name, flips=(int(np.count_nonzero(mine != truth)), int(np.count_nonzero(theirs != truth))))
    dtype = mine.dtype.name
    a, b = widened(mine), widened(theirs)
    usable = np.isfinite(truth) & np.isfinite(a)
    count = 0
    if hanging is not None:
        usable, count = usable & ~hanging, int(np.count_nonzero(hanging))
    if not np.isfinite(b[usable]).all():
        return Error(name, factor=np.inf, words=f"{name} has NaN or infinity where the original has numbers")
    if not usable.any():
        return Error(name, undefined=count)
    with np.errstate(invalid="ignore", over="ignore"):
        own, other = (slices(truth, np.where(usable, values - truth, 0.0)) for values in (a, b))
        squares = slices(truth, np.square(np.where(usable, b - truth, 0.0)))
        first, second = (float(np.abs(values[usable] - truth[usable]).max()) for values in (a, b))
        least = own.rms
        for values in likewise:
            off = np.where(usable & np.isfinite(values), values - truth, 0.0)
            least = np.maximum(least, slices(truth, off).rms)
    usual = least[0] / own.size[0] if own.size[0] else 0.0
    size = own.size * max(1.0, usual_size / own.size[0]) if own.size[0] else np.full_like(own.size, usual_size)
    as_good_as_exact = np.maximum(_LOSABLE_ROUNDINGS * ROUNDOFF.get(dtype, 0.0) * size, TINY.get(dtype, 0.0))
    few = _FEW / np.sqrt(_independent(other, squares))
    allowed = (FACTOR + few) * np.maximum(least, usual * own.size)
    allowed = np.maximum(allowed, as_good_as_exact)
    # A slice of few values may be small by chance, and its rounding is then not.
    factor, at = other.worst(np.where((own.axis < 0) | (own.count >= _MANY), allowed, np.inf))
    words = ""
    if factor > 1.0:
        times = float(other.rms[at] / least[at]) if least[at] else np.inf
        words = f"{name} is {times:.2g} times as far from exact as in the original in {own.place(at)}"
    low, high = float(truth[usable].min()), float(truth[usable].max())
    return Error(name, first, second, low, high, factor, (0, 0), words, count)


def _independent(errors: Slices, squares: Slices) -> Array:
    """How many values the rms of an error is a mean of: fewer than there are, where a few are far larger than others.

    Of n errors of a normal distribution the fourth powers have a mean of 3 times the square of the squares' mean.
    """
    ratio = np.divide(np.square(errors.rms), squares.rms, out=np.ones_like(errors.rms), where=squares.rms > 0)
    return np.clip(3.0 * errors.count * np.square(ratio), 1.0, errors.count)


# -- one rewritten part at a time ----------------------------------------------------------------


def parts(
    first: OnnxFile,
    second: OnnxFile,
    feeds: tuple[Mapping[str, Any], Mapping[str, Any]],
    names: Sequence[str],
    how: Settings,
    drawn: Mapping[str, Array],
) -> list[Error]:
    """Errors at the named tensors, which both models compute, everything between them on the original's values.

    ``feeds`` are one feed as each of the models takes it, ``drawn`` what the original draws at random.
    Raises RunError and NotEvaluatedError.
    """
    mine = Session(first, how, content=first.with_outputs(names)).run(feeds[0], {name: name for name in names})
    evaluator = Evaluator(first.load(external=False), str(first.folder))
    types = declared_types(first)

    def evaluate(hook: Hook | None) -> dict[str, Value]:
        return _exact_parts(evaluator, {**feeds[0], **drawn}, mine, hook)

    truth, declared = evaluate(None), evaluate(Declared(types))
    content, computed = cut(second, mine)
    session = Session(second, how, content=content)
    known = {spec.name for spec in (*session.inputs(), *session.optional_inputs())}
    fed = {**feeds[1], **{name: value for name, value in mine.items() if name in known}}
    theirs = session.run({name: value for name, value in fed.items() if name in known}, computed)
    both = [name for name in names if name in theirs and name in truth]
    found = [error(name, truth[name], mine[name], theirs[name], [declared[name]]) for name in both]
    if all(item.factor <= 1.0 for item in found):
        return found
    free = undefined(evaluate, coarsest(first))
    ways = [declared, *_rounded_again(evaluate, types | given_types(first))]
    return [
        error(name, truth[name], mine[name], theirs[name], _of(ways, name, truth[name]), hanging=free.get(name))
        for name in both
    ]


def _rounded_again(
    evaluate: Callable[[Hook], dict[str, Value]], types: Mapping[str, np.dtype[Any]]
) -> Iterator[dict[str, Value]]:
    """What comes of it where all that is computed with is rounded once more, each to its own type."""
    roundings = {name: ROUNDOFF[kind.name] for name, kind in types.items()}
    with suppress(NotEvaluatedError):
        for seed in range(_SAMPLES):
            yield evaluate(Perturbed(roundings, seed, whole=True))


def _of(ways: Sequence[Mapping[str, Value]], name: str, like: Array) -> list[Array]:
    """One tensor, where it has the shape that it has in exact (a size may hang on a number)."""
    return [way[name] for way in ways if name in way and way[name].shape == like.shape]


def _exact_parts(
    model: Evaluator, feed: Mapping[str, Any], run: Mapping[str, Array], hook: Hook | None
) -> dict[str, Value]:
    """What each part gives in float64 for the values of the run."""
    trace = model.trace(moved_feed(feed, hook), hook)
    found: dict[str, Value] = {}
    carried = None
    while True:
        try:
            call, results = trace.send(carried)
        except StopIteration:
            return found
        named = list(zip(call.outputs, results, strict=False))
        found.update((name, value) for name, value in named if name in run)
        ran = moved_feed({name: run[name] for name, _ in named if name in run}, hook)
        carried = [widened(ran.get(name, value)) for name, value in named]


class Declared:
    """A hook for the float64 evaluation: every result is rounded to its declared type."""

    def __init__(self, types: Mapping[str, np.dtype[Any]]) -> None:
        self._types = types

    def constant(self, name: str, values: Array) -> Array:
        return values

    def produced(self, call: Call, values: Sequence[Value]) -> Sequence[Value]:
        return [self._rounded(name, value) for name, value in zip(call.outputs, values, strict=False)]

    def _rounded(self, name: str, value: Value) -> Value:
        if name not in self._types or not is_real(value):
            return value
        with np.errstate(all="ignore"):
            return value.astype(self._types[name]).astype(np.float64)


def declared_types(model: OnnxFile) -> dict[str, np.dtype[Any]]:
    """The float types of the tensors of the main graph, as far as they can be inferred."""
    from onnx import helper, shape_inference

    graph = shape_inference.infer_shapes(model.skeleton).graph
    kinds = {item.name: item.type.tensor_type.elem_type for item in (*graph.value_info, *graph.output)}
    return {name: helper.tensor_dtype_to_np_dtype(kind) for name, kind in kinds.items() if kind in REALS}


def given_types(model: OnnxFile) -> dict[str, np.dtype[Any]]:
    """The float types of the inputs and initializers of the main graph."""
    from onnx import helper

    graph = model.skeleton.graph
    kinds = {item.name: item.type.tensor_type.elem_type for item in graph.input}
    kinds |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    return {name: helper.tensor_dtype_to_np_dtype(kind) for name, kind in kinds.items() if kind in REALS}


def coarsest(model: OnnxFile) -> float:
    """The largest relative error of one rounding in the model."""
    return max((ROUNDOFF[kind.name] for kind in declared_types(model).values()), default=ROUNDOFF["float32"])


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
