"""What a file format writes for affines, sums and convolutions, and what its users call things.

Each format has one :class:`Dialect`, and every graph carries that of its format. Beside the facts
about its operators it is all that folding and analysis need to know of a format.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from bnfold.affine import Affine
from bnfold.graph import ModelGraph, Op
from bnfold.operators.answers import NewOp, Placeholder
from bnfold.operators.convolution import Convolution
from bnfold.refusal import Refusal

DATA = Placeholder.DATA

Form = list[NewOp]


class Dialect(ABC):
    """One format's way of writing what folding makes."""

    #: What reports call the format.
    name: str
    #: That of the operators it writes.
    domain: str = ""
    #: Where a map that is the same for every channel is taken to have its channels.
    channel_axis: int
    #: The argument that gives a layer a bias, where models of the format are defined.
    bias_argument: str
    #: Are models of the format trained further, so that what matters for training alone does matter?
    trains: bool
    #: Do exporters write a BatchNormalization as several operators?
    decomposes: bool
    #: The operators for ``a + b``, ``a - b`` and ``a + b + c``.
    sums: tuple[str, str, str]

    @abstractmethod
    def form(self, graph: ModelGraph, tensor: str, affine: Affine, dtype: np.dtype[Any]) -> Form | Refusal:
        """The fewest operators that compute an affine that is no identity."""

    @abstractmethod
    def convolution(self, data: str, convolution: Convolution, stem: str) -> NewOp | None:
        """The operator, reading tensor ``data``, that computes a convolution; None where the format has none.

        Its weights are named after ``stem``.
        """

    def identity(self) -> NewOp:
        """The operator that does nothing, where one has to stand."""
        return NewOp("Identity", (DATA,), domain=self.domain)

    def sum(self, tensors: Sequence[str], sign: float) -> NewOp:
        """The operator that adds tensors or, for a negative sign, subtracts the second one from the first."""
        plus, minus, many = self.sums
        kind = (many if len(tensors) > 2 else plus) if sign > 0 else minus
        return NewOp(kind, tuple(tensors), domain=self.domain)

    def can_add(self, graph: ModelGraph, tensor: str, rank: int | None) -> bool:
        """Can :meth:`sum` read this tensor, in a sum of that rank?"""
        return True

    def word(self, op: Op) -> str:
        """What people call this kind of operator."""
        return op.type

    def batchnorm_code(self, layer: str, axis: int, rank: int | None, channels: int) -> str:
        """The line that puts a BN behind a layer where models are defined; empty where there is none to give.

        ``axis`` is that of the layer's channels, ``rank`` and ``channels`` those of its output.
        """
        return ""

    def composites(self, graph: ModelGraph) -> frozenset[str]:
        """The affine operators that are parts of functions which runtimes recognise and execute as one."""
        return frozenset()


def dialect_of(graph: ModelGraph) -> Dialect:
    """The dialect of the format that a graph came from."""
    assert isinstance(graph.dialect, Dialect), "the format that builds a graph gives it its dialect"
    return graph.dialect


def cheapest_form(graph: ModelGraph, tensor: str, affine: Affine, dtype: np.dtype[Any]) -> Form | Refusal:
    """Operators, in order, that compute ``affine`` of ``tensor``: none for an identity.

    Each reads :data:`DATA` where its predecessor's output goes. ``dtype`` is the tensor's.
    """
    return [] if affine.is_identity else dialect_of(graph).form(graph, tensor, affine, dtype)
