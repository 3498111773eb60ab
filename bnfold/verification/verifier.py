"""verify(): are two models equivalent, and if not, where do they part?"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from bnfold.errors import NotEquivalentError
from bnfold.isolation import Cause, Ended, Limits, Returned, call
from bnfold.temporary import temporary_folder
from bnfold.verification.answers import NotVerifiableError, UnrunnableError
from bnfold.verification.equivalence import compare
from bnfold.verification.exact.alone import verify_alone
from bnfold.verification.exact.judge import Float64Judge
from bnfold.verification.float64 import NotEvaluatedError
from bnfold.verification.localise import first_differing
from bnfold.verification.minimise import minimal
from bnfold.verification.noise.judge import NoiseJudge
from bnfold.verification.reference import Reference
from bnfold.verification.runtime.onnx_file import OnnxFile, unrounded_weights
from bnfold.verification.runtime.randomness import seeded
from bnfold.verification.runtime.sessions import Candidate
from bnfold.verification.verdict import DIFFERENT, NOT_VERIFIED, Verification
from bnfold.verification.verify_options import DEFAULTS, VerifyOptions

if TYPE_CHECKING:
    from pathlib import Path

    from bnfold.graph import Model
    from bnfold.verification.runtime.onnx_file import ModelLike


def verify(
    a: ModelLike,
    b: ModelLike,
    options: VerifyOptions = DEFAULTS,
    limits: Limits | None = None,
    unrounded: Model | None = None,
) -> Verification:
    """Compare model ``b`` with the original ``a`` on several feeds, onnxruntime's optimisations off.

    A model is a file's path, its bytes, a ModelProto or anything with ``as_onnx``. Both are evaluated in
    float64 and must agree there; and what onnxruntime computes with ``b`` must not be clearly farther from
    that than what it computes with ``a``. Where the options give a fixed tolerance it takes the place of
    this, and where a model cannot be evaluated in float64 rounding noise does (docs/verification.md).
    ``limits`` are those of ``options``, unless others of theirs are running already. ``unrounded`` is the model
    that was written as ``b``, if it is at hand: with its weights as they were before they were rounded.

    Raises ModelFileError for a file that cannot be read, UsageError for an unknown provider and
    for inputs that do not fit the model. Everything else is a verdict.
    """
    limits = limits or options.limits()
    started = time.perf_counter()
    with temporary_folder() as folder:
        first = OnnxFile.of(a, folder / "first", "the original")
        second = OnnxFile.of(b, folder / "second", "the second model")
        second.unrounded = second.unrounded or unrounded_weights(b if unrounded is None else unrounded)
        if limits:
            second.store_unrounded(folder / "unrounded.npz")
        found = call(verify_files, limits, first, second, options)
        return verification_of(found, time.perf_counter() - started)


def verification_of(outcome: Returned[Verification] | Ended, seconds: float) -> Verification:
    """What came of a comparison that took so many seconds: "not verified" where that did not come to its end."""
    if isinstance(outcome, Ended):
        return Verification(NOT_VERIFIED, seconds=seconds, reason=why_ended(outcome))
    return outcome.value


def why_ended(ended: Ended) -> str:
    """What there is instead of a verdict, in words."""
    if ended.cause is Cause.CRASH:
        return f"onnxruntime crashed on these models ({ended.signal.name if ended.signal else ''})"
    return ended.sentence()


def verify_files(first: OnnxFile, second: OnnxFile, options: VerifyOptions) -> Verification:
    """:func:`verify` for files, in this process and without limits."""
    started = time.perf_counter()
    with temporary_folder() as folder:
        try:
            second = seeded(second, folder / "second")
            found = _check(Reference(seeded(first, folder / "first"), options), second, options)
        except UnrunnableError as error:
            found = _alone(first, second, options, error)
        except NotVerifiableError as error:
            found = Verification(NOT_VERIFIED, reason=str(error))
    return replace(found, seconds=time.perf_counter() - started)


def _alone(first: OnnxFile, second: OnnxFile, options: VerifyOptions, why: UnrunnableError) -> Verification:
    """What can be said without the runtime, which cannot run the original."""
    try:
        return verify_alone(first, second, options, why)
    except NotEvaluatedError:
        return Verification(NOT_VERIFIED, reason=str(why))


def _check(reference: Reference, second: OnnxFile, options: VerifyOptions) -> Verification:
    """Outputs first; then, as far as asked for, the tensors inside."""
    noise = NoiseJudge(options.tolerance)
    fixed = options.tolerance.given and not options.strict
    judge = noise if fixed else Float64Judge(options, noise, second.unrounded)
    found = compare(reference, Candidate(second), judge)
    if found.exactness is not None:
        return found
    if found.equivalent and options.intermediates:
        inner = first_differing(reference.only(0), second, noise)
        if inner is not None:
            reason = "the outputs agree on these feeds, but a tensor inside does not"
            return replace(found, verdict=DIFFERENT, reason=reason, first_difference=inner)
    elif found.verdict == DIFFERENT and found.outputs and options.first_difference:
        telling = reference.only(worst_feed(found))
        return replace(found, first_difference=first_differing(telling, second, noise))
    return found


def worst_feed(found: Verification) -> int:
    """The index of the feed that shows a difference best, 0 if none does more than others."""
    descriptions = found.feeds.descriptions
    if found.first_difference is not None and found.first_difference.feed in descriptions:
        return descriptions.index(found.first_difference.feed)
    failed = [output for output in found.outputs if output.ok is False]
    worst = max(failed, key=lambda output: output.factor, default=None)
    return descriptions.index(worst.feed) if worst else 0


def smallest_failing(
    steps: Sequence[str],
    refold: Callable[[Collection[str]], ModelLike],
    *,
    original: ModelLike | None = None,
    options: VerifyOptions = DEFAULTS,
) -> tuple[str, ...]:
    """The smallest set of steps that by themselves make a model differ from the original.

    ``refold`` gives the model with only the named steps done; ``original`` is by default the one
    with none. Empty if the model with all steps done does not differ. Leaving these steps out cures
    one fault; where there are several, ask again about the rest. Runs in this process: the limits of
    ``options`` are the caller's to keep.

    Raises NotEquivalentError if the original cannot be run.
    """
    with temporary_folder() as folder:
        source = refold(()) if original is None else original
        file = OnnxFile.of(source, folder / "original", "the original")
        reference = _reference_or_failure(file, folder / "seeded", options)

        def outcome(kept: Collection[str], against: Reference | UnrunnableError, how: VerifyOptions) -> Verification:
            with temporary_folder() as place:
                model = refold(kept)
                candidate = OnnxFile.of(model, place, "the folded model")
                candidate.unrounded = unrounded_weights(model)
                if isinstance(against, UnrunnableError):
                    return _alone(file, candidate, how, against)
                return _check(against, seeded(candidate, place / "seeded"), how)

        whole = outcome(steps, reference, options)
        if whole.equivalent:
            return ()
        telling = reference
        if isinstance(reference, UnrunnableError):
            if whole.verdict == NOT_VERIFIED:
                raise NotEquivalentError(str(reference))
        elif whole.outputs:  # One feed that shows the fault is enough to follow it.
            telling = reference.only(worst_feed(whole))
        quick = replace(options, first_difference=False)
        return minimal(steps, lambda kept: not outcome(kept, telling, quick).equivalent)


def _reference_or_failure(file: OnnxFile, seeds: Path, options: VerifyOptions) -> Reference | UnrunnableError:
    """The original's answers, or why it has none. Raises NotEquivalentError where nothing can be compared."""
    try:
        return Reference(seeded(file, seeds), options)
    except UnrunnableError as error:
        return error
    except NotVerifiableError as error:
        raise NotEquivalentError(str(error)) from error
