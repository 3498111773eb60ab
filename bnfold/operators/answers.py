"""The shape of the answers: what an operator becomes, and what arrives on its other side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from bnfold.affine import Affine
from bnfold.graph import Param
from bnfold.records import record
from bnfold.refusal import Refusal


class Placeholder(Enum):
    """What stands among the inputs of an operator to be made for something that has no name yet."""

    #: The tensor that flows in; in a row of new operators, the output of the one before.
    DATA = "data"


@dataclass(frozen=True, slots=True)
class NewOp:
    """An operator to be made: its constant inputs have no names yet."""

    type: str
    inputs: tuple[Param | str | Placeholder, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    domain: str = ""


@record
class NewWeights:
    """The operator stays, with new constants in some slots, other attributes or another type."""

    inputs: Mapping[int, Param | NewOp | str] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    #: None where the type stays.
    type: str | None = field(default=None, kw_only=True)
    #: Which weight axis carries the channels, per slot: the rounding check looks at each channel.
    channel_axis: Mapping[int, int] = field(default_factory=dict, kw_only=True)


@record
class NewAffine:
    """The operator, itself an affine, becomes another one, in its cheapest form."""

    affine: Affine


@record
class WithResidual:
    """New weights, and an affine on the output that they could not take in: a MatMul has no bias."""

    weights: NewWeights
    residual: Affine


#: How an operator changes.
Rewrite = NewWeights | NewAffine | WithResidual


@record
class Crossing:
    """An affine on the other side of an operator: by input slot for a lift, by output index for a sink."""

    affines: Mapping[int, Affine]
    rewrite: NewWeights | None = None


#: Ways to lift an affine: every affine of one crossing is needed, any one crossing will do.
Lifts = list[Crossing] | Refusal
Sunk = Crossing | Refusal
Absorbed = Rewrite | Refusal
#: What an operator with weights, which never becomes an affine, answers.
Reweighted = NewWeights | WithResidual | Refusal
