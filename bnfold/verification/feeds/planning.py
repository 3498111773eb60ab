"""Which generated feeds to try next, from what the original accepted so far."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bnfold.verification.feeds.hints import Hint, Tracer
from bnfold.verification.feeds.sizes import Assignment, OpenDims, open_dims
from bnfold.verification.feeds.values import DISTRIBUTIONS, Feed, generate
from bnfold.verification.runtime.onnx_file import OnnxFile
from bnfold.verification.runtime.sessions import ValueSpec

#: Sizes tried before the original is said to accept none.
_ATTEMPTS = 60

#: Yields feeds without end, and is sent whether the original accepted each.
Plan = Generator[Feed, bool, None]


@dataclass(frozen=True, slots=True)
class Planner:
    """Generated feeds for a model with these inputs; the same ``seed`` gives the same feeds."""

    model: OnnxFile
    inputs: Sequence[ValueSpec]
    seed: int

    def feeds(self) -> Plan:
        """Distributions and sizes in turn. Ends at once if the original accepts none of the sizes tried."""
        hints = self._hints()
        found = yield from self._first_accepted(hints)
        if found is None:
            return
        dims, base = found
        rejected: set[str] = set()
        sizes = _sizes(dims, base, rejected)
        for index, distribution in enumerate(itertools.cycle(DISTRIBUTIONS)):
            if index == 0:
                continue  # The first feed was made in finding the sizes.
            assignment = next(sizes)
            accepted = yield self._feed(hints, assignment, distribution, index)
            if not accepted and assignment is not base:
                rejected.add(assignment.label)
                yield self._feed(hints, base, distribution, index)

    def _hints(self) -> dict[str, Hint]:
        """What the graph demands; it is not looked at where every input is a float of known shape."""
        plain = all(
            spec.shape is not None
            and spec.dtype is not None
            and spec.dtype.kind == "f"
            and all(isinstance(dim, int) for dim in spec.shape[1:])
            for spec in self.inputs
        )
        if plain:
            return {spec.name: Hint() for spec in self.inputs}
        tracer = Tracer(self.model.skeleton)
        return {spec.name: tracer.hint(spec.name) for spec in self.inputs}

    def _first_accepted(self, hints: Mapping[str, Hint]) -> Generator[Feed, bool, tuple[OpenDims, Assignment] | None]:
        """The first sizes, and with them the first feed, that the original accepts."""
        ranks = [[(dims, choice) for choice in dims.first_choices()] for dims in open_dims(self.inputs, hints)]
        # Where the rank is not known either, every rank gets its turn before the next size is tried.
        choices = (pair for turn in itertools.zip_longest(*ranks) for pair in turn if pair is not None)
        first = next(iter(DISTRIBUTIONS))
        for dims, assignment in itertools.islice(choices, _ATTEMPTS):
            if (yield self._feed(hints, assignment, first, 0)):
                return dims, assignment
        return None

    def _feed(self, hints: Mapping[str, Hint], assignment: Assignment, distribution: str, index: int) -> Feed:
        return generate(self.inputs, hints, assignment, distribution, (self.seed, index))


def next_feed(plan: Plan, accepted: bool) -> Feed | None:
    """The feed to try after one that was or was not accepted; None when there is nothing left to try."""
    try:
        return plan.send(accepted)
    except StopIteration:
        return None


def _sizes(dims: OpenDims, base: Assignment, rejected: set[str]) -> Iterator[Assignment]:
    """The variations that were not rejected, and the base, in turn."""
    variations = list(dims.variations(base))
    while True:
        for assignment in variations:
            if assignment.label not in rejected:
                yield assignment
        yield base
