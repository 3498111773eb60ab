"""One model through the rules: every graph in it, one dry run of folding, one report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bnfold.analysis.finding import Finding
from bnfold.analysis.numbers import describe
from bnfold.analysis.placement import BatchNormReport, Placement, pattern
from bnfold.analysis.report import Report, Summary
from bnfold.analysis.rule import Rule, all_rules
from bnfold.analysis.scope import Scope, scopes_of
from bnfold.analysis.sites import Site
from bnfold.analysis.size import is_weight, measure
from bnfold.folding import fold_graph
from bnfold.graph import ModelGraph


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
    scopes = scopes_of(graph, plan)
    chosen = all_rules() if rules is None else rules
    found = [
        finding for scope in scopes for finding in _ordered(scope, [f for rule in chosen for f in rule.check(scope)])
    ]
    trainable, frozen = parameters if parameters is not None else (None, None)
    counts = {placement.value: 0 for placement in Placement}
    for scope in scopes:
        for _, placement in scope.placements:
            counts[placement.value] += 1
    summary = Summary(
        size=measure(graph),
        folded=measure(folded),
        placements={kind: count for kind, count in counts.items() if count},
        foldable=sum(scope.foldability(site).folds for scope in scopes for site in scope.sites),
        parameters_in_batchnorm=sum(_parameters(scope) for scope in scopes),
        trainable=trainable,
        non_trainable=frozen,
    )
    batchnorms = tuple(item for scope in scopes for item in _batchnorms(scope, statistics=statistics))
    return Report(name or graph.name, graph.format, batchnorms, tuple(found), summary)


def _ordered(scope: Scope, findings: list[Finding]) -> list[Finding]:
    """In the order of the layers, then of the codes; findings about the whole model come first."""

    def place(finding: Finding) -> tuple[Any, ...]:
        position = scope.graph.position(finding.op) if finding.op in scope.graph else -1
        return (position, finding.code, finding.message)

    return sorted(findings, key=place)


def _batchnorms(scope: Scope, *, statistics: bool) -> Iterator[BatchNormReport]:
    for site, placement in scope.placements:
        yield BatchNormReport(
            name=site.label,
            type=" + ".join(op.type for op in site.ops),
            channels=site.channels,
            pattern=pattern(scope.graph, scope.flow, site),
            placement=placement,
            foldability=scope.foldability(site),
            decomposed=site.decomposed,
            scope=scope.name,
            op=site.op.name,
            statistics=_statistics(scope, site) if statistics else None,
        )


def _statistics(scope: Scope, site: Site) -> Mapping[str, Any]:
    linear = scope.linear_before(site)
    return describe(site.affine, site.statistics, scope.weight_ranges(linear) if linear is not None else None)


def _parameters(scope: Scope) -> int:
    """Elements of the constants that BN alone hold: gamma, beta, mean and variance, shared ones once."""
    names = {
        tensor
        for site in scope.sites
        for op in site.ops
        for tensor in op.inputs
        if (param := scope.graph.constant(tensor)) is not None and is_weight(param)
    }
    params = {id(param): param for name in names if (param := scope.graph.constant(name)) is not None}
    return sum(param.size for param in params.values())
