"""What ``restyle`` changes, as values."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bnfold.graph import ModelGraph


class Kind(str, Enum):
    """The kinds of change."""

    ADD = "add"
    MOVE = "move"
    REMOVE = "remove"
    BIAS_GOES = "bias goes"
    BIAS_COMES = "bias comes"
    PARTED = "parted"


@dataclass(frozen=True, slots=True)
class Change:
    """One change: the linear layer (or input) it concerns, the BN, and what is done.

    ``exact`` means that the model computes what it did; else ``reason`` says why it has to be trained first.
    """

    kind: Kind
    layer: str
    sentence: str
    norm: str = ""
    reason: str = ""

    @property
    def exact(self) -> bool:
        return not self.reason

    def to_dict(self) -> dict[str, object]:
        """Plain data for JSON."""
        return {
            "kind": self.kind.value,
            "layer": self.layer,
            "batchnorm": self.norm,
            "class": "exact" if self.exact else "needs training",
            "sentence": self.sentence,
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True)
class LeftAlone:
    """A layer that gets no BN whatever the style, or keeps the one inside it, and why."""

    layer: str
    reason: str

    def to_dict(self) -> dict[str, str]:
        return {"layer": self.layer, "reason": self.reason}


@dataclass(frozen=True, slots=True)
class Restyled:
    """A graph in another style, and how it came about.

    ``exact_part`` is the graph after the changes that are exact alone, where there are others: what can be compared
    with the original. ``norms`` are the names of the BN operators that are new or moved: they do nothing yet.
    """

    graph: ModelGraph
    changes: tuple[Change, ...] = ()
    left: tuple[LeftAlone, ...] = ()
    exact_part: ModelGraph | None = None
    norms: tuple[str, ...] = ()
    before: tuple[str, ...] = field(default=())
    after: tuple[str, ...] = field(default=())

    @property
    def inexact(self) -> tuple[Change, ...]:
        """The changes that need training."""
        return tuple(change for change in self.changes if not change.exact)
