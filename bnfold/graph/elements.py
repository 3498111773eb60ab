"""What a graph is made of: operators, the tensors between them, and the reads that tie them together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bnfold.records import record, value_record

if TYPE_CHECKING:
    from bnfold.graph.modelgraph import ModelGraph

Dim = int | str | None
Shape = tuple[Dim, ...]


@value_record
class Tensor:
    """What is known about a value: its dtype and shape (sizes, symbols, or None where unknown)."""

    name: str
    dtype: np.dtype[Any] | None = None
    shape: Shape | None = None

    @property
    def rank(self) -> int | None:
        return None if self.shape is None else len(self.shape)


@record
class Op:
    """One operator: immutable, so that graphs can share it.

    ``name`` is unique within the graph. ``inputs`` and ``outputs`` name tensors; ``""`` stands for
    an optional one that is left out. ``label`` is how messages call it (the file's node name, the
    user's layer name). ``origin`` ties together operators that came from one layer.
    ``record`` is the file format's own object for an operator that folding did not touch.
    """

    name: str
    type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    _: KW_ONLY
    domain: str = ""
    label: str = ""
    origin: str = ""
    subgraphs: Mapping[str, ModelGraph] = field(default_factory=dict)
    captures: tuple[str, ...] = ()
    record: object | None = None

    def __repr__(self) -> str:
        return f"Op({self.name!r}: {', '.join(self.outputs)} = {self.type}({', '.join(self.inputs)}))"

    @property
    def display(self) -> str:
        """The name for people: the file's own, or the first output of a nameless node."""
        return self.label or next((name for name in self.outputs if name), self.name)

    def between(self, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> Op:
        """The same operator with other inputs and outputs, no longer the one of the file."""
        return Op(
            self.name,
            self.type,
            inputs,
            outputs,
            self.attributes,
            domain=self.domain,
            label=self.label,
            origin=self.origin,
            subgraphs=self.subgraphs,
            captures=self.captures,
        )

    def input(self, slot: int) -> str:
        """The name of the tensor in ``slot``, ``""`` where it is left out."""
        return self.inputs[slot] if slot < len(self.inputs) else ""


class Use(NamedTuple):
    """One read of a tensor: by which operator, in which input slot."""

    op: str
    #: None for a capture: a read from inside a subgraph (If, Loop, Scan).
    slot: int | None
