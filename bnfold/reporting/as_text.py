"""Reports of ``analyze`` on the console: placements, findings grouped by layer, summary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from bnfold.analysis import BatchNormReport, Finding, Report, Severity, Summary
from bnfold.analysis.phrases import plural
from bnfold.reporting.console import STYLES, cell, line, show, table
from bnfold.reporting.text import shortened

#: So many findings of one informative rule are printed by themselves; more become one entry.
_REPEATED = 5
_NO_BATCHNORM = (
    "no BatchNormalization in this model: a layer that was created counts only once it is added to the model, or "
    "called on a tensor that leads to an output"
)


def print_report(console: Console, report: Report, *, quiet: bool = False) -> None:
    """One model. ``quiet`` prints the findings alone."""
    if quiet:
        print_finding_list(console, report.findings)
        return
    line(console, (report.model, "bold"))
    if not report.batchnorms:
        line(console, _NO_BATCHNORM, indent=2)
    else:
        console.print()
        show(console, _placements(report.batchnorms), indent=2)
        console.print()
        if any(item.statistics is not None for item in report.batchnorms):
            show(console, _statistics(report.batchnorms), indent=2)
            line(
                console, ("smallest / median / largest; spread of the weights before → after folding", "dim"), indent=2
            )
            console.print()
    print_finding_list(console, report.findings)
    print_summary(console, report)


def _placements(batchnorms: Sequence[BatchNormReport]) -> Table:
    grid = table("BatchNormalization", "channels", "pattern", "placement", "folding", right=("channels",))
    for item in batchnorms:
        fold = item.foldability
        grid.add_row(
            cell(_title(item)),
            cell("?" if item.channels is None else item.channels),
            cell(item.pattern),
            cell(item.placement.value),
            cell(fold.sentence(), "" if fold.folds else "yellow"),
        )
    return grid


def _title(item: BatchNormReport) -> str:
    return f"{item.scope}: {item.name}" if item.scope else item.name


def _statistics(batchnorms: Sequence[BatchNormReport]) -> Table:
    """The numbers behind the rules; ranges are smallest / median / largest."""
    grid = table("BatchNormalization", "|scale|", "variance", "dead channels", "weight spread in bits")
    for item in batchnorms:
        found = item.statistics or {}
        spread, dead = found.get("weight_spread_bits"), found.get("dead_channels")
        grid.add_row(
            cell(_title(item)),
            cell(_range(found.get("scale"))),
            cell(_range(found.get("variance"))),
            cell("–" if dead is None else dead),
            cell(f"{spread['before']:.1f} → {spread['after']:.1f}" if spread else "–"),
        )
    return grid


def _range(values: Mapping[str, float | None] | None) -> str:
    if values is None:
        return "–"
    return " / ".join("NaN" if values[key] is None else f"{values[key]:.2g}" for key in ("min", "median", "max"))


def print_finding_list(console: Console, found: Sequence[Finding]) -> None:
    """Findings grouped by layer; an informative rule that repeats itself becomes one entry at the end."""
    counts = Counter(finding.code for finding in found if finding.severity is Severity.INFO)
    often = {code for code, count in counts.items() if count > _REPEATED}
    groups: dict[str, list[Finding]] = {}
    repeated: dict[str, list[Finding]] = {}
    for finding in found:
        if finding.code in often and finding.severity is Severity.INFO:
            repeated.setdefault(finding.code, []).append(finding)
        else:
            groups.setdefault(finding.layer, []).append(finding)
    for layer, findings in groups.items():
        line(console, (layer or "the whole model", "bold"), indent=2)
        for finding in findings:
            _print_finding(console, finding)
    for findings in repeated.values():
        line(console, (plural(len(findings), "layer"), "bold"), indent=2)
        _print_finding(console, findings[0])
        names = [finding.layer for finding in findings[1:]]
        line(console, (f"and the same for {shortened(names, 8)}", "dim"), indent=4)
    if found:
        console.print()


def _print_finding(console: Console, finding: Finding) -> None:
    severity = finding.severity.value
    head = (f"{severity} {finding.code}", STYLES[severity])
    line(console, head, f" {finding.message}", indent=4)


def print_summary(console: Console, report: Report) -> None:
    """How many BN stand where, what they hold, and what folding removes."""
    summary = report.summary
    if not summary.batchnorms:
        line(console, _parameters(report), indent=2)
        console.print()
        return
    kinds = ", ".join(f"{count} {kind}" for kind, count in summary.placements.items())
    line(console, (f"{plural(summary.batchnorms, 'BN', 'BN')}: ", "bold"), f"{kinds}", indent=2)
    line(console, _parameters(report), indent=2)
    line(console, _removed(summary), indent=2)
    console.print()


def _removed(summary: Summary) -> str:
    """``folding removes 3 of 5, with 7 nodes and 1,024 parameters``."""
    if not summary.foldable:
        return "folding removes none of them"
    nodes = summary.size.nodes - summary.folded.nodes
    parameters = summary.size.parameters - summary.folded.parameters
    share = "all of them" if summary.foldable == summary.batchnorms else f"{summary.foldable} of {summary.batchnorms}"
    change = plural(parameters, "parameter") if parameters >= 0 else f"adds {plural(-parameters, 'parameter')}"
    return f"folding removes {share}, with {plural(nodes, 'node')} and {change}"


def _parameters(report: Report) -> str:
    summary = report.summary
    text = plural(summary.parameters, "parameter")
    if summary.trainable is not None and summary.non_trainable is not None:
        text += f" ({summary.trainable:,} trainable, {summary.non_trainable:,} not)"
    if summary.parameters_in_batchnorm:
        text += f", {summary.parameters_in_batchnorm:,} of them in BN"
    return text


def print_overview(console: Console, reports: Sequence[Report], failures: Mapping[str, str]) -> None:
    """The table at the end of a call with several models."""
    columns = ("BN", "fold", "errors", "warnings", "infos")
    grid = table("model", *columns, right=columns)
    for report in reports:
        counts = Counter(finding.severity for finding in report.findings)
        found = [counts[severity] for severity in (Severity.ERROR, Severity.WARNING, Severity.INFO)]
        styles = [STYLES[s] if n else "" for s, n in zip(("error", "warning", "info"), found, strict=True)]
        grid.add_row(
            cell(report.model),
            cell(report.summary.batchnorms),
            cell(report.summary.foldable),
            *(cell(number, style) for number, style in zip(found, styles, strict=True)),
        )
    for model in failures:
        grid.add_row(cell(model), cell("cannot be read", STYLES["error"]))
    show(console, grid)


def print_counts(console: Console, counts: Sequence[tuple[int, str, str]]) -> None:
    """``--count``: how often each rule was true, most often first."""
    grid = table("count", "code", "rule", right=("count",))
    for count, code, name in counts:
        grid.add_row(cell(count), cell(code), cell(name))
    show(console, grid)
