"""How two models are compared: everything but the models themselves, in one value."""

from __future__ import annotations

from dataclasses import dataclass, field

from bnfold.errors import UsageError
from bnfold.isolation import Limits
from bnfold.verification.feeds.values import Inputs
from bnfold.verification.output_check import Tolerance
from bnfold.verification.runtime.sessions import CPU, Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyOptions:
    """How models are verified. Raises UsageError for a negative number, and for counts of nothing.

    * ``rtol`` (of an output's range over all feeds) and ``atol`` (in its own unit) are a fixed tolerance, which is
      asked about in place of float64; ``strict`` demands both, with a default tolerance for each dtype.
    * ``inputs`` are the caller's own: values by name, a ``.npz``, for a model with one input an array or a
      ``.npy``, or a list of these. They replace generated feeds unless ``feeds`` says how many of those to add.
      Without them the model's own ``test_data_set_*`` folders are used, and random feeds are generated from
      ``seed``, as many as their cost allows or ``feeds``.
    * ``provider`` is onnxruntime's execution provider, ``threads`` how many threads it may use (None: as many as
      there are cores, at most four).
    * ``timeout`` (seconds) and ``memory`` (bytes of address space) run the models in a process of its own, and
      hold for all of it: the comparison, the search for the steps at fault, the latency. What does not come to
      its end within them, or crashes there, is "not verified".
    * ``first_difference`` searches for the first tensor that differs where outputs do. ``intermediates`` also
      compares, on the first feed, every tensor that has the same name in both models, which shows faults too small
      or too rare to reach an output; only for a second model that is known to keep the meaning of names.
    """

    rtol: float | None = None
    atol: float | None = None
    inputs: Inputs | None = field(default=None, compare=False)
    seed: int = 0
    strict: bool = False
    provider: str = CPU
    threads: int | None = None
    timeout: float | None = None
    memory: int | None = None
    feeds: int | None = None
    first_difference: bool = True
    intermediates: bool = False

    def __post_init__(self) -> None:
        for name in ("rtol", "atol", "seed", "timeout", "memory"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise UsageError(f"{name} must not be negative: {value}")
        for name in ("threads", "feeds"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} must be at least 1: {value}")

    @property
    def settings(self) -> Settings:
        """Where and how sessions run."""
        return Settings(self.provider, self.threads, self.seed)

    @property
    def tolerance(self) -> Tolerance:
        """What is allowed beyond or in place of rounding."""
        return Tolerance(self.rtol, self.atol, self.strict)

    def limits(self) -> Limits:
        """The limits of time and memory, the time running from now on."""
        return Limits(seconds=self.timeout, memory=self.memory)


#: What holds where nothing else is said.
DEFAULTS = VerifyOptions()
