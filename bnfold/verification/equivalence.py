"""One model held against the original, output by output."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bnfold.verification.answers import NotVerifiableError
from bnfold.verification.reference import Reference
from bnfold.verification.results import (
    DIFFERENT,
    EQUAL,
    NOT_VERIFIED,
    WITHIN_ROUNDING,
    FeedSummary,
    OutputCheck,
    Verification,
)
from bnfold.verification.rounding.deviation import Deviation, deviation
from bnfold.verification.rounding.judge import Tolerance, judge, suspicious, undecided, unexplained
from bnfold.verification.rounding.noise import MANY_SAMPLES, Samples
from bnfold.verification.runtime.interface import MismatchError, match_inputs, match_outputs
from bnfold.verification.runtime.onnx_file import OnnxFile
from bnfold.verification.runtime.sessions import RunError, Session, Settings

#: Deviations by the name of the output and the index of the feed.
Measured = dict[str, dict[int, Deviation]]


@dataclass(frozen=True, slots=True)
class Candidate:
    """What is compared with the original: a model, and how the runtime is to optimise it."""

    model: OnnxFile
    level: str = "disabled"
    disabled_optimizers: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.model.name

    def open(self, settings: Settings) -> Session:
        """Load it. Raises RunError."""
        return Session(self.model, settings, level=self.level, disabled_optimizers=self.disabled_optimizers)


def compare(reference: Reference, candidate: Candidate, tolerance: Tolerance) -> Verification:
    """The verdict on one candidate against a reference."""
    started = time.perf_counter()
    answers = reference.answers
    outputs: tuple[OutputCheck, ...] = ()
    notes: tuple[str, ...] = ()
    try:
        outputs, notes = _checks(reference, candidate, tolerance)
        verdict, reason = _verdict(outputs)
    except NotVerifiableError as error:
        verdict, reason = NOT_VERIFIED, str(error)
    except MismatchError as error:
        verdict, reason = DIFFERENT, str(error)
    return Verification(
        verdict,
        outputs,
        FeedSummary(tuple(feed.description for feed in answers.feeds), tuple(answers.failed)),
        seconds=time.perf_counter() - started,
        reason=reason,
        notes=(*answers.notes, *notes),
    )


def _verdict(outputs: Sequence[OutputCheck]) -> tuple[str, str]:
    faults = [output.reason for output in outputs if not output.ok]
    if faults:
        return DIFFERENT, "; ".join(faults)
    return (EQUAL if all(output.identical for output in outputs) else WITHIN_ROUNDING), ""


def _checks(
    reference: Reference, candidate: Candidate, tolerance: Tolerance
) -> tuple[tuple[OutputCheck, ...], tuple[str, ...]]:
    """One check for each output, and remarks."""
    measured = _deviations(reference, candidate)
    for name, items in measured.items():
        if not any(item.informative for item in items.values()):
            raise NotVerifiableError(f"{reference.model.name} computes nothing but NaN and infinity for {name}")
    noise = noise_for(reference, measured, tolerance)
    return judged(reference, measured, noise, tolerance), tuple(_remarks(measured, noise))


def judged(
    reference: Reference, measured: Measured, noise: Mapping[int, Samples | None], tolerance: Tolerance
) -> tuple[OutputCheck, ...]:
    """One check for each output or inner tensor of a reference, in the order of ``measured``."""
    checks = []
    for name, items in measured.items():
        noises = [_of_output(noise.get(index, []), name) for index in items]
        feeds = [reference.answers.feeds[index].description for index in items]
        checks.append(judge(name, list(items.values()), noises, tolerance, feeds))
    return tuple(checks)


def noise_for(reference: Reference, measured: Measured, tolerance: Tolerance) -> dict[int, Samples | None]:
    """The original's noise on the feeds that call for it, measured further where that may change the verdict."""
    if tolerance.given and not tolerance.strict:
        return {}
    items = [(name, index, item) for name, by_feed in measured.items() for index, item in by_feed.items()]
    found = reference.noise(sorted({index for _, index, item in items if suspicious(item, tolerance.strict)}))
    beyond = {index for name, index, item in items if unexplained(item, _of_output(found.get(index, []), name) or ())}
    if beyond:
        found.update(reference.exact_noise(sorted(beyond)))
    open_ones = {index for name, index, item in items if undecided(item, _of_output(found.get(index, []), name) or ())}
    if open_ones:
        found.update(reference.noise(sorted(open_ones), MANY_SAMPLES))
    return found


def _of_output(samples: Samples | None, name: str) -> list[Deviation] | None:
    return None if samples is None else [sample[name] for sample in samples]


def _remarks(measured: Measured, noise: Mapping[int, Samples | None]) -> Iterator[str]:
    for name, items in measured.items():
        low, high = min(item.low for item in items.values()), max(item.high for item in items.values())
        if low == high and len(items) > 1:
            yield f"{name} is {low:g} throughout on every feed, so that it cannot show a difference"
    if None in noise.values():
        yield "the original's rounding noise could not be measured: a fixed tolerance was used"


def _deviations(reference: Reference, candidate: Candidate) -> Measured:
    """The deviations of every output by feed. The session is closed again when this returns."""
    answers = reference.answers
    session = _opened(candidate, reference)
    feeding = match_inputs(answers, session)
    naming = match_outputs(answers.declared, session.outputs())
    measured: Measured = {}
    for index, (feed, expected) in enumerate(zip(answers.feeds, answers.outputs, strict=True)):
        try:
            found = session.run({feeding[name]: value for name, value in feed.values.items()}, naming)
        except RunError as error:
            if error.out_of_memory:
                raise NotVerifiableError(f"not enough memory to run {candidate.name}: {error}") from error
            accepted = f"a feed that the original accepts ({feed.description})"
            raise MismatchError(f"{candidate.name} fails on {accepted}: {error}") from error
        if found.keys() != expected.keys():
            raise MismatchError(f"sequences or maps in the answer have other members on feed {feed.description!r}")
        for name, value in expected.items():
            measured.setdefault(name, {})[index] = deviation(value, found[name])
    return measured


def _opened(candidate: Candidate, reference: Reference) -> Session:
    try:
        return candidate.open(reference.settings)
    except RunError as error:
        if error.out_of_memory:
            raise NotVerifiableError(f"not enough memory to load {candidate.name}: {error}") from error
        raise MismatchError(f"onnxruntime cannot load {candidate.name}: {error}") from error
