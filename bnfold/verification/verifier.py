"""verify(): are two models equivalent, and if not, where do they part?"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from bnfold.errors import NotEquivalentError
from bnfold.isolation import Cause, Ended, Limits, Returned, call
from bnfold.temporary import temporary_folder
from bnfold.verification.answers import NotVerifiableError
from bnfold.verification.equivalence import compare, judge_for
from bnfold.verification.localise import first_differing
from bnfold.verification.minimise import minimal
from bnfold.verification.reference import Reference
from bnfold.verification.runtime.onnx_file import OnnxFile
from bnfold.verification.runtime.sessions import Candidate
from bnfold.verification.verdict import DIFFERENT, NOT_VERIFIED, Verification
from bnfold.verification.verify_options import DEFAULTS, VerifyOptions

if TYPE_CHECKING:
    from bnfold.verification.runtime.onnx_file import ModelLike


def verify(a: ModelLike, b: ModelLike, options: VerifyOptions = DEFAULTS, limits: Limits | None = None) -> Verification:
    """Compare model ``b`` with the original ``a`` on several feeds, onnxruntime's optimisations off.

    A model is a file's path, its bytes, a ModelProto or anything with ``as_onnx``. Outputs are
    equivalent if they differ by no more than a few times what rounding alone does to the original's
    (measured where the difference is more than a few rounding units), or by what the options allow.
    ``limits`` are those of ``options``, unless others of theirs are running already.

    Raises ModelFileError for a file that cannot be read, UsageError for an unknown provider and
    for inputs that do not fit the model. Everything else is a verdict.
    """
    limits = limits or options.limits()
    started = time.perf_counter()
    with temporary_folder() as folder:
        first = OnnxFile.of(a, folder / "first", "the original")
        second = OnnxFile.of(b, folder / "second", "the second model")
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
    try:
        found = _check(Reference(first, options), second, options)
    except NotVerifiableError as error:
        found = Verification(NOT_VERIFIED, reason=str(error))
    return replace(found, seconds=time.perf_counter() - started)


def _check(reference: Reference, second: OnnxFile, options: VerifyOptions) -> Verification:
    """Outputs first; then, as far as asked for, the tensors inside."""
    found = compare(reference, Candidate(second), options)
    if found.equivalent and options.intermediates:
        inner = first_differing(reference.only(0), second, judge_for(options))
        if inner is not None:
            reason = "the outputs agree on these feeds, but a tensor inside does not"
            return replace(found, verdict=DIFFERENT, reason=reason, first_difference=inner)
    elif found.verdict == DIFFERENT and found.outputs and options.first_difference:
        telling = reference.only(worst_feed(found))
        return replace(found, first_difference=first_differing(telling, second, judge_for(options)))
    return found


def worst_feed(found: Verification) -> int:
    """The index of the feed that shows a difference of the outputs best, 0 if they do not differ."""
    failed = [output for output in found.outputs if not output.ok]
    worst = max(failed, key=lambda output: output.factor, default=None)
    return found.feeds.descriptions.index(worst.feed) if worst else 0


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
        options = replace(options, first_difference=False)
        try:
            reference = Reference(file, options)
        except NotVerifiableError as error:
            raise NotEquivalentError(str(error)) from error

        def outcome(kept: Collection[str], against: Reference) -> Verification:
            with temporary_folder() as place:
                return _check(against, OnnxFile.of(refold(kept), place, "the folded model"), options)

        whole = outcome(steps, reference)
        if whole.equivalent:
            return ()
        # One feed that shows the fault is enough to follow it.
        telling = reference.only(worst_feed(whole)) if whole.outputs else reference
        return minimal(steps, lambda kept: not outcome(kept, telling).equivalent)
