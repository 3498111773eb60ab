"""Are two models equivalent? Both are run in onnxruntime, its optimisations off, and compared."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bnfold.graph import Array
from bnfold.verification.compare import Deviation, Tolerance, any_finite, deviation, judge, suspicious
from bnfold.verification.feeds import Inputs
from bnfold.verification.reference import NotVerifiableError, Reference
from bnfold.verification.results import (
    DIFFERENT,
    EQUAL,
    NOT_VERIFIED,
    WITHIN_ROUNDING,
    FeedSummary,
    OutputCheck,
    Verification,
    joined,
)
from bnfold.verification.sessions import CPU, RunError, Session, Settings, ValueSpec, out_of_memory
from bnfold.verification.source import OnnxFile

if TYPE_CHECKING:
    from bnfold.verification.source import Source


@dataclass(frozen=True)
class MismatchError(Exception):
    """The second model differs in a way that needs no numbers."""

    reason: str


def verify(
    a: Source,
    b: Source,
    *,
    rtol: float | None = None,
    atol: float | None = None,
    inputs: Inputs | None = None,
    seed: int = 0,
    strict: bool = False,
    provider: str = CPU,
    threads: int | None = None,
    timeout: float | None = None,
    feeds: int | None = None,
    first_difference: bool = True,
) -> Verification:
    """Compare model ``b`` with the original ``a`` on several feeds.

    A model is a file's path, its bytes, a ModelProto or anything with ``as_onnx``. The outputs are
    equivalent if they differ by no more than a few times what rounding alone does to the original's
    (measured where the difference is more than a few rounding units); ``rtol`` (of an output's
    range) and ``atol`` replace that by a fixed tolerance; ``strict`` demands both. ``inputs`` are
    the caller's own feeds, in place of generated ones unless ``feeds`` says how many of those to
    add. ``timeout`` in seconds ends with the verdict "not verified".

    Raises ModelFileError for a file that cannot be read and UsageError for ``inputs`` that do not
    fit the model. Everything else is a verdict.
    """
    started = time.perf_counter()
    settings = Settings(provider, threads, seed)
    with tempfile.TemporaryDirectory(prefix="bnfold-") as folder:
        first = OnnxFile.of(a, Path(folder, "first"))
        second = OnnxFile.of(b, Path(folder, "second"))
        try:
            reference = Reference(first, settings, inputs, feeds)
        except NotVerifiableError as error:
            return Verification(NOT_VERIFIED, reason=str(error), seconds=time.perf_counter() - started)
        return compare(reference, second, Tolerance(rtol, atol, strict), started)


def compare(reference: Reference, model: OnnxFile, tolerance: Tolerance, started: float) -> Verification:
    """The verdict on one model against a reference; ``started`` is a time.perf_counter()."""
    answers = reference.answers
    summary = FeedSummary(tuple(feed.description for feed in answers.feeds), tuple(answers.failed))
    outputs: tuple[OutputCheck, ...] = ()
    try:
        outputs = _checks(reference, model, tolerance)
        verdict, reason = _verdict(outputs)
    except NotVerifiableError as error:
        verdict, reason = NOT_VERIFIED, str(error)
    except MismatchError as error:
        verdict, reason = DIFFERENT, error.reason
    return Verification(verdict, outputs, summary, seconds=time.perf_counter() - started, reason=reason, notes=())


def _verdict(outputs: Sequence[OutputCheck]) -> tuple[str, str]:
    faults = [output.reason for output in outputs if not output.ok]
    if faults:
        return DIFFERENT, joined(faults)
    return (EQUAL if all(output.identical for output in outputs) else WITHIN_ROUNDING), ""


def _checks(reference: Reference, model: OnnxFile, tolerance: Tolerance) -> tuple[OutputCheck, ...]:
    measured = _run_all(reference, model)
    for name, items in measured.items():
        if not any_finite(items):
            raise NotVerifiableError(f"{reference.model.name} computes nothing but NaN and infinity for {name}")
    doubtful = [
        index
        for index in range(len(reference.answers.feeds))
        if tolerance.strict or any(suspicious(items[index]) for items in measured.values() if not items[index].fault)
    ]
    if tolerance.given and not tolerance.strict:
        doubtful = []
    noise = reference.noise(doubtful)
    checks = []
    for name, items in measured.items():
        noises: list[list[Deviation] | None] = []
        for index in range(len(items)):
            samples = noise.get(index, [])
            noises.append(None if samples is None else [sample[name] for sample in samples])
        checks.append(judge(name, items, noises, tolerance))
    return tuple(checks)


def _run_all(reference: Reference, model: OnnxFile) -> dict[str, list[Deviation]]:
    """The deviations of every output, one a feed. The session is closed again when this returns."""
    try:
        session = Session(model, reference.settings)
    except RunError as error:
        if out_of_memory(error):
            raise NotVerifiableError(f"not enough memory to load {model.name}: {error}") from error
        raise MismatchError(f"onnxruntime cannot load {model.name}: {error}") from error
    answers = reference.answers
    feeding = _matched_inputs(reference, session)
    naming = _matched_outputs(answers.declared, session.outputs())
    measured: dict[str, list[Deviation]] = {}
    for feed, expected in zip(answers.feeds, answers.outputs, strict=True):
        values = {feeding[name]: value for name, value in feed.values.items() if name in feeding}
        try:
            found = session.run(values, list(naming.values()))
        except RunError as error:
            if out_of_memory(error):
                raise NotVerifiableError(f"not enough memory to run {model.name}: {error}") from error
            raise MismatchError(
                f"{model.name} fails on a feed that the original accepts ({feed.description}): {error}"
            ) from error
        for name, item in _deviations(expected, found, naming).items():
            measured.setdefault(name, []).append(item)
    return measured


def _deviations(expected: dict[str, Array], found: dict[str, Array], naming: dict[str, str]) -> dict[str, Deviation]:
    result = {}
    for name, value in expected.items():
        stem, bracket, rest = name.partition("[")
        other = found.get(naming.get(name) or naming.get(stem, stem) + bracket + rest)
        if other is None:
            raise MismatchError(f"{name} is missing from the second model's answer")
        result[name] = deviation(value, other)
    if len(found) != len(expected):
        raise MismatchError("the second model answers with sequences of another length")
    return result


def _matched_inputs(reference: Reference, session: Session) -> dict[str, str]:
    """The second model's name for each input of the first. Raises MismatchError."""
    answers = reference.answers
    theirs = {spec.name: spec for spec in session.inputs()}
    overridable = {spec.name: spec for spec in session.optional_inputs()}
    required = {spec.name: spec for spec in answers.inputs}
    if set(theirs) == set(required) or set(theirs) & set(required) or len(theirs) != len(required):
        matching = {name: name for name in required}
    else:
        matching = dict(zip(required, theirs, strict=True))
    for name, other in matching.items():
        spec = theirs.get(other) or overridable.get(other)
        if spec is None:
            raise MismatchError(f"the second model has no input {name!r}")
        _same_kind("input", required[name], spec)
    fed = set(matching.values())
    for name in theirs:
        if name not in fed:
            raise MismatchError(f"the second model has one more input, {name!r}")
    for spec in answers.optional:
        if spec.name in overridable:
            matching[spec.name] = spec.name
    for feed in answers.feeds:
        for name in feed.values:
            if name not in matching:
                raise MismatchError(f"{name!r} is given as an input but is a constant in the second model")
    return matching


