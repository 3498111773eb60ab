"""What every operator's facts are made of: the questions and the registry. The answers are in ``answers.py``.

A :class:`Facts` class answers for one operator type. Its answers describe a change and never make
it; the search in ``bnfold.folding`` decides which descriptions to carry out. An operator without
facts refuses everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from itertools import zip_longest
from typing import Any, TypeVar

import numpy as np

from bnfold.affine import Affine, Vector
from bnfold.graph import ModelGraph, Op, Param, Shape
from bnfold.operators.answers import Absorbed, Lifts, Sunk
from bnfold.operators.convolution import Convolution
from bnfold.records import record
from bnfold.refusal import Refusal


class Role(str, Enum):
    """What an operator is to the placement of a BatchNormalization."""

    LINEAR = "linear"
    BATCHNORM = "batchnorm"
    AFFINE = "affine"
    ACTIVATION = "activation"
    DROPOUT = "dropout"
    JOIN = "join"
    POOL = "pool"
    SHAPE = "shape"
    RECURRENT = "recurrent"
    CONSTANT = "constant"
    OTHER = "other"


class Combination(str, Enum):
    """What an operator makes of several tensors."""

    SUM = "sum"
    PRODUCT = "product"
    QUOTIENT = "quotient"
    EXTREME = "extreme"
    CONCATENATION = "concatenation"


@record
class Node:
    """An operator in its graph, with the questions that facts keep asking."""

    graph: ModelGraph
    op: Op

    @property
    def name(self) -> str:
        return self.op.display

    @property
    def opset(self) -> int:
        """The version of the default operator set; the newest known where the graph does not say."""
        return self.graph.opsets.get("", 99)

    def attr(self, name: str, default: Any = None) -> Any:
        return self.op.attributes.get(name, default)

    def text(self, name: str, default: str = "") -> str:
        """An attribute that is a string, whichever way the format keeps it."""
        value = self.attr(name, default)
        return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)

    def ints(self, name: str, default: Iterable[int] = ()) -> list[int]:
        return [int(value) for value in self.attr(name, default)]

    def has(self, slot: int) -> bool:
        return bool(self.op.input(slot))

    def const(self, slot: int) -> Param | None:
        """The constant in a slot, None where it is left out or computed at run time."""
        return self.graph.constant(self.op.input(slot))

    def const_ints(self, slot: int, attribute: str = "") -> list[int] | None:
        """A list of integers from a constant input or, in older opsets, from an attribute."""
        if attribute in self.op.attributes:
            return self.ints(attribute)
        param = self.const(slot)
        return None if param is None else [int(value) for value in np.atleast_1d(param.array()).ravel()]

    def shape(self, slot: int) -> Shape | None:
        return self.graph.tensor(self.op.input(slot)).shape

    def out_shape(self, index: int = 0) -> Shape | None:
        return self.graph.tensor(self.op.outputs[index]).shape

    def rank(self, slot: int) -> int | None:
        return rank_of(self.graph, self.op.input(slot))

    def out_rank(self, index: int = 0) -> int | None:
        return rank_of(self.graph, self.op.outputs[index])

    def dim(self, slot: int, axis: int) -> int | None:
        return dim_of(self.graph, self.op.input(slot), axis)

    def used(self, index: int) -> bool:
        """Does anyone read this output?"""
        return index < len(self.op.outputs) and self.graph.is_used(self.op.outputs[index])

    def refuse(self, code: str, sentence: str) -> Refusal:
        """A refusal whose sentence begins with this operator: ``conv_3 pads with zeros, …``."""
        return Refusal(code, f"{self.name} ({self.op.type}) {sentence}", self.op.name)


#: The condition of an answer that is always a refusal, though the class says it in its own words.
NEVER = "never"


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """When an operator's answers are no refusals, in words for people; ``cross`` says it of lift and sink alike."""

    as_affine: str = ""
    absorb_output: str = ""
    absorb_input: str = ""
    lift: str = ""
    sink: str = ""
    cross: str = ""


