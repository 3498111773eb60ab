"""verify(): are two models equivalent, and if not, where do they part?"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from bnfold.errors import NotEquivalentError, UsageError
from bnfold.temporary import temporary_folder
from bnfold.verification import apart
from bnfold.verification.answers import NotVerifiableError
from bnfold.verification.equivalence import Candidate, compare
from bnfold.verification.feeds.values import Inputs
from bnfold.verification.localise import first_differing
from bnfold.verification.minimise import minimal
from bnfold.verification.reference import Reference
from bnfold.verification.results import DIFFERENT, NOT_VERIFIED, Verification
from bnfold.verification.rounding.judge import Tolerance
from bnfold.verification.runtime.onnx_file import OnnxFile
from bnfold.verification.runtime.sessions import CPU, Settings

if TYPE_CHECKING:
    from bnfold.verification.runtime.onnx_file import Source


@dataclass(frozen=True, slots=True)
class Options:
    """The arguments of :func:`verify` other than the models and the inputs."""

    rtol: float | None = None
    atol: float | None = None
    seed: int = 0
    strict: bool = False
    provider: str = CPU
    threads: int | None = None
    feeds: int | None = None
    first_difference: bool = True
    intermediates: bool = False

    def __post_init__(self) -> None:
        for name in ("rtol", "atol", "seed"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise UsageError(f"{name} must not be negative: {value}")
        for name in ("threads", "feeds"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} must be at least 1: {value}")

    @property
    def settings(self) -> Settings:
        return Settings(self.provider, self.threads, self.seed)

    @property
    def tolerance(self) -> Tolerance:
        return Tolerance(self.rtol, self.atol, self.strict)


DEFAULTS = Options()


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
    memory: int | None = None,
    feeds: int | None = None,
    first_difference: bool = True,
    intermediates: bool = False,
) -> Verification:
    """Compare model ``b`` with the original ``a`` on several feeds, onnxruntime's optimisations off.

    A model is a file's path, its bytes, a ModelProto or anything with ``as_onnx``. Outputs are
    equivalent if they differ by no more than a few times what rounding alone does to the original's
    (measured where the difference is more than a few rounding units). ``rtol`` (of an output's range
    over all feeds) and ``atol`` (in its unit) replace that by a fixed tolerance; ``strict`` demands
    both, with a default tolerance for each dtype.

    ``inputs`` are the caller's own: values by name, a ``.npz``, for a model with one input a
    ``.npy``, or a list of these. They replace generated feeds unless ``feeds`` says how many of
    those to add. Without them the model's own ``test_data_set_*`` folders are used and random feeds
    are generated, as many as their cost allows or ``feeds``.

    ``intermediates`` also compares, on the first feed, every tensor that has the same name in both
    models, which shows faults too small or too rare to reach an output; only for a ``b`` that is known
    to keep the meaning of names. ``first_difference`` searches for the first tensor that differs.

    ``timeout`` (seconds) and ``memory`` (bytes of address space) run the comparison in a process of
    its own; overrunning them, or a crash of the runtime, ends with the verdict "not verified".

    Raises ModelFileError for a file that cannot be read, UsageError for an unknown ``provider`` and
    for ``inputs`` that do not fit the model. Everything else is a verdict.
    """
    options = Options(rtol, atol, seed, strict, provider, threads, feeds, first_difference, intermediates)
    started = time.perf_counter()
    with temporary_folder() as folder:
        first = OnnxFile.of(a, folder / "first", "the original")
        second = OnnxFile.of(b, folder / "second", "the second model")
        if timeout is None and memory is None:
            return verify_files(first, second, inputs, options)
        try:
            reply = apart.run("verify", [first, second], inputs, asdict(options), folder, timeout, memory)
        except apart.EndedError as error:
            return Verification(NOT_VERIFIED, seconds=time.perf_counter() - started, reason=str(error))
        return Verification.from_dict(reply)


def verify_files(first: OnnxFile, second: OnnxFile, inputs: Inputs | None, options: Options) -> Verification:
    """:func:`verify` for files, in this process."""
    started = time.perf_counter()
    try:
        found = _check(Reference(first, options.settings, inputs, options.feeds), second, options)
    except NotVerifiableError as error:
        found = Verification(NOT_VERIFIED, reason=str(error))
    return replace(found, seconds=time.perf_counter() - started)


def _check(reference: Reference, second: OnnxFile, options: Options) -> Verification:
    """Outputs first; then, as far as asked for, the tensors inside."""
    found = compare(reference, Candidate(second), options.tolerance)
    if found.equivalent and options.intermediates:
        inner = first_differing(reference.only(0), second, options.tolerance)
        if inner is not None:
            reason = "the outputs agree on these feeds, but a tensor inside does not"
            return replace(found, verdict=DIFFERENT, reason=reason, first_difference=inner)
    elif found.verdict == DIFFERENT and found.outputs and options.first_difference:
        telling = reference.only(worst_feed(found))
        return replace(found, first_difference=first_differing(telling, second, options.tolerance))
    return found


def worst_feed(found: Verification) -> int:
    """The index of the feed that shows a difference of the outputs best, 0 if they do not differ."""
    failed = [output for output in found.outputs if not output.ok]
    worst = max(failed, key=lambda output: output.factor, default=None)
    return found.feeds.descriptions.index(worst.feed) if worst else 0


def smallest_failing(
    steps: Sequence[str],
    refold: Callable[[Collection[str]], Source],
    *,
    original: Source | None = None,
    inputs: Inputs | None = None,
    options: Options = DEFAULTS,
) -> tuple[str, ...]:
    """The smallest set of steps that by themselves make a model differ from the original.

    ``refold`` gives the model with only the named steps done; ``original`` is by default the one
    with none. Empty if the model with all steps done does not differ. Leaving these steps out cures
    one fault; where there are several, ask again about the rest.

    Raises NotEquivalentError if the original cannot be run.
    """
    with temporary_folder() as folder:
        source = refold(()) if original is None else original
        file = OnnxFile.of(source, folder / "original", "the original")
        options = replace(options, first_difference=False)
        try:
            reference = Reference(file, options.settings, inputs, options.feeds)
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
