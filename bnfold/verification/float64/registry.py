"""What an operator's evaluation is given, and the table of those that are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bnfold.graph import Array

#: A tensor, a list of tensors (a sequence), or None (an optional that is empty or an output nobody reads).
Value = Any
#: Several outputs are a tuple; anything else is the only output.
Implementation = Callable[["Call"], Value]


class NotEvaluatedError(Exception):
    """The model, or an operator in it, cannot be evaluated here; the message names the operator."""


@dataclass(frozen=True, slots=True)
class Call:
    """One evaluation of one operator.

    ``inputs`` holds None where an optional input is left out. ``version`` is the version of the operator
    set that the model imports for ``domain``. ``outputs`` are the names of the results, "" for unused ones;
    ``node`` is the operator's own name.
    """

    op_type: str
    domain: str
    version: int
    inputs: Sequence[Value]
    outputs: Sequence[str]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    node: str = ""

    def get(self, slot: int) -> Value:
        """The input in that slot, None where it is left out."""
        return self.inputs[slot] if slot < len(self.inputs) else None

    def attribute(self, name: str, default: Any = None) -> Any:
        value = self.attributes.get(name)
        return default if value is None else value

    def wants(self, slot: int) -> bool:
        """Whether the output in that slot has a name."""
        return slot < len(self.outputs) and bool(self.outputs[slot])

    def numbers(self, slot: int, name: str) -> list[int] | None:
        """Integers that older versions take as an attribute and newer ones as an input; None where neither is there."""
        given = self.get(slot)
        if given is not None:
            return [int(item) for item in np.ravel(given)]
        value = self.attributes.get(name)
        return None if value is None else [int(item) for item in np.ravel(value)]


OPERATORS: dict[tuple[str, str], Implementation] = {}


def operator(*names: str, domain: str = "") -> Callable[[Implementation], Implementation]:
    """Enter a function into the table, under one or more operators' names."""

    def enter(implementation: Implementation) -> Implementation:
        for name in names:
            OPERATORS[domain, name] = implementation
        return implementation

    return enter


def single(value: float) -> float:
    """A default of the specification, which is a float32: ``single(1e-5)`` is 9.99999974737875e-06."""
    return float(np.float32(value))


def is_real(value: Value) -> bool:
    """Whether a value is a tensor of real numbers, which are float64 here."""
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"


def positive_axis(axis: int, rank: int) -> int:
    return axis + rank if axis < 0 else axis


def broadcast_rank(values: Array, rank: int, axis: int = 1) -> Array:
    """A vector along ``axis`` of a tensor of that rank."""
    return values.reshape([-1 if index == axis else 1 for index in range(rank)])