def _matched_outputs(mine: Sequence[ValueSpec], theirs: Sequence[ValueSpec]) -> dict[str, str]:
    """The second model's name for each output of the first: by name, else by position. Raises MismatchError."""
    by_name = {spec.name: spec for spec in theirs}
    if all(spec.name in by_name for spec in mine):
        if len(mine) != len(theirs):
            extra = next(name for name in by_name if name not in {spec.name for spec in mine})
            raise MismatchError(f"the second model has one more output, {extra!r}")
        pairs = [(spec, by_name[spec.name]) for spec in mine]
    elif len(mine) == len(theirs):
        pairs = list(zip(mine, theirs, strict=True))
    else:
        lacking = next(spec.name for spec in mine if spec.name not in by_name)
        raise MismatchError(f"the second model has no output {lacking!r}")
    for spec, other in pairs:
        _same_kind("output", spec, other)
    return {spec.name: other.name for spec, other in pairs}


def _same_kind(role: str, mine: ValueSpec, theirs: ValueSpec) -> None:
    if mine.type != theirs.type:
        raise MismatchError(f"{role} {mine.name!r} is {theirs.type} in the second model, {mine.type} in the original")
    # An empty shape may stand for an unknown one.
    if mine.shape and theirs.shape and len(mine.shape) != len(theirs.shape):
        raise MismatchError(
            f"{role} {mine.name!r} has rank {len(theirs.shape)} in the second model, {len(mine.shape)} in the original"
        )
