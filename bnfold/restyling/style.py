"""What a user asks of ``restyle``, as one value."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase

from bnfold.errors import UsageError


class Norm(str, Enum):
    """Where a BN stands to the activation of a hidden linear layer."""

    BEFORE = "before"
    AFTER = "after"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """Where BN goes, and in which layers.

    ``only`` and ``exempt`` are patterns (``conv*``) of layer names. ``keep_bias`` leaves every bias as it is.
    ``momentum`` and ``epsilon`` are those of the BN that are new or moved; None for Keras's, or the moved one's, own.
    """

    norm: Norm = Norm.BEFORE
    on_input: bool = False
    only: tuple[str, ...] = ()
    exempt: tuple[str, ...] = ()
    keep_bias: bool = False
    momentum: float | None = None
    epsilon: float | None = None

    def __post_init__(self) -> None:
        if self.momentum is not None and not 0 <= self.momentum <= 1:
            raise UsageError(f"momentum is a number from 0 to 1, not {self.momentum}")
        if self.epsilon is not None and not 0 < self.epsilon < 1:
            raise UsageError(f"epsilon is a small positive number, not {self.epsilon}")

    def chooses(self, name: str) -> bool:
        """Is a layer to be restyled? ``name`` may be a path, ``backbone/conv_1``: its last part counts as well."""
        chosen = not self.only or any(_matches(name, pattern) for pattern in self.only)
        return chosen and not any(_matches(name, pattern) for pattern in self.exempt)

    def check(self, names: list[str]) -> None:
        """Raise UsageError for a pattern that fits none of the layers."""
        for pattern in (*self.only, *self.exempt):
            if not any(_matches(name, pattern) for name in names):
                raise UsageError(f"no layer of the model has a name like {pattern!r}")


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name.rsplit("/", 1)[-1], pattern)


def style_of(norm: str, **others: object) -> Style:
    """A style from plain values. Raises UsageError for a ``norm`` that there is not."""
    try:
        return Style(norm=Norm(norm), **others)  # type: ignore[arg-type]
    except ValueError as error:
        raise UsageError(f"norm is before, after or none, not {norm!r}") from error
