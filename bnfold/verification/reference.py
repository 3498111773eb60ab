"""The original model: the feeds it accepts, what it answers, and how far rounding moves that."""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from bnfold.graph import Array
from bnfold.verification import noise
from bnfold.verification.compare import Deviation, deviation
from bnfold.verification.feeds import DISTRIBUTIONS, Feed, Inputs, generate, stored_feeds, user_feeds
from bnfold.verification.sessions import RunError, Session, Settings, ValueSpec
from bnfold.verification.shapes import Assignment, OpenDims, open_dims
from bnfold.verification.source import OnnxFile
from bnfold.verification.tracing import Hint, Tracer

#: The running time of the original on all generated feeds together that is aimed at, in seconds.
_BUDGET = 1.0
#: At least so many feeds, however dear one run is, and at most so many, however cheap.
_FEW, _MANY = 3, len(DISTRIBUTIONS)
#: No more feeds are added than are needed once the answers kept for comparison take this many bytes.
_KEPT_BYTES = 1 << 29
#: Sizes tried before the original is said to accept none.
_ATTEMPTS = 40


class NotVerifiableError(Exception):
    """The comparison cannot be made; the message says why, for people."""


@dataclass
class Answers:
    """The feeds that the original accepted, and its outputs on each, by name."""

    feeds: list[Feed] = field(default_factory=list)
    outputs: list[dict[str, Array]] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    inputs: list[ValueSpec] = field(default_factory=list)
    optional: list[ValueSpec] = field(default_factory=list)
    declared: list[ValueSpec] = field(default_factory=list)


