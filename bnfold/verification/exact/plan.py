"""Is the plan right? Both models in float64, compared slice by slice at every tensor that both have."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from bnfold.graph import Array
from bnfold.verification.exact.decisions import DECISIONS, on_edge
from bnfold.verification.exact.lockstep import Evaluated, Original, Recorded, lockstep
from bnfold.verification.exact.perturbation import (
    Exact,
    Perturbed,
    Rounded,
    blocks,
    changed_settings,
    kind,
    own_constants,
    types_of,
)
from bnfold.verification.exact.slices import Slices, Vector, slices
from bnfold.verification.float64 import Call, Evaluator
from bnfold.verification.float64.registry import Value
from bnfold.verification.float64.tensors import stored_values, widened
from bnfold.verification.runtime.onnx_file import OnnxFile

if TYPE_CHECKING:
    from onnx import TensorProto

#: A right plan agrees to so much of a slice's own size: some million times the rounding of float64.
EXACT = 1e-10
#: The same where the second model's weights are rounded: whoever made it may have computed in float32.
COMPUTED_IN_FLOAT32 = 2.0**-20
#: How much results and constants are perturbed to see what float64 itself may do, 256 times its rounding.
ETA = 2.0**-44
#: How many times the effect of that is allowed.
_PERTURBED_FACTOR = 4.0
#: How many times the effect of rounding the weights is allowed, measured by doing it.
_ROUNDED_FACTOR = 4.0
#: As often where an evaluation of both models takes long, and where it takes less than so many seconds.
_SAMPLES, _CHEAP = (3, 8), 0.3
#: The original's values are kept for the evaluations that follow if they take no more than this many bytes.
_RECORDED_BYTES = 1 << 29
#: A tensor of one name is taken for the same in models of different makers if it is as near as this.
_NEAR = 2.0**-6


@dataclass(frozen=True, slots=True)
class Fault:
    """A tensor that is not what it is in the original. ``amount`` is of its own size in the worst slice."""

    tensor: str
    node: str
    op_type: str
    amount: float
    words: str


@dataclass(frozen=True, slots=True)
class PlanCheck:
    """What the float64 evaluation of one feed showed.

    ``tensors`` is how many were compared, ``worst`` the largest part of a slice's own size that two of them
    differ by and may, ``flips`` how many discrete values changed on an edge. ``truth`` are the original's outputs,
    ``agreeing`` the tensors that hold the same in both models.
    """

    tensors: int
    worst: float
    flips: int
    faults: tuple[Fault, ...]
    truth: Mapping[str, Value] = field(default_factory=dict)
    agreeing: frozenset[str] = frozenset()


@dataclass(slots=True)
class _Suspect:
    """A tensor with a difference larger than a right plan has without rounding."""

    node: str
    op_type: str
    reference: Slices
    difference: Array
    perturbed: list[Slices] = field(default_factory=list)
    rounded: list[Slices] = field(default_factory=list)
    rounded_before: list[Slices] = field(default_factory=list)


@dataclass(slots=True)
class _Pass:
    """What one evaluation of both models showed."""

    tensors: int = 0
    flips: int = 0
    worst: float = 0.0
    suspects: dict[str, _Suspect] = field(default_factory=dict)
    faults: dict[str, Fault] = field(default_factory=dict)
    #: How near two tensors have to be, as part of each slice's size, to be taken for the same.
    near: float = _NEAR
    #: Tensors that are farther from each other.
    apart: set[str] = field(default_factory=set)
    #: Tensors that are not of real numbers.
    discrete: set[str] = field(default_factory=set)
    truth: dict[str, Value] = field(default_factory=dict)
    recorded: Mapping[str, Value] | None = None
    seconds: float = 0.0


class PlanChecker:
    """An original and a second model. ``exact`` are functions that give weights before they were rounded.

    ``same_names`` says that tensors of one name are meant to hold the same values.
    Raises NotEvaluatedError, here and in :meth:`check`, where a model cannot be evaluated in float64.
    """

    def __init__(
        self, first: OnnxFile, second: OnnxFile, exact: Mapping[str, Callable[[], Any]], same_names: bool, seed: int
    ) -> None:
        self._files = (first.load(external=False), second.load(external=False))
        self._folders = (str(first.folder), str(second.folder))
        self.first, self._second = (Evaluator(*pair) for pair in zip(self._files, self._folders, strict=True))
        self._exact, self._same_names, self._seed = exact, same_names, seed
        self._computed = (first.computed, second.computed or {})
        self._shared = self.first.computed & self._second.computed

    @cached_property
    def _own(self) -> tuple[dict[str, TensorProto], dict[str, TensorProto]]:
        """The float constants of each of the models that the other does not have."""
        return own_constants(*self._files, self._folders), own_constants(*self._files[::-1], self._folders[::-1])

    @cached_property
    def _rounded(self) -> tuple[dict[str, str], set[str]]:
        """What of the second model is rounded and not known before that, with its types; and settings."""
        found = {name: tensor for name, tensor in self._own[1].items() if name not in self._exact}
        return types_of(found), changed_settings(*self._files)

    @cached_property
    def _rounded_before(self) -> dict[str, str]:
        """What of the original is: what its converter computed.

        For other people's models that is what is in float32 and has no counterpart, as the root of 2 of an operator
        written out: that it was rounded there says nothing about a fault of a size that matters.
        """
        mine, theirs = self._own
        computed = self._computed[0]
        if computed is not None:
            return types_of({name: tensor for name, tensor in mine.items() if name in computed})
        if self._same_names:
            return {}
        kinds = {kind(tensor) for tensor in theirs.values()}
        gone = {name: tensor for name, tensor in mine.items() if kind(tensor) not in kinds}
        return {name: dtype for name, dtype in types_of(gone).items() if dtype in ("float32", "float64")}

    @cached_property
    def _sizes_before(self) -> Mapping[str, Any]:
        """The sizes that these were rounded at."""
        computed, mine = self._computed[0], self._own[0]
        if computed is not None:
            return computed
        return {name: np.abs(widened(stored_values(mine[name], self._folders[0]))) for name in self._rounded_before}

    @property
    def _blurred(self) -> bool:
        """Whether anything is to be moved within its rounding."""
        return any(self._rounded) or bool(self._rounded_before)

    @property
    def tolerance(self) -> float:
        """What a slice may differ by, as part of its own size, apart from what rounding is seen to do."""
        return EXACT if self._same_names and not any(self._rounded) else COMPUTED_IN_FLOAT32

    def wrongly_rounded(self) -> list[str]:
        """The initializers of the second model that are not what their unrounded values round to."""
        from onnx import helper

        wrong = []
        for tensor in self._files[1].graph.initializer:
            if tensor.name in self._exact:
                exact = np.asarray(self._exact[tensor.name](), np.float64).reshape(-1)
                stored = stored_values(tensor, self._folders[1]).reshape(-1)
                dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
                if any(_differ(stored[part], exact[part], dtype) for part in blocks(stored.size)):
                    wrong.append(tensor.name)
        return wrong

    def check(self, feeds: tuple[Mapping[str, Any], Mapping[str, Any]], outputs: Mapping[str, str]) -> PlanCheck:
        """One feed, as each of the models takes it. ``outputs`` maps the original's outputs to the second model's."""
        found = self._pass(feeds, outputs, set())
        if self._same_names or not found.apart:
            self._settle(found, feeds, outputs, set())
        if self._same_names or not (found.faults or found.apart):
            return self._checked(found, tuple(found.faults.values()), found.apart)
        # Names may mean other things in a model of another maker: what counts are the outputs.
        earlier, apart = found, found.apart | set(found.faults)
        earlier.recorded = None
        found = self._pass(feeds, outputs, apart)
        counted = outputs.keys() | self._decisive(outputs, found.discrete)
        found.suspects = {name: item for name, item in found.suspects.items() if whole(name) in counted}
        self._settle(found, feeds, outputs, apart)
        wrong = [fault for name, fault in found.faults.items() if whole(name) in counted]
        if wrong:
            self._settle(earlier, feeds, outputs, set())
        inner = [fault for name, fault in earlier.faults.items() if whole(name) not in counted] if wrong else []
        return self._checked(found, (*inner, *wrong), apart)

    def _decisive(self, outputs: Mapping[str, str], discrete: set[str]) -> set[str]:
        """The tensors by which discrete outputs are decided in both models: what an ArgMax reads."""
        mine, theirs = ({name: node for node in file.graph.node for name in node.output} for file in self._files)
        waiting = [name for name, other in outputs.items() if name == other and name in discrete]
        seen, found = set(waiting), set()
        for name in waiting:
            node, other = mine.get(name), theirs.get(name)
            if node is None or other is None or (node.op_type, node.input) != (other.op_type, other.input):
                continue
            fresh = {read for read in node.input if read in discrete} - seen
            seen |= fresh
            waiting.extend(fresh)
            if node.op_type in DECISIONS:
                found |= set(node.input) & self._shared - discrete
        return found

    def _checked(self, found: _Pass, faults: tuple[Fault, ...], apart: set[str]) -> PlanCheck:
        agreeing = frozenset(self._shared - apart - {fault.tensor for fault in faults})
        names = [name for node in self._files[0].graph.node for name in node.output]
        order = {name: place for place, name in enumerate(names)}
        first_ones = tuple(sorted(faults, key=lambda fault: order.get(whole(fault.tensor), len(order))))
        return PlanCheck(found.tensors, found.worst, found.flips, first_ones, found.truth, agreeing)

    # -- comparing -------------------------------------------------------------------------------

    def _pass(
        self, feeds: tuple[Mapping[str, Any], Mapping[str, Any]], outputs: Mapping[str, str], apart: set[str]
    ) -> _Pass:
        # Behind a tensor that is another one what is near may be so by accident.
        found = _Pass(near=self.tolerance if apart else _NEAR)

        def examine(name: str, call: Call | None, mine: Value, theirs: Value) -> bool:
            return self._compared(found, name, call, mine, theirs) and name not in apart

        started = time.perf_counter()
        # Where nothing is rounded there is hardly anything to evaluate again.
        original = Evaluated(self.first, feeds[0], self._shared, _RECORDED_BYTES if self._blurred else 0)
        found.truth, theirs = lockstep(original, self._second, feeds[1], self._shared, examine, Exact(self._exact))
        found.seconds = time.perf_counter() - started
        found.recorded = original.recorded
        for name, other in outputs.items():
            if name != other or name not in self._shared:
                self._compared(found, name, None, found.truth[name], theirs[other])
        return found

    def _compared(self, found: _Pass, name: str, call: Call | None, mine: Value, theirs: Value) -> bool:
        """Whether the two may be taken for the same tensor."""
        if isinstance(mine, list) or isinstance(theirs, list) or mine is None or theirs is None:
            return self._lists(found, name, call, mine, theirs)
        node, op_type = (call.node, call.op_type) if call else ("", "")
        found.tensors += 1
        if mine.dtype.kind != "f":
            found.discrete.add(name)
        words = _mismatch(mine, theirs)
        if not words:
            if np.array_equal(mine, theirs, equal_nan=mine.dtype.kind == "f"):
                return True
            if call is not None and on_edge(call, list(call.outputs).index(name), mine, theirs):
                found.flips += int(np.count_nonzero(mine != theirs))
                return True
            if mine.dtype.kind == "f":
                return self._floats(found, name, (node, op_type), mine, theirs)
            words = f"{np.count_nonzero(mine != theirs)} of {mine.size} values of {name} differ"
        else:
            words = f"{name} {words}"
        found.faults[name] = Fault(name, node, op_type, np.inf, words)
        found.apart.add(name)
        return False

    def _lists(self, found: _Pass, name: str, call: Call | None, mine: Value, theirs: Value) -> bool:
        if mine is None or theirs is None:
            return mine is theirs
        if not isinstance(mine, list) or not isinstance(theirs, list) or len(mine) != len(theirs):
            found.faults[name] = Fault(name, "", "", np.inf, f"{name} has other members")
            return False
        pairs = enumerate(zip(mine, theirs, strict=True))
        agree = [self._compared(found, f"{name}[{index}]", None, a, b) for index, (a, b) in pairs]
        return all(agree)

    def _floats(self, found: _Pass, name: str, node: tuple[str, str], mine: Array, theirs: Array) -> bool:
        finite = np.isfinite(mine)
        if not np.array_equal(finite, np.isfinite(theirs)) or not np.array_equal(
            mine[~finite], theirs[~finite], equal_nan=True
        ):
            words = f"NaN or infinity stand in other places in {name}"
            found.faults[name] = Fault(name, *node, np.inf, words)
            found.apart.add(name)
            return self._same_names
        with np.errstate(invalid="ignore"):
            difference = np.where(finite, theirs - mine, 0.0)
        measured = slices(mine, difference)
        if (measured.rms > self.tolerance * measured.size).any():
            found.suspects[name] = _Suspect(*node, measured, difference)
        else:
            found.worst = max(found.worst, measured.worst(measured.size)[0])
        if self._same_names:
            return True
        near = bool((measured.rms <= found.near * measured.size).all())
        if not near:
            found.apart.add(name)
        return near

    # -- judging ---------------------------------------------------------------------------------

    def _settle(self, found: _Pass, feeds: Any, outputs: Mapping[str, str], apart: set[str]) -> None:
        """Turn suspects into faults, or not, by what rounding does to them."""
        if not found.suspects:
            return
        rounded, settings = self._rounded
        few, many = _SAMPLES
        samples = many if found.seconds < _CHEAP else few
        self._sample(found, feeds, outputs, apart, Perturbed(ETA, self._seed), "perturbed")
        self._sample_original(found, feeds[0], outputs, apart, Perturbed(ETA, self._seed), "perturbed")
        for seed in range(self._seed, self._seed + samples):
            if rounded or settings:
                hook = Rounded(rounded, settings, seed, self._computed[1])
                self._sample(found, feeds, outputs, apart, hook, "rounded")
            if self._rounded_before:
                hook = Rounded(self._rounded_before, (), seed, self._sizes_before)
                self._sample_original(found, feeds[0], outputs, apart, hook, "rounded_before")
        for name, suspect in found.suspects.items():
            fault = self._judged(name, suspect)
            if fault is None:
                size = suspect.reference.size
                found.worst = max(found.worst, suspect.reference.worst(np.maximum(size, size[0]))[0])
            else:
                found.faults[name] = fault

    def _carried(self, found: _Pass, apart: set[str]) -> set[str]:
        """The tensors from which the original's values were carried on in both models."""
        return self._shared - apart - (set() if self._same_names else found.apart)

    def _sample(
        self, found: _Pass, feeds: Any, outputs: Mapping[str, str], apart: set[str], change: Any, kind: str
    ) -> None:
        """The original's values carried on wherever they were at first, the effect of ``change`` on each suspect."""
        near = self._carried(found, apart)

        def examine(name: str, _: Call | None, mine: Value, theirs: Value) -> bool:
            suspect = found.suspects.get(name)
            if suspect is not None and np.shape(theirs) == suspect.difference.shape:
                with np.errstate(invalid="ignore"):
                    effect = np.where(np.isfinite(mine), theirs - mine, 0.0) - suspect.difference
                getattr(suspect, kind).append(slices(mine, effect))
            return name in near and np.shape(mine) == np.shape(theirs)

        if found.recorded is None:
            original: Original = Evaluated(self.first, feeds[0], self._shared)
        else:
            original = Recorded(found.recorded, found.truth)
        hook = Exact(self._exact, change)
        truth, theirs = lockstep(original, self._second, feeds[1], self._shared, examine, hook)
        for name, other in outputs.items():
            if name in found.suspects and (name != other or name not in self._shared):
                examine(name, None, truth[name], theirs[other])

    def _sample_original(
        self, found: _Pass, feed: Mapping[str, Any], outputs: Mapping[str, str], apart: set[str], change: Any, kind: str
    ) -> None:
        """The original's own sensitivity: what it cancels the second model may not even compute."""
        near = self._carried(found, apart)

        def examine(name: str, _: Call | None, mine: Value, theirs: Value) -> bool:
            suspect = found.suspects.get(name)
            if suspect is not None:
                with np.errstate(invalid="ignore"):
                    effect = np.where(np.isfinite(mine), theirs - mine, 0.0)
                getattr(suspect, kind).append(slices(mine, effect))
            return name in near

        original: Original = Evaluated(self.first, feed, self._shared)
        truth, theirs = lockstep(original, self.first, feed, self._shared, examine, change)
        for name in outputs.keys() - self._shared:
            if name in found.suspects:
                examine(name, None, truth[name], theirs[name])

    def _judged(self, name: str, suspect: _Suspect) -> Fault | None:
        item = suspect.reference
        unit = self.tolerance
        factor = _PERTURBED_FACTOR * unit / EXACT if unit > EXACT else _PERTURBED_FACTOR
        base = unit * item.size + factor * _pooled(item, suspect.perturbed, "rms")
        worst, at, kind = 0.0, 0, ""
        for measure in ("rms", "along", "mean"):
            rounding = _pooled(item, suspect.rounded, measure) + _pooled(item, suspect.rounded_before, measure)
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
        return Fault(name, suspect.node, suspect.op_type, amount, words)


def _differ(stored: Array, exact: Array, dtype: Any) -> bool:
    with np.errstate(all="ignore"):
        due = exact.astype(dtype)
    return not np.array_equal(stored.astype(np.float64), due.astype(np.float64), equal_nan=True)


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


def whole(name: str) -> str:
    """The sequence that a member is of; any other tensor itself."""
    return name.partition("[")[0] if name.endswith("]") else name


def _mismatch(mine: Array, theirs: Array) -> str:
    if mine.dtype != theirs.dtype:
        return f"has {theirs.dtype} instead of {mine.dtype}"
    if mine.shape != theirs.shape:
        return f"has shape {list(theirs.shape)} instead of {list(mine.shape)}"
    return ""
