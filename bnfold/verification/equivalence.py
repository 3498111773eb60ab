"""One model held against the original, output by output."""

from __future__ import annotations

import time
from collections.abc import Sequence

from bnfold.graph import Array
from bnfold.verification.answers import NotVerifiableError
from bnfold.verification.comparison import Comparison, Judge, Outputs
from bnfold.verification.deviation import Measured, deviation
from bnfold.verification.reference import Reference
from bnfold.verification.runtime.interface import Interface, MismatchError, match
from bnfold.verification.runtime.sessions import Candidate, RunError, Session
from bnfold.verification.verdict import (
    DIFFERENT,
    EQUAL,
    NOT_VERIFIED,
    WITHIN_ROUNDING,
    FeedSummary,
    Judgement,
    OutputCheck,
    Verification,
)


def compare(reference: Reference, candidate: Candidate, judge: Judge) -> Verification:
    """The verdict of a judge on one candidate against a reference."""
    started = time.perf_counter()
    answers = reference.answers
    found, notes = Judgement(()), list(answers.notes)
    try:
        outputs, interface, told = _outputs(reference, candidate)
        notes += [note for note in told if note not in notes]
        measured = _deviations(reference, outputs)
        _check_informative(reference, measured)
        case = Comparison(reference, candidate, measured, outputs, interface)
        found = judge.judge(case)
        verdict, reason = (found.verdict, found.reason) if found.verdict else _verdict(found.checks)
    except NotVerifiableError as error:
        verdict, reason = NOT_VERIFIED, str(error)
    except MismatchError as error:
        verdict, reason = DIFFERENT, str(error)
    return Verification(
        verdict,
        found.checks,
        FeedSummary(tuple(feed.description for feed in answers.feeds), tuple(answers.failed)),
        found.first_difference,
        time.perf_counter() - started,
        reason,
        (*notes, *found.notes),
        found.exactness,
    )


def _verdict(outputs: Sequence[OutputCheck]) -> tuple[str, str]:
    faults = [output.reason for output in outputs if not output.ok]
    if faults:
        return DIFFERENT, "; ".join(faults)
    return (EQUAL if all(output.identical for output in outputs) else WITHIN_ROUNDING), ""


def _check_informative(reference: Reference, measured: Measured) -> None:
    for name, items in measured.items():
        if not any(item.informative for item in items.values()):
            raise NotVerifiableError(f"{reference.model.name} computes nothing but NaN and infinity for {name}")


def _outputs(reference: Reference, candidate: Candidate) -> tuple[list[dict[str, Array]], Interface, list[str]]:
    """The candidate's outputs on every feed, which they are, and what is to be known of how it runs.

    The session is closed again when this returns.
    """
    answers = reference.answers
    session = _opened(candidate, reference)
    interface = match(answers, session)
    outputs = []
    for feed, expected in zip(answers.feeds, answers.outputs, strict=True):
        try:
            values = {interface.inputs[name]: value for name, value in feed.values.items()}
            found = session.run(values, interface.outputs)
        except RunError as error:
            if error.out_of_memory:
                raise NotVerifiableError(f"not enough memory to run {candidate.name}: {error}") from error
            accepted = f"a feed that the original accepts ({feed.description})"
            raise MismatchError(f"{candidate.name} fails on {accepted}: {error}") from error
        if found.keys() != expected.keys():
            raise MismatchError(f"sequences or maps in the answer have other members on feed {feed.description!r}")
        outputs.append(found)
    return outputs, interface, session.notes


def _deviations(reference: Reference, outputs: Sequence[Outputs]) -> Measured:
    """The deviations of every output by feed."""
    measured: Measured = {}
    for index, (expected, found) in enumerate(zip(reference.answers.outputs, outputs, strict=True)):
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
