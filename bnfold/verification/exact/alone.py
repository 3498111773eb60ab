"""Models that onnxruntime cannot run here, as most in bfloat16 and a GRU in double: the plan alone, in float64."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING

from bnfold.verification.answers import UnrunnableError
from bnfold.verification.exact.judge import difference, hanging_values, summary
from bnfold.verification.exact.plan import PlanCheck, PlanChecker
from bnfold.verification.feeds.planning import Planner, next_feed
from bnfold.verification.feeds.values import Feed, user_feeds
from bnfold.verification.float64 import NotEvaluatedError
from bnfold.verification.runtime.onnx_file import OnnxFile
from bnfold.verification.runtime.sessions import RunError, Session, ValueSpec
from bnfold.verification.verdict import DIFFERENT, WITHIN_ROUNDING, FeedSummary, Verification
from bnfold.verification.verify_options import VerifyOptions

if TYPE_CHECKING:
    from collections.abc import Iterable

    from onnx import ModelProto, ValueInfoProto

#: So many feeds are looked for among so many.
_FEEDS, _ATTEMPTS = 4, 60


def verify_alone(first: OnnxFile, second: OnnxFile, options: VerifyOptions, why: UnrunnableError) -> Verification:
    """The verdict without the runtime. ``why`` says why it cannot run the original.

    A second model that it rejects for another reason than the original is faulty whatever its numbers.
    Raises NotEvaluatedError where the models cannot be evaluated in float64 either.
    """
    started = time.perf_counter()
    failure = _failure_of_its_own(second, options, why)
    if failure:
        return Verification(DIFFERENT, seconds=time.perf_counter() - started, reason=failure)
    inputs, outputs = _interface(first.skeleton)
    if (inputs, outputs) != _interface(second.skeleton):
        raise NotEvaluatedError("the models have other inputs or outputs")
    checker = PlanChecker(first, second, second.unrounded, options.intermediates, options.seed)
    plans = _plans(checker, first, inputs, {spec.name: spec.name for spec in outputs}, options)
    if not plans:
        raise NotEvaluatedError("no feed was found on which the original can be evaluated")
    feed, fault = next(((feed, fault) for feed, plan in plans.items() for fault in plan.faults), ("", None))
    wrong = checker.rounded.wrong()
    reason = fault.words if fault else f"{wrong[0]} is not what it was to be rounded to" if wrong else ""
    count = sum(plan.undefined for plan in plans.values())
    notes = [hanging_values(count)] if count else []
    seconds = time.perf_counter() - started
    return Verification(
        DIFFERENT if reason else WITHIN_ROUNDING,
        (),
        FeedSummary(tuple(plans)),
        difference(fault, feed) if fault and options.first_difference else None,
        seconds,
        reason,
        (f"compared in float64 alone, and the accuracy not measured: {why}", *notes),
        summary(list(plans.values()), bool(second.unrounded), 0, seconds),
    )


def _failure_of_its_own(second: OnnxFile, options: VerifyOptions, why: UnrunnableError) -> str:
    """What the runtime says about the second model, if that is something else than about the original."""
    done = "load"
    try:
        session = Session(second, options.settings)
        done = "run"
        if why.feed is not None and {spec.name for spec in session.inputs()} <= why.feed.values.keys():
            session.run(why.feed.values)
    except RunError as failure:
        if failure.out_of_memory:
            raise NotEvaluatedError(f"not enough memory: {failure}") from failure
        if failure.kind != why.failure.kind:
            return f"onnxruntime cannot {done} {second.name}: {failure}, but of the original it says: {why.failure}"
    return ""


def _plans(
    checker: PlanChecker, model: OnnxFile, inputs: list[ValueSpec], naming: dict[str, str], options: VerifyOptions
) -> dict[str, PlanCheck]:
    """By the description of the feed."""
    plans: dict[str, PlanCheck] = {}

    def accepts(feed: Feed) -> bool:
        try:
            plans[feed.description] = checker.check((feed.values, feed.values), naming)
        except NotEvaluatedError:
            return False
        return True

    if options.inputs is not None:
        for feed in user_feeds(options.inputs, inputs, []):
            accepts(feed)
        return plans
    generated = Planner(model, inputs, options.seed).feeds()
    candidate = next(generated, None)
    for _ in itertools.repeat(None, _ATTEMPTS):
        if candidate is None or len(plans) == (options.feeds or _FEEDS):
            break
        candidate = next_feed(generated, accepts(candidate))
    return plans


def _interface(model: ModelProto) -> tuple[list[ValueSpec], list[ValueSpec]]:
    held = {tensor.name for tensor in model.graph.initializer}
    return _specs(item for item in model.graph.input if item.name not in held), _specs(model.graph.output)


def _specs(values: Iterable[ValueInfoProto]) -> list[ValueSpec]:
    from onnx import helper

    specs = []
    for value in values:
        tensor = value.type.tensor_type
        if not tensor.elem_type:
            raise NotEvaluatedError(f"{value.name} is not a tensor")
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        dims = tuple(
            dim.dim_param or (dim.dim_value if dim.HasField("dim_value") else None) for dim in tensor.shape.dim
        )
        shape = dims if tensor.HasField("shape") else None
        specs.append(ValueSpec(value.name, f"tensor({dtype})", "tensor", dtype, shape))
    return specs
