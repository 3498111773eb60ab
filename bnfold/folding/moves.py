"""Where can an affine go? What a search walks on, and the move or the reason that it finds.

Searches only describe. Both directions walk the graph in the dataflow order, so that an operator is
asked once, when everything that its neighbours want of it is known, and both end after a bounded
number of operators.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from bnfold.folding.rounding import overflow_code, rounding_fault, scale_fault
from bnfold.graph import ModelGraph, Op, Param, Use
from bnfold.operators import Node, Rewrite
from bnfold.operators.base import NewOp
from bnfold.refusal import Refusal

#: Operators asked in one search: a bound that no real model reaches.
MAX_VISITS = 5000


@dataclass(slots=True)
class Move:
    """What has to change for an affine to go: a description, carried out by :class:`bnfold.folding.editor.Editor`."""

    rewrites: dict[str, Rewrite] = field(default_factory=dict)
    #: Constant inputs that get another value, for one reader each.
    constants: dict[Use, Param] = field(default_factory=dict)
    #: Tensors whose values change.
    changed: dict[str, None] = field(default_factory=dict)
    holders: list[str] = field(default_factory=list)
    through: list[str] = field(default_factory=list)
    #: Every operator asked, and whoever stood in the way: when one of them changes, ask again.
    touched: set[str] = field(default_factory=set)
    #: How many operators it adds.
    added: int = 0

    def copy(self) -> Move:
        return Move(
            dict(self.rewrites),
            dict(self.constants),
            dict(self.changed),
            list(self.holders),
            list(self.through),
            self.touched,
            self.added,
        )


@dataclass(frozen=True, slots=True)
class Blocked:
    """Why a search found no way, and whom it had asked."""

    refusal: Refusal
    touched: frozenset[str]


#: How many operators a rewrite adds, or why what it adds cannot be built.
Price = Callable[[Op, Rewrite], "int | Refusal"]


@dataclass(frozen=True, slots=True)
class Terrain:
    """What a search walks on: the graph, the level of each operator, who must stay, what rewrites cost.

    ``frozen`` operators let nothing happen to them; ``idioms`` may not become other affines.
    """

    graph: ModelGraph
    levels: Mapping[str, float]
    frozen: frozenset[str]
    idioms: frozenset[str]
    price: Price


class Search:
    """What the two directions share."""

    def __init__(self, terrain: Terrain) -> None:
        self.graph = terrain.graph
        self.levels = terrain.levels
        self.frozen = terrain.frozen
        self.idioms = terrain.idioms
        self.price = terrain.price
        self.visits = 0
        self.choices = 0

    def visit(self, move: Move, op: Op) -> Refusal | None:
        move.touched.add(op.name)
        self.visits += 1
        if op.name in self.frozen:
            return Refusal("skipped", f"{op.display} ({op.type}) was asked to stay as it is")
        if self.visits > MAX_VISITS:
            return Refusal("search-limit", f"the search gave up after {MAX_VISITS} operators")
        return None

    def sound(self, node: Node, rewrite: Rewrite) -> Refusal | None:
        """Refuse weights that do not survive rounding to their dtype."""
        for slot, new in rewrite.inputs.items():
            params = [new] if isinstance(new, Param) else [] if isinstance(new, str) else new.inputs
            for param in params:
                if isinstance(param, Param):
                    fault = rounding_fault(param, rewrite.channel_axis.get(slot, 0))
                    if not fault and isinstance(new, NewOp) and param.is_float:
                        fault = scale_fault(param.exact().reshape(-1), param.dtype)
                    if fault:
                        return node.refuse(overflow_code(param.dtype), f"cannot take it: {fault}")
        return None

    def enter(self, move: Move, op: Op, rewrite: Rewrite) -> Refusal | None:
        """Make a rewrite part of a move, unless what it adds cannot be built."""
        if rewrite.becomes is not None and op.name in self.idioms:
            return Refusal("idiom", f"{op.display} ({op.type}) is part of a function that runtimes recognise")
        added = self.price(op, rewrite)
        if isinstance(added, Refusal):
            return added
        move.added += added
        move.rewrites[op.name] = rewrite
        move.holders.append(op.name)
        return None


def more_telling(taken: Refusal, passed: Refusal) -> Refusal:
    """Of the reasons why an operator neither takes an affine in nor lets it pass, the one that tells more."""
    if taken.code in ("no-weights", "not-affine", "two-tensors"):
        return passed
    # A product of two tensors has no weights, but more to say about what passes it.
    return passed if taken.code == "dynamic-weights" and passed.code != "unknown-operator" else taken