class Facts:
    """The facts about one operator type. The base class knows nothing and refuses everything."""

    role: Role = Role.OTHER
    #: Can it handle an affine that runs over several axes (:attr:`bnfold.affine.Affine.grid`)?
    grids: bool = False
    #: What it makes of several tensors, if it joins them: a mean counts as a sum.
    combination: Combination | None = None
    #: Is the channel axis of its data that of its output too? Said where the role does not imply it.
    keeps_axes: bool = False
    #: Are the axes of its output others than those of its input, as behind a Flatten?
    merges_axes: bool = False
    #: Does it normalise by statistics of its own input, unlike a BatchNormalization at inference?
    normalizes: bool = False
    #: Does it only mark where a part of the model begins or ends, so that nobody counts it?
    is_border: bool = False
    #: Does it look rows up in a table? They need no bias.
    is_lookup: bool = False

    #: What its answers depend on, in words. A class that overrides an answer says its condition itself; others
    #: inherit both.
    conditions: Conditions = Conditions()

    @property
    def is_foldable(self) -> bool:
        """Is it an affine, or can its constants take one in: what folding moves and what it moves it into."""
        return self.is_lookup or any(map(self.answers, ("as_affine", "absorb_output", "absorb_input")))

    @classmethod
    @cache
    def answers(cls, question: str) -> bool:
        """Has it an answer of its own to one of the questions below, or only the refusal that all have?"""
        return getattr(cls, question) is not getattr(Facts, question)

    @classmethod
    def condition(cls, question: str) -> str | None:
        """On what its answer to a question depends, in words; None where it always refuses."""
        if not cls.answers(question):
            return None
        names = (question, "cross") if question in ("lift", "sink") else (question,)
        told = (vars(base).get("conditions", Conditions()) for base in cls.__mro__)
        texts: Iterator[str] = (getattr(words, name) for words in told for name in names)
        found = next(text for text in texts if text)
        return None if found == NEVER else found

    def role_in(self, node: Node) -> Role:
        """:attr:`role`, where that depends on the operator's constants."""
        return self.role

    def is_final(self, node: Node) -> bool:
        """Is it a softmax, a sigmoid or their like, with which a model's last layer ends?"""
        return False

    def drop_rate(self, node: Node) -> float:
        """The part of its input that it drops in training."""
        return 0.0

    def as_affine(self, node: Node) -> Affine | Refusal:
        """Is the operator itself ``scale * x + shift`` with constant vectors? x is in :meth:`data_slot`."""
        return node.refuse("not-affine", "is not a per-channel affine")

    def is_identity(self, node: Node) -> bool:
        """Is the operator an affine that does nothing, to rounding?"""
        affine = self.as_affine(node)
        return isinstance(affine, Affine) and affine.is_identity

    def data_slot(self, node: Node) -> int:
        """The slot of the tensor that flows through (the others hold parameters)."""
        return 0

    def reads_values(self, slot: int) -> bool:
        """Do the values of that input matter to it, or its shape and type alone?"""
        return True

    def absorb_output(self, node: Node, affine: Affine) -> Absorbed:
        """Take an affine that follows into the weights."""
        return node.refuse("no-weights", "has no weights that could take it")

    def absorb_input(self, node: Node, affines: Mapping[int, Affine]) -> Absorbed:
        """Take affines that precede, by input slot, into the weights."""
        return node.refuse("no-weights", "has no weights that could take it")

    def would_absorb_input(self, node: Node, affines: Mapping[int, Affine]) -> Absorbed:
        """:meth:`absorb_input` for who asks whether and in which form alone: its numbers need not be right."""
        return self.absorb_input(node, affines)

    def lift(self, node: Node, affines: Mapping[int, Affine]) -> Lifts:
        """What the affines on the outputs (by index) are on the inputs."""
        return self.blocks(node)

    def sink(self, node: Node, affines: Mapping[int, Affine]) -> Sunk:
        """What the affines on the inputs (by slot, identity elsewhere) are on the outputs."""
        return self.blocks(node)

    def convolution(self, node: Node) -> Convolution | None:
        """The operator as a convolution of its data, for merging with others; None if it is none."""
        return None

    def addends(self, node: Node) -> Mapping[int, float] | None:
        """The slots and signs of the tensors it adds up; None if it is no sum."""
        return None

    def adds_up_to_one(self, node: Node, axis: int) -> bool:
        """Do the values of its first output add up to one along an axis, wherever that is?"""
        return False

    def source_axis(self, node: Node, axis: int) -> int | None:
        """Along which axis its data holds what the first output has along this one, if it is the same values."""
        return None

    def blocks(self, node: Node) -> Refusal:
        if self.role is Role.ACTIVATION:
            return node.refuse("nonlinear", "is nonlinear")
        return node.refuse("unknown-operator", "lets no affine through")

    def output_shape(self, node: Node) -> tuple[int | None, dict[int, int]]:
        """Rank and known sizes by axis of the first output, where no shape inference could tell.

        From the operator's own constants alone: :func:`rank_of` walks on to its input.
        """
        return None, {}

    def broadcast_with(self, node: Node) -> tuple[int, ...] | None:
        """Of what shape is the constant that the data input is broadcast with to give the shape of the first output?

        () where both have the same shape, None where the output's is another one.
        """
        return None


