"""BN107 to BN109: BatchNormalizations in a row, between linear layers, and shared ones."""

from __future__ import annotations

from collections.abc import Iterator

from bnfold.analysis.context import Context
from bnfold.analysis.flow import producer_behind, readers_beyond
from bnfold.analysis.phrases import listed, title
from bnfold.analysis.report import Finding, Repair, Severity
from bnfold.analysis.rule import Rule
from bnfold.analysis.sites import Site
from bnfold.analysis.statistics import is_untrained
from bnfold.operators import Role

_BESIDE = (Role.SHAPE, Role.DROPOUT, Role.AFFINE)


class ConsecutiveBatchNorms(Rule):
    """Two BatchNormalizations in a row.

    ## What it finds
    A BN whose input is the output of another BN, directly or through reshapes.

    ## Why it matters
    The second normalises what has been normalised already: together they compute one affine map, which one BN can
    hold. The second costs parameters, and at inference a pass over the tensor.

    ## Example
    ```python
    x = BatchNormalization()(BatchNormalization()(x))
    ```

    ## Fix
    Remove one of the two. For inference `bnfold fold` composes them.

    ## Reference
    Ioffe and Szegedy 2015, arXiv:1502.03167.
    """

    code = "BN107"
    name = "consecutive-bn"
    severity = Severity.WARNING
    repair = Repair.FOLD
    message = (
        "{layer} normalises what {before} has just normalised, and two BN in a row compute no more than one; remove "
        "one of them."
    )

    def check(self, context: Context) -> Iterator[Finding]:
        for site in context.sites:
            before = producer_behind(context.graph, context.flow, site.tensor, (Role.SHAPE,))
            first = context.by_operator.get(before.name) if before is not None else None
            if first is not None and first is not site:
                yield self.finding(
                    context, site.op, layer=site.label, values={"before": first.label}, before=first.title
                )


class LinearStack(Rule):
    """Two linear layers with only a BatchNormalization between them.

    ## What it finds
    A BN that a linear layer feeds and that only linear layers read, with no nonlinearity, sum or pooling between.

    ## Why it matters
    At inference the three are one linear map, so the two layers can express no more than one with the smaller of
    their ranks. That is often a forgotten activation. It can be meant: the narrow layers of MobileNetV2's inverted
    residuals are linear on purpose.

    ## Example
    ```python
    x = Dense(64)(x)
    x = BatchNormalization()(x)
    x = Dense(64)(x)
    ```

    ## Fix
    Put the missing activation behind the BN, or make the two layers one, unless the bottleneck is meant.

    ## Reference
    Sandler et al. 2018, arXiv:1801.04381, section 3.2.
    """

    code = "BN108"
    name = "linear-stack"
    severity = Severity.INFO
    message = (
        "{first} and {second} are linear with only {layer} between them, so together they compute no more than one "
        "linear layer; put an activation behind {layer} unless the bottleneck is meant."
    )

    def check(self, context: Context) -> Iterator[Finding]:
        layouts = context.flow.layouts
        for site in context.sites:
            before = producer_behind(context.graph, context.flow, site.tensor, _BESIDE)
            if before is None or before.name not in layouts:
                continue
            after = readers_beyond(context.graph, context.flow, site.output, _BESIDE)
            if not after or any(op.name not in layouts for op in after):
                continue
            names = [op.display for op in after]
            yield self.finding(
                context,
                site.op,
                layer=site.label,
                values={"before": before.display, "after": names},
                first=title(before),
                second=listed([title(op) for op in after]),
            )


class SharedBatchNorm(Rule):
    """One BatchNormalization is applied at several places.

    ## What it finds
    BN operators that read the same gamma, beta, mean and variance. BN that were never trained, whose equal values an
    exporter may have merged, do not count.

    ## Why it matters
    In training every place updates the same moving mean and variance, so these describe a mixture of distributions
    and fit none of them, while each batch was normalised with its own. Outputs then differ between training and
    inference.

    ## Example
    ```python
    bn = BatchNormalization()
    a, b = bn(Dense(64)(x)), bn(Dense(64)(y))
    ```

    ## Fix
    Give every place a BN of its own; linear layers may stay shared.

    ## Reference
    Cooijmans et al. 2016, arXiv:1603.09025, which keeps separate statistics for every time step.
    """

    code = "BN109"
    name = "shared-bn"
    severity = Severity.WARNING
    message = (
        "one BN serves {count} places ({layer}), so its mean and variance mix {count} distributions and fit none of "
        "them; give every place a BN of its own."
    )

    def check(self, context: Context) -> Iterator[Finding]:
        groups: dict[tuple[str, ...], list[Site]] = {}
        for site in context.sites:
            if site.statistics is not None and not is_untrained(site.statistics):
                groups.setdefault(site.op.inputs[1:], []).append(site)
        for sites in groups.values():
            if len(sites) > 1:
                names = list(dict.fromkeys(site.label for site in sites))
                yield self.finding(
                    context, sites[0].op, layer=listed(names), values={"count": len(sites), "layers": names}
                )
