"""Results of ``fold``, ``fix`` and ``verify`` on the console."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from bnfold.analysis.phrases import plural
from bnfold.folding.plan import FoldKind, FoldStep, Plan, Remaining
from bnfold.reporting.console import BAD, GOOD, STYLES, cell, line, show, table
from bnfold.reporting.text import GROUP_FROM, file_size, shortened

if TYPE_CHECKING:
    from bnfold.results import Comparison, FixResult, FoldResult, Result
    from bnfold.verification import RuntimeCheck, Verification


def print_fold(console: Console, name: str, result: FoldResult) -> None:
    """What went where, what stayed and why, the model before and after, the verdict."""
    line(console, (name, "bold"))
    steps, left = result.plan.steps, result.plan.remaining
    if steps:
        console.print()
        show(console, _steps(steps), indent=2)
    if left:
        console.print()
        show(console, _remaining(left), indent=2)
    if max(len(steps), len(left)) >= GROUP_FROM:
        line(console, ("equal outcomes share a row; --format json names every one", "dim"), indent=2)
    if not steps and not left:
        line(console, "nothing to fold: bnfold sees no BN and no scale or shift by channel in this model", indent=2)
    console.print()
    _print_notes(console, result.plan, result.notes)
    for step in result.dropped:
        line(console, ("left out, because it changed the outputs: ", "yellow"), step.sentence(), indent=2)
    show(console, _comparison(result.summary), indent=2)
    console.print()
    if result.verification is not None:
        print_verdict(console, result.verification)
    if result.agreement is not None:
        line(console, (result.agreement.sentence(), GOOD if result.agreement.equivalent else BAD), indent=2)
    _print_culprits(console, result.culprits)
    if result.latency is not None:
        line(console, result.latency.sentence(), indent=2)
    print_written(console, result)


def _steps(steps: Sequence[FoldStep]) -> Table:
    streams = any(step.stream for step in steps)
    grid = table(
        "folded", "type", "how", "into", "through", *(["stream that changes", "made up for by"] if streams else [])
    )
    for group in _grouped(steps):
        first, names = group[0], [name for step in group for name in _removed(step)]
        kinds = first.type if len(group) == 1 else f"{len(group)} × {first.type}"
        into = dict.fromkeys(name for step in group for name in step.into)
        through = dict.fromkeys(name for step in group for name in step.through)
        stream = dict.fromkeys(step.stream for step in group if step.stream)
        repaid = dict.fromkeys(name for step in group for name in step.repaid)
        shown = 4 if len(group) == 1 else 1
        what, *rest = (shortened(list(some), shown) for some in (names, into, through, stream, repaid))
        grid.add_row(cell(what), cell(kinds), cell(_how(first.kind)), *map(cell, rest if streams else rest[:2]))
    return grid


def _removed(step: FoldStep) -> list[str]:
    """The operators that went; those of merged branches are known by their keys."""
    prefix = f"{step.scope}/" if step.scope else ""
    keys = (key.removeprefix(prefix) for key in step.removed if key != step.subject)
    return list(dict.fromkeys((step.label, *keys)))


def _how(kind: FoldKind) -> str:
    """The table has columns of its own for what follows these words."""
    return kind.did.removesuffix(" into").removesuffix(" by")


def _grouped(steps: Sequence[FoldStep]) -> list[list[FoldStep]]:
    """Each step by itself, or in a long plan those of one kind and type together."""
    if len(steps) < GROUP_FROM:
        return [[step] for step in steps]
    groups: dict[tuple[FoldKind, str, bool], list[FoldStep]] = {}
    for step in steps:
        groups.setdefault((step.kind, step.type, bool(step.through)), []).append(step)
    return list(groups.values())


def _remaining(left: Sequence[Remaining]) -> Table:
    together = any(item.together is not None for item in left)
    grid = table("stays", "type", "backward", "forward", *(["with its stream"] if together else []))
    groups: dict[tuple[str, ...], list[Remaining]] = {}
    for item in left:
        key = (item.label,) if len(left) < GROUP_FROM else (item.type, item.backward.code, item.forward.code)
        groups.setdefault(key, []).append(item)
    for group in groups.values():
        first = group[0]
        kinds = first.type if len(group) == 1 else f"{len(group)} × {first.type}"
        grid.add_row(
            cell(shortened([item.label for item in group], 3), "yellow"),
            cell(kinds),
            cell(first.backward.sentence),
            cell("" if first.is_own else first.forward.sentence),
            *([cell(first.together.sentence if first.together is not None else "")] if together else []),
        )
    return grid


def _comparison(summary: Comparison) -> Table:
    columns = ("before", "after")
    grid = table("", *columns, right=columns)
    before, after = summary.before, summary.after
    grid.add_row(cell("nodes"), cell(f"{before.nodes:,}"), cell(f"{after.nodes:,}"))
    grid.add_row(cell("BatchNormalization"), cell(f"{before.batchnorms:,}"), cell(f"{after.batchnorms:,}"))
    grid.add_row(cell("other scales and shifts"), cell(f"{before.affines:,}"), cell(f"{after.affines:,}"))
    grid.add_row(cell("parameters"), cell(f"{before.parameters:,}"), cell(f"{after.parameters:,}"))
    if summary.file_before is not None and summary.file_after is not None:
        grid.add_row(cell("file"), cell(file_size(summary.file_before)), cell(file_size(summary.file_after)))
    return grid


def _print_notes(console: Console, plan: Plan, notes: Sequence[str]) -> None:
    for note in (*plan.notes, *notes):
        line(console, note, indent=2)
    if plan.notes or notes:
        console.print()


def _print_culprits(console: Console, culprits: Sequence[FoldStep]) -> None:
    if not culprits:
        return
    one = "1 step makes the outputs differ by itself:"
    line(console, one if len(culprits) == 1 else f"{len(culprits)} steps together make the outputs differ:", indent=2)
    for step in culprits:
        line(console, step.sentence(), indent=4)
    line(console, "--keep-going leaves them out and writes the rest", indent=2)


def print_written(console: Console, result: Result, why: str = "") -> None:
    """Where the model is now; or that it was not written, and ``why`` where that is not the verdict."""
    if result.path is not None:
        line(console, ("written to ", ""), (str(result.path), "bold"), indent=2)
    elif why or not result.equivalent:
        line(console, (f"nothing was written{': ' if why else ''}{why}", BAD), indent=2)


def print_verdict(console: Console, found: Verification, *, details: bool = False) -> None:
    """The verdict on two models in one line; ``details`` adds a table of their outputs."""
    line(console, (found.sentence(), GOOD if found.equivalent else BAD), indent=2)
    if details and found.outputs:
        console.print()
        show(console, _outputs(found), indent=2)
    for note in found.notes:
        line(console, note, indent=2)
    for feed, error in found.feeds.failed:
        line(console, ("the original itself fails ", STYLES["warning"]), f"on {feed}: {error}", indent=2)


def _outputs(found: Verification) -> Table:
    limited = any(output.tolerance is not None for output in found.outputs)
    columns = ("largest difference", "of the range", *(["allowed"] if limited else []), "SNR")
    grid = table("output", "type", *columns, "verdict", right=columns)
    for output in found.outputs:
        allowed = "–" if output.tolerance is None else f"{output.tolerance:.2e}"
        grid.add_row(
            cell(output.name),
            cell(output.dtype),
            cell(f"{output.max_abs:.2e}"),
            cell(f"{output.max_rel:.2e}"),
            *([cell(allowed)] if limited else []),
            cell("–" if output.snr_db is None else f"{output.snr_db:.0f} dB"),
            cell(output.sentence(), GOOD if output.ok else BAD if output.ok is False else ""),
        )
    return grid


def print_runtime_check(console: Console, check: RuntimeCheck) -> None:
    """One model under onnxruntime's optimisation levels, and how to switch off what changes it."""
    line(console, (check.sentence(), GOOD if check.equivalent else BAD))
    snippet = check.snippet()
    if snippet:
        console.print()
        for row in snippet.splitlines():
            line(console, row)


def print_fix(console: Console, name: str, result: FixResult) -> None:
    """What was repaired, the verdict, and which findings remain."""
    line(console, (name, "bold"))
    if not result.changes:
        line(console, "nothing to repair", indent=2)
    for change in result.changes:
        line(console, (f"{change.code} ", GOOD), change.sentence, indent=2)
    console.print()
    if result.verification is not None:
        print_verdict(console, result.verification)
    print_written(console, result)
    if result.remaining:
        console.print()
        line(console, f"{plural(len(result.remaining), 'finding remains', 'findings remain')}:", indent=2)
        from bnfold.reporting.as_text import print_finding_list  # fold, which starts faster without it, prints none

        print_finding_list(console, result.remaining)
