"""One graph as the rules see it, with everything about it that more than one rule asks for."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from bnfold.affine import Vector
from bnfold.analysis.flow import Flow, producer_behind, trace
from bnfold.analysis.placement import Placement, classify
from bnfold.analysis.report import Foldability
from bnfold.analysis.sites import Site, find_sites
from bnfold.equalization import equalize_graph
from bnfold.folding.plan import Fates, FoldKind, FoldStep, Plan, Remaining
from bnfold.graph import ModelGraph, Op
from bnfold.operators import Role, as_affine, role
from bnfold.operators.patterns import channel_ranges
from bnfold.refusal import Refusal


@dataclass(frozen=True)
class Levels:
    """A folded graph, which is equalised when somebody asks for what that leaves."""

    folded: ModelGraph

    @cached_property
    def spreads(self) -> dict[str, float]:
        return {layer.key: layer.after for layer in equalize_graph(self.folded)[1].layers}


@dataclass(frozen=True)
class Context:
    """A graph (the model's own, or a subgraph of it), its BNs, and what folding would do with them.

    ``scope`` is what the plan calls the subgraph, empty for the model's own graph. Everything is
    computed once, on first use.
    """

    graph: ModelGraph
    plan: Plan
    fates: Fates
    scope: str = ""
    #: The contexts of the model's own graph and of all subgraphs, this one among them.
    everywhere: list[Context] = field(default_factory=list, repr=False)
    #: By key how far a layer's ranges are apart when the model is folded and equalised; None where nobody folded it.
    levels: Levels | None = None
    _ranges: dict[str, Vector] = field(default_factory=dict)

    @cached_property
    def flow(self) -> Flow:
        return trace(self.graph, lambda op: role(op, self.graph))

    @cached_property
    def sites(self) -> list[Site]:
        """The BNs, in the order of the file."""
        return find_sites(self.graph, self.flow)

    @cached_property
    def placements(self) -> list[tuple[Site, Placement]]:
        return [(site, classify(self.graph, self.flow, site)) for site in self.sites]

    @cached_property
    def by_operator(self) -> dict[str, Site]:
        """The BN that an operator is, or is a part of."""
        return {op.name: site for site in self.sites for op in site.ops}

    def linear_layers(self) -> list[Op]:
        """The linear operators with constant weights, in the order of the file."""
        return [op for op in self.graph.ops() if op.name in self.flow.layouts]

    def linear_before(self, site: Site) -> Op | None:
        """The linear layer that alone feeds a BN and that the BN folds backward into, if it does."""
        fate = self.fate(site)
        if (
            not isinstance(fate, FoldStep)
            or fate.kind is not FoldKind.BACKWARD
            or fate.through
            or len(fate.holders) != 1
        ):
            return None
        op = producer_behind(self.graph, self.flow, site.tensor, (Role.AFFINE,))
        return op if op is not None and op.name in self.flow.layouts and self.key(op) == fate.holders[0] else None

    def weight_ranges(self, op: Op) -> Vector:
        """The largest absolute weight by output channel; the weight is read once."""
        if op.name not in self._ranges:
            self._ranges[op.name] = channel_ranges(self.flow.layouts[op.name])
        return self._ranges[op.name]

    def spread_equalized(self, op: Op) -> float | None:
        """How far, in bits, the weight ranges of a layer would be apart after folding and equalisation."""
        return None if self.levels is None else self.levels.spreads.get(self.key(op))

    def is_role(self, op: Op, *roles: Role) -> bool:
        return self.flow.role(op) in roles

    def key(self, op: Op) -> str:
        """How the plan calls an operator of this graph."""
        return f"{self.scope}/{op.name}" if self.scope else op.name

    def fate(self, site: Site) -> FoldStep | Remaining | None:
        """What folding would do with a BN; None where folding does not see one in it."""
        fate = self.fates.of(self.key(site.op))
        return None if isinstance(fate, Remaining) and fate.is_own else fate

    def is_replaced(self, site: Site) -> bool:
        """Does the BN itself go, even where the affine that it becomes a part of stays?"""
        return self.fates.step(self.key(site.op)) is not None

    def foldability(self, site: Site) -> Foldability:
        """:meth:`fate` for reports."""
        fate = self.fate(site)
        if isinstance(fate, Remaining):
            sides = (fate.backward, fate.forward)
            backward, forward = (side.sentence for side in sides)
            codes = tuple(side.code for side in sides)
            step = self.fates.step(self.key(site.op))
            kind, into = ("stays", ()) if step is None else (step.kind.value, (fate.label,))
            # What takes the place of a BN may have its name.
            other = fate.type if into == (site.label,) else ""
            return Foldability(kind, into, backward=backward, forward=forward, codes=codes, becomes=other)
        if isinstance(fate, FoldStep):
            return Foldability(fate.kind.value, fate.into, fate.through)
        own = self.own_refusal(site)
        return Foldability("stays", backward=own.sentence if own is not None else "")

    def own_refusal(self, site: Site) -> Refusal | None:
        """Why the BN itself, wherever it stands, is not one that folding can move."""
        if isinstance(site.parameters, Refusal):
            return site.parameters
        found = as_affine(self.graph, site.op) if site.parameters is not None else None
        if isinstance(found, Refusal):
            return found
        if site.statistics is not None and self.fate(site) is None:
            return Refusal("invalid-statistics", f"{site.label} has parameters that are not numbers to compute with")
        return None


def contexts_of(graph: ModelGraph, plan: Plan, folded: ModelGraph | None = None) -> list[Context]:
    """The graph and its subgraphs, outermost first, under the names that the plan gives them.

    ``folded`` is what the plan made of the graph, for rules that ask what would become of it.
    """
    levels = None if folded is None else Levels(folded)
    fates = Fates(plan)
    contexts: list[Context] = []
    pending = [("", graph)]
    while pending:
        scope, inner = pending.pop()
        contexts.append(Context(inner, plan, fates, scope, contexts, levels))
        bodies = [
            (f"{scope}/{op.name}/{key}" if scope else f"{op.name}/{key}", body)
            for op in inner.ops()
            for key, body in op.subgraphs.items()
        ]
        pending += reversed(bodies)
    return contexts
