"""Trees of additions: what is added up, as convolutions where it is one, and what a sum of it looks like."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from bnfold.affine import Affine
from bnfold.graph import Dim, ModelGraph, Op, Shape
from bnfold.operators import Node, facts_of
from bnfold.operators.base import dim_of, rank_of
from bnfold.operators.convolution import Convolution, chain, per_channel

#: How many linear operators in a row one branch may have, and how many leaves a sum: bounds that no block reaches.
_MAX_DEPTH = 8
_MAX_LEAVES = 64


@dataclass(frozen=True, slots=True)
class MergeOperand:
    """A leaf of a sum as a convolution of ``input``; ``ops`` compute it and nothing else."""

    leaf: str
    input: str
    convolution: Convolution
    ops: tuple[Op, ...]


@dataclass(slots=True)
class SumTree:
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


class SumFinder:
    """Finds trees of additions in a graph, and what their leaves are. ``frozen`` operators are in none."""

    def __init__(self, graph: ModelGraph, frozen: frozenset[str]) -> None:
        self.graph = graph
        self.frozen = frozen

    def is_sum(self, op: Op | None) -> bool:
        return op is not None and op.name not in self.frozen and facts_of(op).addends(Node(self.graph, op)) is not None

    def is_root(self, op: Op) -> bool:
        use = self.graph.sole_reader(op.outputs[0])
        return use is None or not self.is_sum(self.graph.op(use.op))

    def tree(self, root: Op) -> SumTree | None:
        """The tree of additions that ends in ``root``; None for one beyond the bounds."""
        total = SumTree([], [], [])
        stack: list[tuple[str, float, tuple[str, ...]]] = [(root.outputs[0], 1.0, ())]
        while stack:
            tensor, sign, path = stack.pop()
            op = self.graph.producer(tensor)
            inside = op is root or (self.is_sum(op) and self.graph.sole_reader(tensor) is not None)
            if op is None or not inside:
                total.leaves.append((tensor, sign))
                total.paths.append(path)
                continue
            total.ops.append(op)
            addends = [*(facts_of(op).addends(Node(self.graph, op)) or {}).items()]
            stack += [(op.input(slot), sign * own, (*path, op.name)) for slot, own in reversed(addends)]
            if len(total.leaves) + len(stack) > _MAX_LEAVES:
                return None
        return total

    def merge_operands(self, total: SumTree) -> list[list[MergeOperand]]:
        """For each leaf what it is as a convolution: of itself, of what its operator reads, and so on upward."""
        options = [self._operands(leaf, sign) for leaf, sign in total.leaves]
        wanted = {operand.input: operand.convolution for operands in options for operand in operands}
        for operands, (leaf, sign) in zip(options, total.leaves, strict=True):
            identity = self._identity(leaf, sign, wanted[leaf]) if leaf in wanted else None
            if identity is not None:
                operands.insert(0, identity)
        return options

    def _operands(self, leaf: str, sign: float) -> list[MergeOperand]:
        """The leaf as a convolution of what its operator reads, of what comes before that, and so on upward."""
        operands: list[MergeOperand] = []
        tensor = leaf
        so_far: Convolution | None = None
        ops: tuple[Op, ...] = ()
        for _ in range(_MAX_DEPTH):
            op = self.graph.producer(tensor)
            if op is None or op.name in self.frozen or op.outputs[0] != tensor:
                break
            if self.graph.sole_reader(tensor) is None:
                break
            node = Node(self.graph, op)
            own = facts_of(op).convolution(node)
            if own is None or any(node.used(index) for index in range(1, len(op.outputs))):
                break
            so_far = own if so_far is None else chain(own, so_far)
            if so_far is None:
                break
            ops = (*ops, op)
            tensor = op.input(facts_of(op).data_slot(node))
            operands.append(MergeOperand(leaf, tensor, _signed(so_far, sign), ops))
        return operands

    def _identity(self, leaf: str, sign: float, like: Convolution) -> MergeOperand | None:
        """The leaf as an identity of itself, in the shape of the convolutions it is added to."""
        rank, channels = rank_of(self.graph, leaf), dim_of(self.graph, leaf, like.channel_axis)
        dtype = self.graph.tensor(leaf).dtype
        if rank != len(like.shape) or channels is None or dtype is None or self.graph.constant(leaf) is not None:
            return None
        own = per_channel(Affine.identity(), channels, rank - 2, dtype, 0.0, like.channel_axis)
        return MergeOperand(leaf, leaf, _signed(own, sign), ())


def _signed(convolution: Convolution, sign: float) -> Convolution:
    if sign > 0:
        return convolution
    plain = convolution.plain
    negative = None if plain is None else Affine(-plain.scale, -plain.shift, plain.axis)
    load = convolution.load
    return replace(convolution, load=lambda: -load(), bias=-convolution.bias, plain=negative)


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
