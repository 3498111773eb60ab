"""How fast are two models in onnxruntime, all its optimisations on?"""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from bnfold.errors import UsageError
from bnfold.isolation import Ended, Limits, call
from bnfold.temporary import temporary_folder
from bnfold.verification.answers import NotVerifiableError
from bnfold.verification.reference import Reference
from bnfold.verification.runtime.interface import MismatchError, match_inputs
from bnfold.verification.runtime.onnx_file import OnnxFile
from bnfold.verification.runtime.sessions import RunError, Session
from bnfold.verification.verify_options import DEFAULTS, VerifyOptions

if TYPE_CHECKING:
    from bnfold.verification.runtime.onnx_file import ModelLike

#: Time spent on measuring unless the number of runs is given, in seconds.
_BUDGET = 2.0
_FEWEST, _MOST = 10, 200
_WARM_UP = 3


@dataclass(frozen=True, slots=True)
class Latency:
    """Median times of one inference in milliseconds, from ``runs`` alternating runs of each model."""

    first_ms: float
    second_ms: float
    runs: int
    threads: int
    feed: str

    @property
    def ratio(self) -> float:
        """How many times as fast the second model is."""
        return self.first_ms / self.second_ms

    def sentence(self) -> str:
        """``latency 13.2 ms → 1.6 ms, 8.3 times as fast (median of 50 alternating runs, 2 threads)``."""
        times = f"latency {self.first_ms:.3g} ms → {self.second_ms:.3g} ms, {self.ratio:.2f} times as fast"
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{times} (median of {self.runs} alternating runs, {threads}, feed: {self.feed})"

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "ratio": self.ratio, "sentence": self.sentence()}


def latency(
    a: ModelLike,
    b: ModelLike,
    options: VerifyOptions = DEFAULTS,
    *,
    runs: int | None = None,
    limits: Limits | None = None,
) -> Latency | Ended:
    """Time both models on one feed, in turn, so that a busy machine slows both alike.

    ``runs`` of each; by default as many as fit into about two seconds, at least ten. ``limits`` are
    those of ``options``, unless others of theirs are running already; Ended where they did not suffice.
    Raises UsageError if one of them cannot be run or they have different inputs.
    """
    with temporary_folder() as folder:
        first = OnnxFile.of(a, folder / "first", "the original")
        second = OnnxFile.of(b, folder / "second", "the second model")
        found = call(measure, limits or options.limits(), first, second, options, runs)
    return found if isinstance(found, Ended) else found.value


def measure(first: OnnxFile, second: OnnxFile, options: VerifyOptions, runs: int | None) -> Latency:
    """:func:`latency` for files, in this process and without limits."""
    settings = options.settings
    try:
        answers = Reference(first, replace(options, feeds=None if options.inputs is not None else 1)).answers
        feed = answers.feeds[0]
        sessions = [Session(model, settings, level="all", tuned=True) for model in (first, second)]
        matching = match_inputs(answers, sessions[1])
        renamed = {matching[name]: value for name, value in feed.values.items()}
        times = _measure(sessions, [dict(feed.values), renamed], runs)
    except (NotVerifiableError, MismatchError, RunError) as error:
        raise UsageError(f"the latency cannot be measured: {error}") from error
    medians = [statistics.median(series) * 1e3 for series in times]
    return Latency(medians[0], medians[1], len(times[0]), settings.thread_count(), feed.description)


def _measure(sessions: list[Session], feeds: list[dict[str, Any]], runs: int | None) -> list[list[float]]:
    """Seconds a run, one list a session."""
    warm = [[_timed(*pair) for pair in zip(sessions, feeds, strict=True)] for _ in range(_WARM_UP)]
    if runs is None:
        runs = max(_FEWEST, min(_MOST, int(_BUDGET / max(sum(warm[-1]), 1e-6))))
    rounds = [[_timed(*pair) for pair in zip(sessions, feeds, strict=True)] for _ in range(runs)]
    return [list(series) for series in zip(*rounds, strict=True)]


def _timed(session: Session, feed: dict[str, Any]) -> float:
    started = time.perf_counter()
    session.run(feed)
    return time.perf_counter() - started
