"""The judge by float64: the plan first, then the accuracy of what was written."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from zlib import crc32

import numpy as np

from bnfold.graph import Array
from bnfold.verification.comparison import Comparison, Judge
from bnfold.verification.deviation import Deviation, constant_outputs
from bnfold.verification.exact.accuracy import Declared, Error, coarsest, declared_types, error, parts
from bnfold.verification.exact.conditioning import MEANINGLESS, evaluated, undefined
from bnfold.verification.exact.members import flat, whole
from bnfold.verification.exact.plan import PlanCheck, PlanChecker
from bnfold.verification.exact.slices import slices
from bnfold.verification.exact.suspects import Fault
from bnfold.verification.feeds.rows import all_rows
from bnfold.verification.float64 import NotEvaluatedError
from bnfold.verification.localise import telling_tensors
from bnfold.verification.output_check import OnFeed, Tolerance, check_output
from bnfold.verification.runtime.randomness import drawing
from bnfold.verification.runtime.sessions import RunError, Session
from bnfold.verification.verdict import (
    DIFFERENT,
    EQUAL,
    LESS_ACCURATE,
    WITHIN_ROUNDING,
    Exactness,
    FirstDifference,
    Judgement,
    OutputCheck,
)
from bnfold.verification.verify_options import VerifyOptions

#: Feeds are evaluated until so many seconds have passed, but never fewer than so many.
_SECONDS, _FEWEST = 1.0, 2
#: Feeds for float64 alone.
_OVERRIDDEN, _OTHER_ROWS = -1, -2
_UNSEEN = {_OVERRIDDEN: "other values for weights that may be overridden", _OTHER_ROWS: "other rows of a table"}


@dataclass(frozen=True, slots=True)
class Float64Judge:
    """Implements :class:`bnfold.verification.comparison.Judge`.

    ``unrounded`` are functions that give weights of the second model before they were rounded, where its maker
    is at hand. Where a model cannot be evaluated in float64 ``otherwise`` judges, and a note says so.
    """

    options: VerifyOptions
    otherwise: Judge
    unrounded: Mapping[str, Callable[[], Any]] = field(default_factory=dict)

    def judge(self, case: Comparison) -> Judgement:
        """The verdict, with the first tensor that differs."""
        try:
            return _Case(self, case).judgement()
        except NotEvaluatedError as reason:
            found = self.otherwise.judge(case)
            note = f"judged by rounding noise, not in float64: {reason}"
            return replace(found, notes=(*found.notes, note))


class _Case:
    """One second model before the judge."""

    def __init__(self, judge: Float64Judge, case: Comparison) -> None:
        self._options, self._unrounded = judge.options, judge.unrounded
        self._reference, self._second = case.reference, case.candidate.model
        self._measured, self._outputs = case.measured, case.outputs
        self._interface = case.interface
        self._notes = list(constant_outputs(case.measured))
        self._parts = 0
        self._drawn: dict[int, dict[str, Array]] = {}

    def judgement(self) -> Judgement:
        started = time.perf_counter()
        checker = PlanChecker(
            self._reference.model,
            self._second,
            self._unrounded,
            self._options.intermediates,
            self._options.seed,
        )
        plans = self._plans(checker, started)
        errors = self._errors(checker, plans)
        checks = [self._check(name, items, errors.get(name)) for name, items in self._measured.items()]
        if any(plan.undefined for plan in plans.values()):
            self._notes.append(hanging_values(sum(plan.undefined for plan in plans.values())))
        found = self._verdict(checker, plans, checks, errors)
        seconds = time.perf_counter() - started
        exactness = summary(list(plans.values()), bool(self._unrounded), self._parts, seconds)
        return replace(found, notes=tuple(self._notes), exactness=exactness)

    # -- is the plan right? ----------------------------------------------------------------------

    def _plans(self, checker: PlanChecker, started: float) -> dict[int, PlanCheck]:
        """By feed, and feeds that the runtime does not see (:data:`_UNSEEN`)."""
        plans: dict[int, PlanCheck] = {}
        for index in range(len(self._reference.answers.feeds)):
            if len(plans) >= _FEWEST and time.perf_counter() - started > _SECONDS:
                break
            plans[index] = checker.check(self._exact_feeds(index), self._interface.outputs)
            if plans[index].faults:
                return plans
        other = self._overriding()
        if other:
            mine, theirs = self._exact_feeds(0)
            plans[_OVERRIDDEN] = checker.check(({**mine, **other}, {**theirs, **other}), self._interface.outputs)
        for mine in self._other_rows():
            if time.perf_counter() - started > _SECONDS or any(plan.faults for plan in plans.values()):
                break
            with suppress(NotEvaluatedError):
                plans[_OTHER_ROWS] = checker.check((mine, self._renamed(mine)), self._interface.outputs)
        return plans

    def _other_rows(self) -> Iterator[dict[str, Any]]:
        """Feeds that read whole tables, in so far as feeds are not the caller's or draw at random."""
        answers, model = self._reference.answers, self._reference.model
        if self._options.inputs is not None or model.draws:
            return
        largest = max(answers.feeds, key=lambda feed: sum(np.size(value) for value in feed.values.values()))
        if all(spec.name in largest.values for spec in answers.inputs):
            yield from all_rows(model, answers.inputs, largest.values)

    def _renamed(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {self._interface.inputs[name]: value for name, value in values.items()}

    def _feeds(self, index: int) -> tuple[dict[str, Any], dict[str, Any]]:
        mine = dict(self._reference.answers.feeds[index].values)
        return mine, self._renamed(mine)

    def _exact_feeds(self, index: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """The same for the float64 evaluation, with the numbers that the runtime draws at random."""
        if index not in self._drawn:
            self._drawn[index] = self._draw(self._feeds(index)[0])
        mine, theirs = self._feeds(index)
        return {**mine, **self._drawn[index]}, {**theirs, **self._drawn[index]}

    def _draw(self, feed: Mapping[str, Any]) -> dict[str, Array]:
        model = self._reference.model
        if not model.draws:
            return {}
        names = [node.output[0] for node in drawing(model.skeleton) if node in model.skeleton.graph.node]
        try:
            session = Session(model, self._reference.settings, content=model.with_outputs(names))
            return dict(session.run(feed, {name: name for name in names}))
        except RunError as error:
            raise NotEvaluatedError(f"what is drawn at random cannot be seen: {error}") from error

    def _overriding(self) -> dict[str, Array]:
        """Other values for float weights that may be overridden in both models."""
        from onnx import numpy_helper

        found = {}
        names = {spec.name for spec in self._reference.answers.optional} & self._interface.overridable
        for tensor in self._reference.model.load(external=True).graph.initializer if names else ():
            values = numpy_helper.to_array(tensor)
            if tensor.name in names and (values.dtype.kind == "f" or values.dtype.name == "bfloat16"):
                rng = np.random.default_rng((self._options.seed, crc32(tensor.name.encode())))
                found[tensor.name] = (values.astype(np.float64) * rng.uniform(0.5, 1.5, values.shape)).astype(
                    values.dtype
                )
        return found

    # -- is the result as accurate? --------------------------------------------------------------

    def _errors(
        self, checker: PlanChecker, plans: Mapping[int, PlanCheck], declared: bool = False, defined: bool = False
    ) -> dict[str, Error]:
        """Of every output over the feeds that were evaluated.

        ``declared``: the original rounded as its types say; ``defined``: without values that hang on the last digit.
        """
        found: dict[str, Error] = {}
        sizes: dict[str, float] = {}
        for plan in plans.values():
            for name, truth in flat(plan.truth).items():
                if truth.dtype.kind == "f":
                    sizes[name] = max(sizes.get(name, 0.0), float(slices(truth, truth).size[0]))
        hook = Declared(declared_types(self._reference.model)) if declared else None
        for index, plan in plans.items():
            if index < 0:
                continue
            feed = self._exact_feeds(index)[0]
            rounded = {} if hook is None else flat(checker.first.run(feed, hook))
            evaluate = partial(evaluated, checker.first, feed, flat(plan.truth))
            free = undefined(evaluate, coarsest(self._reference.model)) if defined else {}
            for name, truth in flat(plan.truth).items():
                mine, theirs = (side[index].get(name) for side in (self._reference.answers.outputs, self._outputs))
                if mine is None or theirs is None:
                    continue
                likewise = [rounded[name]] if name in rounded else []
                item = error(name, truth, mine, theirs, likewise, sizes.get(name, 0.0), free.get(name))
                found[name] = found[name].joined(item) if name in found else item
        return found

    def _part_errors(self, plan: PlanCheck, feed: int) -> list[Error]:
        """Every rewritten part by itself. Empty where they cannot be run."""
        skeletons = self._reference.model.skeleton, self._second.skeleton
        names = [name for name in telling_tensors(*skeletons) if name in plan.agreeing]
        if not names:
            return []
        try:
            found = parts(
                self._reference.model,
                self._second,
                self._feeds(feed),
                names,
                self._reference.settings,
                self._drawn[feed],
            )
        except RunError as failure:
            self._notes.append(f"the rewritten parts could not be run by themselves: {failure}")
            return []
        self._parts = len(found)
        return found

    # -- the verdict -----------------------------------------------------------------------------

    def _verdict(
        self,
        checker: PlanChecker,
        plans: Mapping[int, PlanCheck],
        checks: Sequence[OutputCheck],
        errors: Mapping[str, Error],
    ) -> Judgement:
        for feed, plan in plans.items():
            if plan.faults:
                return self._different(plan.faults, feed, checks)
        bad = [check.reason for check in checks if check.ok is False]
        wrong = checker.rounded.wrong()
        if wrong:
            bad.insert(0, f"{wrong[0]} is not what it was to be rounded to")
        if bad:
            return Judgement(_with_faults(checks, {}), verdict=DIFFERENT, reason="; ".join(bad))
        less = self._less_accurate(checker, plans, errors)
        if less:
            named = {item.name: item.words for item in less}
            return Judgement(_with_faults(checks, named), verdict=LESS_ACCURATE, reason=less[0].words)
        return Judgement(tuple(checks), verdict=EQUAL if all(check.identical for check in checks) else WITHIN_ROUNDING)

    def _different(self, faults: Sequence[Fault], feed: int, checks: Sequence[OutputCheck]) -> Judgement:
        """Faults that one feed shows."""
        words = next((fault.words for fault in faults if whole(fault.tensor) in self._interface.outputs), "")
        if not words:
            agree = all(_as_accurate(check) for check in checks)
            words = f"the outputs agree on these feeds, but inside {faults[0].words}" if agree else faults[0].words
        named = {fault.tensor: fault.words for fault in faults}
        first = self._difference(faults[0], feed)
        return Judgement(_with_faults(checks, named), verdict=DIFFERENT, reason=words, first_difference=first)

    def _less_accurate(
        self, checker: PlanChecker, plans: Mapping[int, PlanCheck], errors: Mapping[str, Error]
    ) -> list[Error]:
        """Where the result is less accurate than the original; nowhere if it is not."""
        doubtful = _worse(errors.values())
        if doubtful:
            # A runtime may leave roundings out that the original declares, and be nearer to exact by luck.
            doubtful = _worse(self._errors(checker, plans, declared=True).values())
            if not doubtful:
                self._notes.append("the runtime leaves out roundings that the original's types ask for")
        if doubtful:
            defined = self._errors(checker, plans, declared=True, defined=True).values()
            doubtful = _worse(defined)
            if not doubtful:
                self._notes.extend(hanging_values(item.undefined, item.name) for item in defined if item.undefined)
        lost = [item for item in errors.values() if item.span and item.original > MEANINGLESS * item.span]
        if not doubtful and not lost:
            return []
        local = self._part_errors(plans[0], 0)
        if not local:
            return doubtful
        if lost and not any(plan.flips for plan in plans.values()):
            amount = lost[0].original / lost[0].span
            self._notes.append(
                f"not verifiable by its outputs: its own rounding is {amount:.0%} of the range of {lost[0].name}; "
                f"each of {len(local)} rewritten parts was run by itself"
            )
        return _worse(local)

    def _difference(self, fault: Fault, feed: int) -> FirstDifference | None:
        feeds = self._reference.answers.feeds
        description = feeds[feed].description if feed >= 0 else _UNSEEN[feed]
        return difference(fault, description) if self._options.first_difference else None

    def _check(self, name: str, items: Mapping[int, Deviation], measured: Error | None) -> OutputCheck:
        """The runtime's outputs side by side, with both errors; ``ok`` is about what needs no float64."""
        on_feeds = [OnFeed(self._reference.answers.feeds[index].description, item) for index, item in items.items()]
        tolerance = self._options.tolerance
        # No noise is known, so that only a fixed tolerance is asked about.
        strict = Tolerance(tolerance.rtol, tolerance.atol, True)
        check = check_output(name, on_feeds, strict)
        fault = any(item.fault for item in items.values())
        if not fault and not tolerance.strict:
            check = replace(check, ok=True, reason="", tolerance=None)
        return with_errors(check, measured)


def _worse(errors: Iterable[Error]) -> list[Error]:
    """Those that are more than what is allowed."""
    return [item for item in errors if item.factor > 1.0]


def _as_accurate(check: OutputCheck) -> bool:
    """Is an output in the runtime what it is in the original, as far as float64 tells?"""
    measured = check.result_error is not None and check.factor <= 1.0
    return check.ok is True and (check.identical or (measured and check.flips[1] <= check.flips[0]))


def _with_faults(checks: Iterable[OutputCheck], faults: Mapping[str, str]) -> tuple[OutputCheck, ...]:
    """The checks of models that are not equivalent. ``faults`` has the words on tensors at fault, outputs or not."""

    def known(check: OutputCheck) -> OutputCheck:
        if check.ok is False:
            return check
        if check.name in faults:
            return replace(check, ok=False, reason=faults[check.name])
        return check if _as_accurate(check) else replace(check, ok=None)

    return tuple(map(known, checks))


def hanging_values(count: int, name: str = "") -> str:
    """What is said about values that were not compared."""
    where = f" of {name}" if name else ""
    return f"{count} values{where} are 0/0 or the like, and hang on the last digit: they were not compared"


def summary(plans: Sequence[PlanCheck], unrounded: bool, parts: int, seconds: float) -> Exactness:
    """What the plan was checked on, over all feeds."""
    return Exactness(
        sum(plan.tensors for plan in plans),
        max(plan.worst for plan in plans),
        sum(plan.flips for plan in plans),
        len(plans),
        unrounded,
        parts,
        seconds,
    )


def with_errors(check: OutputCheck, measured: Error | None) -> OutputCheck:
    """The check with how far both models are from exact, as far as that was measured."""
    if measured is None:
        return check
    span = measured.span
    return replace(
        check,
        original_error=measured.original / span if span else None,
        result_error=measured.result / span if span else None,
        factor=measured.factor,
        flips=measured.flips,
    )


def difference(fault: Fault, feed: str) -> FirstDifference | None:
    """A fault as a report shows it; None where no operator of the second model computes the tensor."""
    if not fault.op_type:
        return None
    return FirstDifference(fault.tensor, fault.node or fault.tensor, fault.op_type, fault.amount, feed)
