"""Is the plan right? Both models in float64, compared slice by slice at every tensor that both have."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from bnfold.graph import Array
from bnfold.verification.exact.conditioning import Mask, evaluated, undefined, unstable
from bnfold.verification.exact.decisions import DECISIONS, on_edge
from bnfold.verification.exact.lockstep import Evaluated, Original, Recorded, lockstep
from bnfold.verification.exact.members import whole
from bnfold.verification.exact.perturbation import Exact, Perturbed
from bnfold.verification.exact.rounded_constants import RoundedConstants
from bnfold.verification.exact.slices import slices
from bnfold.verification.exact.suspects import EXACT, Fault, Suspect
from bnfold.verification.float64 import Call, Evaluator, Hook
from bnfold.verification.float64.registry import Value
from bnfold.verification.runtime.onnx_file import OnnxFile

if TYPE_CHECKING:
    from onnx import NodeProto

#: The same where the second model's weights are rounded: whoever made it may have computed in float32.
COMPUTED_IN_FLOAT32 = 2.0**-20
#: How much results and constants are perturbed to see what float64 itself may do, 256 times its rounding.
ETA = 2.0**-44
#: How often that is done, by the seconds that an evaluation of both models takes at most.
_SAMPLES = {0.03: 24, 0.3: 8, np.inf: 3}
#: The original's values are kept for the evaluations that follow if they take no more than this many bytes.
_RECORDED_BYTES = 1 << 29
#: A tensor of one name is taken for the same in models of different makers if it is as near as this.
_NEAR = 2.0**-6


@dataclass(frozen=True, slots=True)
class PlanCheck:
    """What the float64 evaluation of one feed showed.

    ``tensors`` is how many were compared, ``worst`` the largest part of a slice's own size that two of them
    differ by and may, ``flips`` how many discrete values changed on an edge. ``truth`` are the original's outputs,
    ``agreeing`` the tensors that hold the same in both models, ``undefined`` how many values were not compared,
    since they hang on the last digit.
    """

    tensors: int
    worst: float
    flips: int
    faults: tuple[Fault, ...]
    truth: Mapping[str, Value] = field(default_factory=dict)
    agreeing: frozenset[str] = frozenset()
    undefined: int = 0


@dataclass(slots=True)
class _Pass:
    """What one evaluation of both models showed."""

    tensors: int = 0
    flips: int = 0
    worst: float = 0.0
    suspects: dict[str, Suspect] = field(default_factory=dict)
    faults: dict[str, Fault] = field(default_factory=dict)
    #: Where NaN or infinity stand in one alone.
    odd: dict[str, Mask] = field(default_factory=dict)
    undefined: int = 0
    #: How near two tensors have to be, as part of each slice's size, to be taken for the same.
    near: float = _NEAR
    #: Tensors that are farther from each other.
    apart: set[str] = field(default_factory=set)
    #: Tensors that were to be taken for different ones from the beginning.
    kept_apart: set[str] = field(default_factory=set)
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
        folders = str(first.folder), str(second.folder)
        self.first, self._second = (Evaluator(*pair) for pair in zip(self._files, folders, strict=True))
        self._exact, self._same_names, self._seed = exact, same_names, seed
        self.rounded = RoundedConstants(
            self._files, folders, (first.computed, second.computed or {}), exact, same_names
        )
        self._shared = self.first.computed & self._second.computed

    @cached_property
    def _producers(self) -> tuple[dict[str, NodeProto], dict[str, NodeProto]]:
        """The nodes of each main graph by what they compute."""
        first, second = ({name: node for node in file.graph.node for name in node.output} for file in self._files)
        return first, second

    @property
    def tolerance(self) -> float:
        """What a slice may differ by, as part of its own size, apart from what rounding is seen to do."""
        return EXACT if self._same_names and not self.rounded.any_of_second() else COMPUTED_IN_FLOAT32

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
        mine, theirs = self._producers
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
        return PlanCheck(found.tensors, found.worst, found.flips, first_ones, found.truth, agreeing, found.undefined)

    # -- comparing -------------------------------------------------------------------------------

    def _pass(
        self, feeds: tuple[Mapping[str, Any], Mapping[str, Any]], outputs: Mapping[str, str], apart: set[str]
    ) -> _Pass:
        # Behind a tensor that is another one what is near may be so by accident.
        found = _Pass(near=self.tolerance if apart else _NEAR, kept_apart=apart)

        def examine(name: str, call: Call | None, mine: Value, theirs: Value) -> bool:
            return self._compared(found, name, call, mine, theirs) and name not in apart

        started = time.perf_counter()
        # Where nothing is rounded there is hardly anything to evaluate again.
        original = Evaluated(self.first, feeds[0], self._shared, _RECORDED_BYTES if self.rounded.any() else 0)
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
            if (
                call is not None
                and not self._rereads(found, name)
                and on_edge(call, list(call.outputs).index(name), mine, theirs)
            ):
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

    def _rereads(self, found: _Pass, name: str) -> bool:
        """Whether both models compute a tensor of the very values: no rounding can make it come out differently."""
        mine, theirs = (nodes.get(name) for nodes in self._producers)
        if mine is None or theirs is None or mine.input != theirs.input:
            return False
        changed = {*self.rounded.own[0], *self.rounded.own[1]} | found.apart | found.kept_apart
        return changed.isdisjoint(mine.input)

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
        both = np.isfinite(mine) & np.isfinite(theirs)
        odd = ~(both | (mine == theirs) | (np.isnan(mine) & np.isnan(theirs)))
        if odd.any():
            words = f"NaN or infinity stand in other places in {name}"
            found.faults[name] = Fault(name, *node, np.inf, words)
            found.odd[name] = odd
            found.apart.add(name)
        with np.errstate(invalid="ignore"):
            difference = np.where(both, theirs - mine, 0.0)
        measured = slices(mine, difference)
        if (measured.rms > self.tolerance * measured.size).any():
            found.suspects[name] = Suspect(*node, measured, difference)
        else:
            found.worst = max(found.worst, measured.worst(measured.size)[0])
        if self._same_names:
            return True
        near = bool((measured.rms <= found.near * measured.size).all()) and not odd.any()
        if not near:
            found.apart.add(name)
        return near

    # -- judging ---------------------------------------------------------------------------------

    def _settle(self, found: _Pass, feeds: Any, outputs: Mapping[str, str], apart: set[str]) -> None:
        """Turn suspects into faults, or not, by what rounding does to them."""
        if found.suspects:
            self._judge(found, feeds, outputs, apart)
        self._excuse(found, feeds, outputs)

    def _judge(self, found: _Pass, feeds: Any, outputs: Mapping[str, str], apart: set[str]) -> None:
        samples = next(count for seconds, count in _SAMPLES.items() if found.seconds <= seconds)
        self._sample(found, feeds, outputs, apart, Perturbed(ETA, self._seed), "perturbed")
        self._sample_original(found, feeds[0], outputs, apart, Perturbed(ETA, self._seed), "perturbed")
        for seed in range(self._seed, self._seed + samples):
            for kind, hook in self.rounded.hooks(seed):
                if kind == "rounded":
                    self._sample(found, feeds, outputs, apart, hook, kind)
                else:
                    self._sample_original(found, feeds[0], outputs, apart, hook, kind)
        for name, suspect in found.suspects.items():
            fault = suspect.judged(name, self.tolerance)
            if fault is None:
                size = suspect.reference.size
                found.worst = max(found.worst, suspect.reference.worst(np.maximum(size, size[0]))[0])
            else:
                found.faults[name] = fault

    def _excuse(self, found: _Pass, feeds: Any, outputs: Mapping[str, str]) -> None:
        """Take back the faults of values that hang on the last digit, in the original or where that has no number."""
        names = found.faults.keys() & (found.odd.keys() | found.suspects.keys())
        if not names:
            return

        def second(hook: Hook | None) -> Mapping[str, Array]:
            theirs = {outputs.get(name, name): name for name in names}
            values = evaluated(self._second, feeds[1], theirs, Exact(self._exact, hook))
            return {theirs[name]: value for name, value in values.items()}

        free = unstable(lambda hook: evaluated(self.first, feeds[0], names, hook), ETA)
        for name, odd in found.odd.items():
            if name in free and (odd & ~free[name][1]).any():
                values, loose = free[name]
                free[name] = values, loose | ~np.isfinite(values) & undefined(second, ETA).get(name, np.False_)
        for name, (values, loose) in free.items():
            if not loose.any() or (found.odd.get(name, loose) & ~loose).any():
                continue
            suspect = found.suspects.get(name)
            if suspect is None or suspect.without(values, loose).judged(name, self.tolerance) is None:
                found.undefined += int(np.count_nonzero(loose))
                del found.faults[name]

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


def _mismatch(mine: Array, theirs: Array) -> str:
    if mine.dtype != theirs.dtype:
        return f"has {theirs.dtype} instead of {mine.dtype}"
    if mine.shape != theirs.shape:
        return f"has shape {list(theirs.shape)} instead of {list(mine.shape)}"
    return ""