#: By domain and type.
_REGISTRY: dict[str, dict[str, Facts]] = {}
_UNKNOWN = Facts()
_F = TypeVar("_F", bound=type[Facts])


def register(*types: str, domain: str = "") -> Callable[[_F], _F]:
    """Class decorator: these facts answer for operators of these types."""

    def enter(cls: _F) -> _F:
        facts = cls()
        for name in types:
            _REGISTRY.setdefault(domain, {})[name] = facts
        return cls

    return enter


def facts_of(op: Op) -> Facts:
    """The facts for an operator; those that refuse everything for an unknown one."""
    try:
        return _REGISTRY[op.domain][op.type]
    except KeyError:
        return facts_about(op.type, op.domain)


def facts_about(type: str, domain: str = "") -> Facts:
    """The facts for an operator type."""
    domain = "" if domain == "ai.onnx" else domain
    return _REGISTRY.get(domain, {}).get(type, _UNKNOWN)


def known_types(domain: str = "") -> list[str]:
    """The operator types with facts."""
    return sorted(_REGISTRY.get(domain, {}))


_MAX_WALK = 64


def rank_of(graph: ModelGraph, tensor: str) -> int | None:
    """The rank of a tensor: inferred, or from the operators that made it."""
    shape = graph.tensor(tensor).shape
    if shape is not None:  # the rule
        return len(shape)
    return next((rank for rank, _ in _shapes(graph, tensor) if rank is not None), None)


def dim_of(graph: ModelGraph, tensor: str, axis: int) -> int | None:
    """The static size of an axis: inferred, or from the weights of the operator that made it."""
    size = graph.dim(tensor, axis)
    if size is not None:  # the rule
        return size
    return next((sizes[axis] for _, sizes in _shapes(graph, tensor) if axis in sizes), None)


def _shapes(graph: ModelGraph, tensor: str) -> Iterator[tuple[int | None, Mapping[int, int]]]:
    """What one after the other knows of a tensor: rank, and sizes by axis.

    Models may come without input shapes, and inference loses what is computed: a convolution's
    weights still tell rank and channels.
    """
    constant: tuple[int, ...] = ()
    for _ in range(_MAX_WALK):
        shape = graph.tensor(tensor).shape
        if shape is not None:
            sizes = {axis: size for axis, size in enumerate(shape) if isinstance(size, int)}
            yield _broadcast(len(shape), sizes, constant)
        op = graph.producer(tensor)
        if op is None or op.outputs[0] != tensor:
            return
        facts, node = facts_of(op), Node(graph, op)
        yield _broadcast(*facts.output_shape(node), constant)
        other = facts.broadcast_with(node)
        if other is None:
            return
        if other:
            pairs = zip_longest(reversed(constant), reversed(other), fillvalue=1)
            constant = tuple(reversed([max(pair) for pair in pairs]))
        tensor = op.input(facts.data_slot(node))


def _broadcast(
    rank: int | None, sizes: Mapping[int, int], constant: tuple[int, ...]
) -> tuple[int | None, Mapping[int, int]]:
    """Rank and sizes of a tensor when it has been broadcast with a constant of that shape."""
    if not constant:
        return rank, sizes
    if rank is None:
        return None, {}
    total = max(rank, len(constant))
    first = total - len(constant)
    larger = {first + axis: size for axis, size in enumerate(constant) if size > 1}
    return total, {axis + total - rank: size for axis, size in sizes.items()} | larger


class KeepsShape(Facts):
    """Operators whose first output has the shape of their data input."""

    def broadcast_with(self, node: Node) -> tuple[int, ...] | None:
        return ()


def channels_fit(node: Node, affine: Affine, axis: int | None, channels: int) -> Refusal | None:
    """Refuse unless the affine is uniform or runs along ``axis`` (None: unknown) with ``channels`` entries."""
    if affine.size == 1:  # as it is on a tensor of one channel, whichever axis that lies along
        return None
    if affine.grid:
        return node.refuse("several-axes", "would get an affine that runs over several axes")
    if axis is None:
        return node.refuse("unknown-rank", "has a tensor of unknown rank, so its channel axis cannot be told")
    if affine.axis != axis:
        return node.refuse("other-axis", f"has its channels on axis {axis}, the affine runs along axis {affine.axis}")
    if affine.size != channels:
        return node.refuse("size-mismatch", f"has {channels} channels, the affine {affine.size}")
    return None


def vectors(affine: Affine, channels: int) -> tuple[Vector, Vector]:
    """Scale and shift with one entry a channel (a uniform affine is repeated)."""
    if affine.size == channels:
        return affine.scale, affine.shift
    return np.repeat(affine.scale, channels), np.repeat(affine.shift, channels)
