"""Where can an affine go? What a search walks on, and the move or the reason that it finds.

Searches only describe. Both directions walk the graph in the dataflow order, so that an operator is
asked once, when everything that its neighbours want of it is known, and both end after a bounded
number of operators.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from bnfold.folding.rounding import overflow_code, rounding_fault, scale_fault
from bnfold.graph import ModelGraph, Op, Order, Param, Use
from bnfold.operators import Node, Rewrite
from bnfold.operators.answers import NewAffine, NewOp, NewWeights, WithResidual
from bnfold.records import record
from bnfold.refusal import Refusal

#: Operators asked in one search: a bound that no real model reaches.
MAX_VISITS = 5000


@dataclass(slots=True, kw_only=True)
class Move:
    """What has to change for an affine to go: a description, carried out by :class:`bnfold.folding.editor.Editor`."""

    rewrites: dict[str, Rewrite] = field(default_factory=dict)
    #: Constant inputs that get another value, for one reader each.
    constants: dict[Use, Param] = field(default_factory=dict)
    #: Tensors whose values change.
    changed: dict[str, None] = field(default_factory=dict)
    #: The fold targets: operators that take the affine in.
    targets: list[str] = field(default_factory=list)
    through: list[str] = field(default_factory=list)
    #: Every operator asked, and whoever stood in the way: when one of them changes, ask again.
    asked: set[str] = field(default_factory=set)
    #: How many operators it adds.
    added: int = 0

    @property
    def only_affines(self) -> bool:
        """Are all fold targets affines themselves?"""
        return all(isinstance(self.rewrites[name], NewAffine) for name in self.targets)

    def joined(self, other: Move) -> Move:
        """This move and another one, of other operators, as one."""
        return Move(
            rewrites={**self.rewrites, **other.rewrites},
            constants={**self.constants, **other.constants},
            changed={**self.changed, **other.changed},
            targets=list(dict.fromkeys([*self.targets, *other.targets])),
            through=list(dict.fromkeys([*self.through, *other.through])),
            asked=self.asked | other.asked,
            added=self.added + other.added,
        )

    def copy(self) -> Move:
        """A move of its own, except for whom it has asked."""
        return replace(
            self,
            rewrites=dict(self.rewrites),
            constants=dict(self.constants),
            changed=dict(self.changed),
            targets=list(self.targets),
            through=list(self.through),
        )


@record
class Blocked:
    """Why a search found no way, and whom it had asked."""

    refusal: Refusal
    asked: frozenset[str]


#: How many operators a rewrite adds, or why what it adds cannot be built.
Cost = Callable[[Op, Rewrite], "int | Refusal"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a search walks on: the graph, its dataflow order, who must stay, what rewrites cost.

    ``frozen`` operators let nothing happen to them; ``idioms`` may not become other affines.
    """

    graph: ModelGraph
    order: Order
    frozen: frozenset[str]
    idioms: frozenset[str]
    cost: Cost


class Search:
    """What the two directions share."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.graph = context.graph
        self.order = context.order
        self.visits = 0

    def visit(self, move: Move, op: Op) -> Refusal | None:
        move.asked.add(op.name)
        self.visits += 1
        if op.name in self.context.frozen:
            return Refusal("skipped", f"{op.display} ({op.type}) was asked to stay as it is", op.name)
        if self.visits > MAX_VISITS:
            return Refusal("search-limit", f"the search gave up after {MAX_VISITS} operators")
        return None

    def enter(self, move: Move, op: Op, rewrite: Rewrite) -> Refusal | None:
        """Make a rewrite part of a move, unless what it adds cannot be built."""
        if isinstance(rewrite, NewAffine) and op.name in self.context.idioms:
            return Refusal("idiom", f"{op.display} ({op.type}) is part of a function that runtimes recognise", op.name)
        added = self.context.cost(op, rewrite)
        if isinstance(added, Refusal):
            return added
        move.added += added
        move.rewrites[op.name] = rewrite
        move.targets.append(op.name)
        return None


def weights_of(rewrite: Rewrite) -> NewWeights:
    """The new weights in a rewrite; of an affine that becomes another there are none."""
    if isinstance(rewrite, WithResidual):
        return rewrite.weights
    return rewrite if isinstance(rewrite, NewWeights) else NewWeights()


def unsound(node: Node, rewrite: Rewrite) -> Refusal | None:
    """Refuse weights that do not survive rounding to their dtype."""
    weights = weights_of(rewrite)
    for slot, new in weights.inputs.items():
        params = [new] if isinstance(new, Param) else [] if isinstance(new, str) else new.inputs
        for param in params:
            if isinstance(param, Param):
                fault = rounding_fault(param, weights.channel_axis.get(slot, 0))
                if not fault and isinstance(new, NewOp) and param.is_float:
                    fault = scale_fault(param.exact().reshape(-1), param.dtype)
                if fault:
                    return node.refuse(overflow_code(param.dtype), f"cannot take it: {fault}")
    return None


def more_telling(taken: Refusal, passed: Refusal) -> Refusal:
    """Of the reasons why an operator neither takes an affine in nor lets it pass, the one that tells more."""
    if taken.code in ("no-weights", "not-affine", "two-tensors"):
        return passed
    # A product of two tensors has no weights, but more to say about what passes it.
    return passed if taken.code == "dynamic-weights" and passed.code != "unknown-operator" else taken
