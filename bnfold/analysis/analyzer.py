"""One model through the rules: every graph in it, one dry run of folding, one report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bnfold.analysis.context import Context, contexts_of
from bnfold.analysis.placement import Placement, pattern
from bnfold.analysis.report import BatchNormReport, Finding, Report, Summary
from bnfold.analysis.rule import Rule
from bnfold.analysis.rules import all_rules
from bnfold.analysis.sites import Site
from bnfold.analysis.size import is_weight, measure
from bnfold.analysis.statistics import describe
from bnfold.folding import fold_graph
from bnfold.folding.pair import Pair
from bnfold.graph import ModelGraph
from bnfold.operators import Node, facts_of
from bnfold.operators.dialect import dialect_of


def analyze_graph(
    graph: ModelGraph,
    *,
    name: str = "",
    rules: Sequence[Rule] | None = None,
    statistics: bool = False,
    parameters: tuple[int, int] | None = None,
) -> Report:
    """Analyze a graph and its subgraphs; it stays as it is.

    ``rules`` default to all, ``statistics`` adds the numbers behind them to every BN. ``parameters``
    are how many are trainable and how many are not, where the file format knows.
    """
    folded, plan = fold_graph(graph)
    contexts = contexts_of(graph, plan, folded)
    chosen = all_rules() if rules is None else rules
    found = [
        finding
        for context in contexts
        for finding in _ordered(context, [f for rule in chosen for f in rule.check(context)])
    ]
    trainable, frozen = parameters if parameters is not None else (None, None)
    counts = {placement.value: 0 for placement in Placement}
    for context in contexts:
        for _, placement in context.placements:
            counts[placement.value] += 1
    summary = Summary(
        size=measure(graph),
        folded=measure(folded),
        placements={kind: count for kind, count in counts.items() if count},
        foldable=sum(context.foldability(site).folds for context in contexts for site in context.sites),
        parameters_in_batchnorm=sum(_parameters(context) for context in contexts),
        trainable=trainable,
        non_trainable=frozen,
    )
    batchnorms = tuple(item for context in contexts for item in _batchnorms(context, statistics=statistics))
    return Report(
        name or graph.name, dialect_of(graph).name, batchnorms, tuple(found), summary, Pair(graph, folded, plan)
    )


def _ordered(context: Context, findings: list[Finding]) -> list[Finding]:
    """In the order of the layers, then of the codes; findings about the whole model come first."""

    def place(finding: Finding) -> tuple[Any, ...]:
        position = context.graph.position(finding.op) if finding.op in context.graph else -1
        return (position, finding.code, finding.message)

    return sorted(findings, key=place)


def _batchnorms(context: Context, *, statistics: bool) -> Iterator[BatchNormReport]:
    for site, placement in context.placements:
        yield BatchNormReport(
            name=site.label,
            type=" + ".join(op.type for op in site.ops),
            channels=site.channels,
            pattern=pattern(context.graph, context.flow, site),
            placement=placement,
            foldability=context.foldability(site),
            decomposed=site.decomposed,
            scope=context.scope,
            op=site.op.name,
            statistics=_statistics(context, site) if statistics else None,
        )


def _statistics(context: Context, site: Site) -> Mapping[str, Any]:
    linear = context.linear_before(site)
    return describe(site.affine, site.statistics, context.weight_ranges(linear) if linear is not None else None)


def _parameters(context: Context) -> int:
    """Elements of the constants that BN alone hold: gamma, beta, mean and variance, shared ones once.

    What they normalise may be a constant too: it is none of theirs.
    """
    names = {
        tensor
        for site in context.sites
        for op in site.ops
        for slot, tensor in enumerate(op.inputs)
        if slot != facts_of(op).data_slot(Node(context.graph, op))
        if (param := context.graph.constant(tensor)) is not None and is_weight(param)
    }
    params = {id(param): param for name in names if (param := context.graph.constant(name)) is not None}
    return sum(param.size for param in params.values())
