"""Two models evaluated in float64 side by side, brought together again at every tensor that both have.

What is carried on from such a tensor is the original's value, in both. So every rewritten part is judged by
itself, on the original's values: neither rounding nor a decision on an edge adds up over the network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from bnfold.verification.float64 import Call, Evaluator, Hook
from bnfold.verification.float64.registry import Value

#: Sees a tensor's name, the operator that computes it in the second model, and the values of both models;
#: says whether the first model's value is to be carried on.
Examine = Callable[[str, Call, Value, Value], bool]


class Original(Protocol):
    """Where the first model's values come from."""

    def take(self, name: str) -> Value:
        """The value of a tensor; each is asked for once."""

    def finish(self) -> dict[str, Value]:
        """The outputs."""


def lockstep(
    original: Original, second: Evaluator, feed: Mapping[str, Any], shared: set[str], examine: Examine, hook: Hook
) -> tuple[dict[str, Value], dict[str, Value]]:
    """The outputs of both models. ``shared`` are the tensors to meet at; ``hook`` acts on the second model.

    Raises NotEvaluatedError.
    """
    trace = second.trace(feed, hook)
    carried = None
    while True:
        try:
            call, values = trace.send(carried)
        except StopIteration as end:
            return original.finish(), end.value
        carried = [
            _met(name, call, original, value, examine) if name in shared else value
            for name, value in zip(call.outputs, values, strict=False)
        ]


def _met(name: str, call: Call, original: Original, value: Value, examine: Examine) -> Value:
    mine = original.take(name)
    return mine if examine(name, call, mine, value) else value


class Evaluated:
    """The first model, evaluated as far as what was asked for; it keeps what will be.

    ``recorded`` are the values that were handed out, as far as ``memory`` (bytes) allows; None where it did not.
    """

    def __init__(self, model: Evaluator, feed: Mapping[str, Any], shared: set[str], memory: int = 0) -> None:
        self._trace = model.trace(feed)
        self._shared = shared
        self._waiting: dict[str, Value] = {}
        self._outputs: dict[str, Value] | None = None
        self._memory = memory
        self.recorded: dict[str, Value] | None = {}

    def take(self, name: str) -> Value:
        while name not in self._waiting:
            self._advance()
        value = self._waiting.pop(name)
        if self.recorded is not None:
            self._memory -= value.nbytes if isinstance(value, np.ndarray) else 0
            self.recorded[name] = value
            if self._memory < 0:
                self.recorded = None
        return value

    def finish(self) -> dict[str, Value]:
        while self._outputs is None:
            self._advance()
        return self._outputs

    def _advance(self) -> None:
        try:
            call, values = next(self._trace)
        except StopIteration as end:
            self._outputs = end.value
            return
        for name, value in zip(call.outputs, values, strict=False):
            if name in self._shared:
                self._waiting[name] = value


@dataclass(frozen=True, slots=True)
class Recorded:
    """What an evaluation gave, once more."""

    values: Mapping[str, Value]
    outputs: dict[str, Value]

    def take(self, name: str) -> Value:
        return self.values[name]

    def finish(self) -> dict[str, Value]:
        return self.outputs
