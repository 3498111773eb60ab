"""Reports of ``analyze`` on the console: placements, findings grouped by layer, summary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from bnfold.analysis import BatchNormReport, Finding, Report, Severity, Summary
from bnfold.analysis.phrases import plural
from bnfold.reporting.console import STYLES, cell, line, show, table
from bnfold.reporting.text import ELLIPSIS, GROUP_FROM, Shortening, shortened, shortening

#: So many findings of one informative rule, or of any other, are printed by themselves; more become one entry.
_REPEATED, _REPEATED_OFTEN = 5, 20


def print_report(
    console: Console, report: Report, *, quiet: bool = False, verbose: bool = False, several: bool = False
) -> None:
    """One model. ``quiet`` prints the findings alone, under the model's name where it is one of ``several``.

    What is alike shares an entry unless ``verbose``.
    """
    short = shortening(_names(report))
    if quiet:
        if several and report.findings:
            line(console, (report.model, "bold"))
        print_finding_list(console, report.findings, verbose=verbose, short=short)
        return
    line(console, (report.model, "bold"))
    if short.prefix:
        line(console, (f"{ELLIPSIS} stands for {short.prefix}", "dim"), indent=2)
    if report.batchnorms:
        console.print()
        _print_placements(console, report.batchnorms, verbose, short)
        console.print()
        if any(item.statistics is not None for item in report.batchnorms):
            show(console, _statistics(report.batchnorms, short), indent=2)
            line(
                console, ("smallest / median / largest; spread of the weights before → after folding", "dim"), indent=2
            )
            console.print()
    elif not any(finding.code in ("BN110", "BN407") for finding in report.findings):
        line(console, "no BatchNormalization in this model", indent=2)
    print_finding_list(console, report.findings, verbose=verbose, short=short)
    print_summary(console, report)


def _names(report: Report) -> list[str]:
    """Every name of an operator that the report prints."""
    labels = [finding.layer for finding in report.findings if finding.layer]
    for item in report.batchnorms:
        labels += [item.name, *item.foldability.into, *item.foldability.through]
    return [name for label in labels for name in label.split(" + ")]


def _print_placements(
    console: Console, batchnorms: Sequence[BatchNormReport], verbose: bool, short: Shortening
) -> None:
    grid = table("BatchNormalization", "channels", "pattern", "placement", "folding", right=("channels",))
    groups = _grouped(batchnorms, alone=verbose or len(batchnorms) < GROUP_FROM)
    for group in groups:
        first, names = group[0], [_title(item) for item in group]
        fold = first.foldability
        more = f" (and {len(group) - 1:,} more alike)" if len(group) > 1 else ""
        grid.add_row(
            cell(short(shortened(names, 1))),
            cell(_channels(group)),
            cell(first.pattern),
            cell(first.placement.value),
            cell(short(fold.sentence()) + more, "" if fold.folds else "yellow"),
        )
    show(console, grid, indent=2)
    if len(groups) < len(batchnorms):
        line(console, ("what is alike shares a row; --verbose shows every one", "dim"), indent=2)


def _grouped(batchnorms: Sequence[BatchNormReport], *, alone: bool) -> list[list[BatchNormReport]]:
    """Each BN by itself, or those together that stand alike and go, or stay for, the same way."""
    if alone:
        return [[item] for item in batchnorms]
    groups: dict[tuple[object, ...], list[BatchNormReport]] = {}
    for item in batchnorms:
        fold = item.foldability
        key = (item.scope, item.pattern, item.placement, fold.direction, bool(fold.through), fold.codes)
        groups.setdefault(key, []).append(item)
    return list(groups.values())


def _channels(group: Sequence[BatchNormReport]) -> str:
    """``64``, or the range ``64–512``."""
    known = [item.channels for item in group if item.channels is not None]
    if not known:
        return "?"
    return f"{min(known)}" if min(known) == max(known) else f"{min(known)}–{max(known)}"


def _title(item: BatchNormReport) -> str:
    return f"{item.scope}: {item.name}" if item.scope else item.name


def _statistics(batchnorms: Sequence[BatchNormReport], short: Shortening) -> Table:
    """The numbers behind the rules; ranges are smallest / median / largest."""
    grid = table("BatchNormalization", "|scale|", "variance", "dead channels", "weight spread in bits")
    for item in batchnorms:
        found = item.statistics or {}
        spread, dead = found.get("weight_spread_bits"), found.get("dead_channels")
        grid.add_row(
            cell(short(_title(item))),
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


def print_finding_list(
    console: Console, found: Sequence[Finding], *, verbose: bool = False, short: Shortening | None = None
) -> None:
    """Findings grouped by layer; a rule that repeats itself becomes one entry at the end, unless ``verbose``."""
    short = short or Shortening("")
    counts = Counter(finding.code for finding in found)
    often = {
        finding.code
        for finding in found
        if not verbose and counts[finding.code] > (_REPEATED if finding.severity is Severity.INFO else _REPEATED_OFTEN)
    }
    groups: dict[str, list[Finding]] = {}
    repeated: dict[tuple[str, Severity], list[Finding]] = {}
    for finding in found:
        if finding.code in often:
            repeated.setdefault((finding.code, finding.severity), []).append(finding)
        else:
            groups.setdefault(finding.layer, []).append(finding)
    for layer, findings in groups.items():
        line(console, (short(layer) or "the whole model", "bold"), indent=2)
        for finding in findings:
            _print_finding(console, finding, short)
    for findings in repeated.values():
        line(console, (plural(len(findings), "layer"), "bold"), indent=2)
        _print_finding(console, findings[0], short)
        names = [short(finding.layer) for finding in findings[1:]]
        if names:
            line(console, (f"and the same for {shortened(names, 8)}", "dim"), indent=4)
    if found:
        console.print()


def _print_finding(console: Console, finding: Finding, short: Shortening) -> None:
    severity = finding.severity.value
    head = (f"{severity} {finding.code}", STYLES[severity])
    line(console, head, f" {short(finding.message)}", indent=4)


def print_summary(console: Console, report: Report) -> None:
    """How many BN stand where, what they hold, and what folding removes."""
    summary = report.summary
    if not summary.batchnorms:
        line(console, _parameters(report), indent=2)
        console.print()
        return
    line(console, (f"{plural(summary.batchnorms, 'BN', 'BN')}", "bold"), _placements(summary), indent=2)
    line(console, _parameters(report), indent=2)
    line(console, _removed(summary), indent=2)
    console.print()


def _placements(summary: Summary) -> str:
    """``: 2 before activation, 1 before output``, or ``, all before activation``."""
    kinds = summary.placements
    if len(kinds) == 1:
        return f", {'' if summary.batchnorms == 1 else 'all '}{next(iter(kinds))}"
    return f": {', '.join(f'{count} {kind}' for kind, count in kinds.items())}"


def _removed(summary: Summary) -> str:
    """``folding removes 3 of 5, with 7 nodes and 1,024 parameters``."""
    one = summary.batchnorms == 1
    if not summary.foldable:
        return "folding does not remove it" if one else "folding removes none of them"
    nodes = summary.size.nodes - summary.folded.nodes
    parameters = summary.size.parameters - summary.folded.parameters
    everything = "it" if one else "all of them"
    share = everything if summary.foldable == summary.batchnorms else f"{summary.foldable} of {summary.batchnorms}"
    text = f"folding removes {share}, with {plural(nodes, 'node')}"
    text += f"{' and' if parameters >= 0 else ', and adds'} {plural(abs(parameters), 'parameter')}"
    left = summary.folded.affines - summary.size.affines
    if left <= 0:
        return text
    return (
        f"{text}; {plural(left, 'scale or shift stays', 'scales or shifts stay')} in place of {'it' if one else 'BN'}"
    )


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