class Reference:
    """The original, run once on every feed; any number of models can then be compared with it."""

    def __init__(
        self, model: OnnxFile, settings: Settings, inputs: Inputs | None = None, count: int | None = None
    ) -> None:
        """``inputs`` are the caller's own feeds, which replace generated ones; ``count`` fixes how many are generated.

        Raises NotVerifiableError if the original cannot be loaded or accepts no feed, UsageError for
        ``inputs`` that do not fit it.
        """
        self.model = model
        self.settings = settings
        self._noise: dict[int, list[dict[str, Deviation]] | None] = {}
        self._collect(inputs, count)

    def _collect(self, inputs: Inputs | None, count: int | None) -> None:
        try:
            session = Session(self.model, self.settings)
        except RunError as error:
            raise NotVerifiableError(f"onnxruntime cannot load {self.model.name}: {error}") from error
        self.answers = Answers(inputs=session.inputs(), optional=session.optional_inputs(), declared=session.outputs())
        self._check_types()
        if inputs is not None:
            for feed in user_feeds(inputs, self.answers.inputs, self.answers.optional):
                self._ask(session, feed)
        else:
            for feed in stored_feeds(self.model.path, self.answers.inputs):
                self._ask(session, feed)
        if inputs is None or count:
            self._generate(session, count)
        if not self.answers.feeds:
            _, words = self.answers.failed[0]
            raise NotVerifiableError(f"{self.model.name} itself fails on every feed, the first time with: {words}")

    def _check_types(self) -> None:
        for spec in self.answers.inputs:
            if spec.dtype is None or spec.kind not in ("tensor", "seq", "optional"):
                raise NotVerifiableError(f"no feeds can be made for input {spec.name!r} of type {spec.type}")

    def _ask(self, session: Session, feed: Feed) -> bool:
        """Run the original; whether it accepts the feed."""
        try:
            outputs = session.run(feed.values)
        except RunError as error:
            if error.out_of_memory:
                raise NotVerifiableError(f"not enough memory to run {self.model.name}: {error}") from error
            self.answers.failed.append((feed.description, str(error)))
            return False
        taken = {other.description for other in self.answers.feeds}
        name = next(name for count in itertools.count(1) if (name := _numbered(feed.description, count)) not in taken)
        self.answers.feeds.append(replace(feed, description=name))
        self.answers.outputs.append(outputs)
        return True

    def only(self, index: int) -> Reference:
        """The same with that feed alone."""
        single = copy.copy(self)
        single.answers = replace(self.answers, feeds=[self.answers.feeds[index]], outputs=[self.answers.outputs[index]])
        single._noise = {0: self._noise[index]} if index in self._noise else {}
        return single

    # -- generated feeds -------------------------------------------------------------------------

    def _generate(self, session: Session, count: int | None) -> None:
        specs = self.answers.inputs
        hints = self._hints()
        started = time.perf_counter()
        found = self._first_accepted(session, hints)
        if found is None:
            return
        dims, base = found
        seconds = time.perf_counter() - started
        wanted = count or _affordable(seconds, specs)
        distributions = list(DISTRIBUTIONS)
        sizes = self._sizes(dims, base)
        for index in range(1, wanted):
            if index >= _FEW and count is None and self._kept() > _KEPT_BYTES:
                break
            distribution = distributions[index % len(distributions)]
            assignment = next(sizes)
            if not self._ask(session, self._feed(hints, assignment, distribution, index)) and assignment is not base:
                self._rejected.append(assignment.label)
                self._ask(session, self._feed(hints, base, distribution, index))

    def _hints(self) -> dict[str, Hint]:
        """What the graph demands; not traced, and so nothing parsed, where every input is a float of known shape."""
        specs = self.answers.inputs
        plain = all(
            spec.shape is not None
            and spec.dtype is not None
            and spec.dtype.kind == "f"
            and all(isinstance(dim, int) for dim in spec.shape[1:])
            for spec in specs
        )
        if plain:
            return {spec.name: Hint() for spec in specs}
        tracer = Tracer(self.model.skeleton)
        return {spec.name: tracer.hint(spec.name) for spec in specs}

    def _first_accepted(self, session: Session, hints: Mapping[str, Hint]) -> tuple[OpenDims, Assignment] | None:
        """The first sizes, and with them the first feed, that the original accepts."""
        first = next(iter(DISTRIBUTIONS))
        for dims in open_dims(self.answers.inputs, hints):
            for tried, assignment in enumerate(dims.first_choices()):
                if tried >= _ATTEMPTS:
                    break
                if self._ask(session, self._feed(hints, assignment, first, 0)):
                    return dims, assignment
        return None

    def _sizes(self, dims: OpenDims, base: Assignment) -> Iterator[Assignment]:
        """Sizes for the second feed, the third, and so on: the accepted variations and the base in turn."""
        self._rejected: list[str] = []
        variations = list(dims.variations(base))
        while True:
            for assignment in variations:
                if assignment.label not in self._rejected:
                    yield assignment
            yield base

    def _feed(self, hints: Mapping[str, Hint], assignment: Assignment, distribution: str, index: int) -> Feed:
        return generate(self.answers.inputs, hints, assignment, distribution, (self.settings.seed, index))

    def _kept(self) -> int:
        return sum(value.nbytes for outputs in self.answers.outputs for value in outputs.values())

    # -- noise -----------------------------------------------------------------------------------

    def noise(self, feeds: Sequence[int]) -> dict[int, list[dict[str, Deviation]] | None]:
        """For each of those feeds the original's deviations from itself, one mapping a jittered copy.

        None for a feed on which that cannot be measured.
        """
        missing = [index for index in feeds if index not in self._noise]
        if missing:
            samples: dict[int, list[dict[str, Deviation]]] = {index: [] for index in missing}
            for sample in range(noise.SAMPLES):
                self._measure(sample, samples)
            self._noise.update({index: found or None for index, found in samples.items()})
        return {index: self._noise[index] for index in feeds}

    def _measure(self, sample: int, samples: dict[int, list[dict[str, Deviation]]]) -> None:
        content = noise.jittered_model(self.model, self.settings.seed, sample)
        if content is None:
            return
        try:
            session = Session(self.model, self.settings, content=content)
        except RunError:
            # The jitter made a model that does not load, say by a size computed from floats.
            return
        for index, found in samples.items():
            values = noise.jittered_feed(self.answers.feeds[index].values, self.settings.seed, sample)
            try:
                outputs = session.run(values)
            except RunError:
                continue
            compared = {
                name: deviation(value, outputs[name])
                for name, value in self.answers.outputs[index].items()
                if name in outputs
            }
            if not any(item.fault for item in compared.values()):
                found.append(compared)


def _affordable(seconds: float, specs: Sequence[ValueSpec]) -> int:
    """How many feeds fit the budget if one run takes ``seconds``; a model without inputs needs one."""
    if not specs:
        return 1
    return max(_FEW, min(_MANY, int(_BUDGET / max(seconds, 1e-6))))


def _numbered(description: str, count: int) -> str:
    return description if count == 1 else f"{description} ({count})"
