"""Results of equalisation and of quantisation on the console."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from bnfold.analysis.phrases import plural
from bnfold.reporting.console import cell, line, show, table
from bnfold.reporting.outcomes import print_verdict, print_written
from bnfold.reporting.text import file_size, shortened

if TYPE_CHECKING:
    from bnfold.equalization import LayerRanges, UnscaledTensor
    from bnfold.quantization import Int8Report, Int8Row, LayerLoss
    from bnfold.results import EqualizeResult

#: Layers that are shown one by one; of more, those that change most.
_SHOWN = 12


def print_equalize(console: Console, name: str, result: EqualizeResult) -> None:
    """What was folded, which ranges are how level now, what stands in the way, and the verdict."""
    line(console, (name, "bold"))
    plan = result.plan
    if result.folding.steps:
        line(console, f"folded first: {result.summary.sentence()}", indent=2)
    if plan.scaled:
        tensors = plural(len(plan.scaled), "tensor")
        low, high = min(t.low for t in plan.scaled), max(t.high for t in plan.scaled)
        kind = "exact scales" if plan.exact else "powers of two"
        line(console, f"{tensors} scaled by channel, by {kind} from 2^{low:.3g} to 2^{high:.3g}", indent=2)
    elif not plan.notes:
        line(console, "nothing to equalise: the weight ranges are level, or nothing may be scaled", indent=2)
    for note in plan.notes:
        line(console, note, indent=2)
    if plan.scaled:
        console.print()
        show(console, _layers(plan.layers), indent=2)
        if len(plan.layers) > _SHOWN:
            line(console, (f"{len(plan.layers)} layers in all; --format json names every one", "dim"), indent=2)
    if plan.unscaled:
        console.print()
        show(console, _unscaled(plan.unscaled), indent=2)
    console.print()
    if result.verification is not None:
        print_verdict(console, result.verification)
    print_written(console, result)


def _layers(layers: Sequence[LayerRanges]) -> Table:
    columns = ("before", "after")
    grid = table("range spread in bits", "type", *columns, right=columns)
    most = sorted(layers, key=lambda layer: -abs(layer.before - layer.after))[:_SHOWN]
    for layer in (layer for layer in layers if layer in most):
        grid.add_row(cell(layer.layer), cell(layer.type), cell(f"{layer.before:.1f}"), cell(f"{layer.after:.1f}"))
    return grid


def _unscaled(tensors: Sequence[UnscaledTensor]) -> Table:
    grid = table("keeps its scale", "because")
    groups: dict[str, list[str]] = {}
    for tensor in tensors:
        groups.setdefault(tensor.reason, []).append(f"output of {tensor.layer}")
    for reason, layers in groups.items():
        grid.add_row(cell(shortened(layers, 3), "yellow"), cell(reason))
    return grid


def print_int8(console: Console, report: Int8Report) -> None:
    """One row a model and form, then the layers that lose most."""
    console.print()
    for note in report.notes:
        line(console, f"int8: {note}", indent=2)
    if not report.rows:
        return
    counts = f"{report.calibration} samples to calibrate, {report.held_out} held out, latency for {report.batch}"
    line(console, f"int8 by onnxruntime.quantization (static, QDQ; {counts})", indent=2)
    show(console, _rows(report.rows), indent=2)
    if report.losses:
        console.print()
        line(console, "layers that lose most: their weights alone in int8, one scale for the tensor", indent=2)
        show(console, _losses(report.losses), indent=2)


def _rows(rows: Sequence[Int8Row]) -> Table:
    columns = ("SNR", "same top-1", "size", "latency")
    grid = table("model", "weights", "output", *columns, right=columns)
    for row in rows:
        if row.error:
            grid.add_row(cell(row.model), cell(row.weights), cell(row.error, "yellow"))
        for output in row.outputs:
            grid.add_row(
                cell(row.model),
                cell(row.weights),
                cell(output.name),
                cell(decibels(output.snr_db)),
                cell("–" if output.agreement is None else f"{100 * output.agreement:.1f} %"),
                cell("–" if row.size is None else file_size(row.size)),
                cell("–" if row.latency_ms is None else f"{row.latency_ms:.2f} ms"),
            )
    return grid


def _losses(losses: Sequence[LayerLoss]) -> Table:
    models = list(dict.fromkeys(model for loss in losses for model in loss.snr_db))
    columns = [text for model in models for text in (f"SNR {model}", f"spread {model}")]
    grid = table("layer", *columns, right=columns)
    for loss in losses:
        cells = []
        for model in models:
            known = model in loss.snr_db
            cells += [decibels(loss.snr_db[model]), f"{loss.spread_bits[model]:.1f} bits"] if known else ["–", "–"]
        grid.add_row(cell(loss.layer), *map(cell, cells))
    return grid


def decibels(value: float) -> str:
    """A signal-to-noise ratio for people."""
    return "equal" if value == float("inf") else "not finite" if value == float("-inf") else f"{value:.1f} dB"
