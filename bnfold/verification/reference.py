"""The original model: the feeds it accepts, what it answers, and how far rounding moves that."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from bnfold.graph import Array
from bnfold.verification.answers import Answers, NotVerifiableError, UnrunnableError
from bnfold.verification.feeds.planning import Planner, next_feed
from bnfold.verification.feeds.values import DISTRIBUTIONS, Feed, Inputs, stored_feeds, user_feeds
from bnfold.verification.noise.jitter import FEW_SAMPLES, Noise, Samples
from bnfold.verification.runtime.onnx_file import OnnxFile
from bnfold.verification.runtime.sessions import RunError, Session
from bnfold.verification.verify_options import DEFAULTS, VerifyOptions

#: The running time of the original on all generated feeds together that is aimed at, in seconds.
_BUDGET = 0.5
#: At least so many feeds, however expensive one run is, and at most so many, however cheap.
_FEW, _MANY = 3, len(DISTRIBUTIONS)
#: Beyond the fewest, no feeds are added once the answers kept for comparison take this many bytes.
_KEPT_BYTES = 1 << 29


class Reference:
    """The original, run once on every feed; any number of models can then be compared with it."""

    def __init__(self, model: OnnxFile, options: VerifyOptions = DEFAULTS) -> None:
        """Raises UnrunnableError if the runtime cannot load the original or fails on every feed,
        NotVerifiableError if no feed can be made, and UsageError for inputs of the caller's that do not fit it.
        """
        self.model = model
        self.settings = options.settings
        self._tensors: tuple[str, ...] = ()
        self._noise: dict[int, Samples] = {}
        self._sampled: dict[int, int] = {}
        self._first_failure: tuple[Feed, RunError] | None = None
        try:
            session = Session(model, self.settings)
        except RunError as error:
            raise UnrunnableError(f"onnxruntime cannot load {model.name}: {error}", error) from error
        self.answers = Answers(session.inputs(), session.optional_inputs(), session.outputs(), notes=session.notes)
        self._check_types()
        self._collect(session, options.inputs, options.feeds)

    def only(self, index: int) -> Reference:
        """The same with that feed alone."""
        single = copy.copy(self)
        mine = self.answers
        single.answers = replace(
            mine, feeds=[mine.feeds[index]], outputs=[mine.outputs[index]], seconds=[mine.seconds[index]]
        )
        single._noise = {0: list(self._noise[index])} if index in self._noise else {}
        single._sampled = {0: self._sampled[index]} if index in self._sampled else {}
        return single

    def inside(self, tensors: Mapping[str, Array]) -> Reference:
        """The same with tensors inside the model, and their values on the first feed, in place of its outputs."""
        inner = self.only(0)
        inner._tensors = tuple(tensors)
        inner.answers = replace(inner.answers, outputs=[dict(tensors)])
        inner._noise, inner._sampled = {}, {}
        return inner

    def noise(self, feeds: Sequence[int], count: int = FEW_SAMPLES) -> dict[int, Samples | None]:
        """For each of those feeds the original's deviations from itself, from ``count`` jittered copies.

        None where they cannot be measured. What was measured once is kept.
        """
        for done in sorted({self._sampled.get(index, 0) for index in feeds}):
            due = [index for index in feeds if self._sampled.get(index, 0) == done < count]
            if due:
                measured = self._meter().jittered(self.answers, due, range(done, count))
                for index, samples in measured.items():
                    self._noise.setdefault(index, []).extend(samples)
                    self._sampled[index] = count
        return {index: self._noise[index] or None for index in feeds}

    def _meter(self) -> Noise:
        return Noise(self.model, self.settings, self._tensors)

    def _check_types(self) -> None:
        for spec in self.answers.inputs:
            if spec.dtype is None or spec.kind not in ("tensor", "seq", "optional"):
                raise NotVerifiableError(f"no feeds can be made for input {spec.name!r} of type {spec.type}")

    def _collect(self, session: Session, inputs: Inputs | None, count: int | None) -> None:
        answers = self.answers
        if inputs is not None:
            given = user_feeds(inputs, answers.inputs, answers.optional)
        else:
            given = list(stored_feeds(self.model.folder, answers.inputs))
        for feed in given:
            self._ask(session, feed)
        if inputs is None or count:
            self._generate(session, count)
        if self._first_failure and not answers.feeds:
            feed, failure = self._first_failure
            words = f"{self.model.name} itself fails on every feed, the first time with: {failure}"
            raise UnrunnableError(words, failure, feed)
        if not answers.feeds:
            raise NotVerifiableError(f"the inputs of {self.model.name} are too large to make feeds for them")

    def _generate(self, session: Session, count: int | None) -> None:
        plan = Planner(self.model, self.answers.inputs, self.settings.seed).feeds()
        before = len(self.answers.feeds)
        feed = next(plan, None)
        while feed is not None and self._wants_more(len(self.answers.feeds) - before, count):
            feed = next_feed(plan, self._ask(session, feed))

    def _wants_more(self, generated: int, count: int | None) -> bool:
        """Whether to go on: cheap models get many feeds, expensive ones few, one without inputs one."""
        if not self.answers.inputs:
            return generated < 1
        if count is not None or generated < _FEW:
            return generated < (count or _FEW)
        within_budget = sum(self.answers.seconds) < _BUDGET and self.answers.kept_bytes < _KEPT_BYTES
        return generated < _MANY and within_budget

    def _ask(self, session: Session, feed: Feed) -> bool:
        """Run the original; whether it accepts the feed."""
        started = time.perf_counter()
        try:
            outputs = session.run(feed.values)
        except RunError as error:
            if error.out_of_memory:
                raise NotVerifiableError(f"not enough memory to run {self.model.name}: {error}") from error
            self.answers.failed.append((feed.description, str(error)))
            self._first_failure = self._first_failure or (feed, error)
            return False
        self.answers.add(feed, outputs, time.perf_counter() - started)
        return True
