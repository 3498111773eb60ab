"""What is known of a Keras model that was read: its graph, and where each operator came from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bnfold.graph import ModelGraph


@dataclass(eq=False, slots=True)
class Scope:
    """One call of a model: the outermost one, or a nested one at the place where it is called.

    ``inputs`` and ``outputs`` are tensor names; ``path`` is the prefix of the operators inside.

    What a TimeDistributed applies to each step, a layer or a model, has a scope as well: ``wrapper`` is the
    TimeDistributed, ``ends`` are the operators between the scope and the one around it, and ``network`` is None for
    a layer.
    """

    model: Any
    network: Any
    parent: Scope | None = None
    node: Any = None
    path: str = ""
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    wrapper: Any = None
    ends: tuple[str, str] = ("", "")

    def within(self) -> list[Scope]:
        """This scope and those around it, innermost first."""
        scope: Scope | None = self
        chain = []
        while scope is not None:
            chain.append(scope)
            scope = scope.parent
        return chain


@dataclass(frozen=True, eq=False, slots=True)
class Call:
    """One call of a layer, and the operators it became."""

    scope: Scope
    layer: Any
    node: Any
    #: The operator of the layer itself; for an activation fused into it there is a second one.
    op: str
    activation: str
    #: The slots of ``op`` that hold the tensors of the call, in the order of the call.
    tensor_slots: tuple[int, ...]


@dataclass(eq=False, slots=True)
class Reading:
    """A model as it was read: its graph, and where each operator came from."""

    graph: ModelGraph
    root: Scope
    calls: dict[str, Call] = field(default_factory=dict)
    #: In which scope the output of each operator between two scopes is.
    borders: dict[str, Scope] = field(default_factory=dict)
