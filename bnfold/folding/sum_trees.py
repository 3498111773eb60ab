"""Trees of additions: what is added up, and what a sum of it looks like."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bnfold.graph import Dim, Op, Shape
from bnfold.operators.convolution import Convolution


@dataclass(frozen=True, slots=True)
class Term:
    """A leaf of a sum as a convolution of ``source``; ``ops`` compute it and nothing else."""

    leaf: str
    source: str
    convolution: Convolution
    ops: tuple[Op, ...]


@dataclass(slots=True)
class Sum:
    """A tree of additions: the operators, its root first, and the tensors at its leaves with signs."""

    ops: list[Op]
    leaves: list[tuple[str, float]]
    #: For each leaf the operators of the tree that it goes through.
    paths: list[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Addition:
    """A sum to be made of what is merged and of leaves that are left over."""

    leaves: tuple[str, ...]
    sign: float


def broadcast(shapes: Iterable[Shape | None]) -> Shape | None:
    """The shape of what tensors of these shapes add up to, as far as it is known."""
    known = list(shapes)
    if None in known:
        return None
    rank = max(len(shape) for shape in known if shape is not None)
    padded = [(1,) * (rank - len(shape)) + shape for shape in known if shape is not None]
    return tuple(_broadcast_size([size for size in sizes if size != 1]) for sizes in zip(*padded, strict=True))


def _broadcast_size(sizes: list[Dim]) -> Dim:
    """The size that comes of sizes that are not 1."""
    static = [size for size in sizes if isinstance(size, int)]
    if static or not sizes:
        return static[0] if static else 1
    return sizes[0] if len(set(sizes)) == 1 else None
