"""Comparisons as a picture. matplotlib is needed for this alone."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .comparison import Comparison, Row

_OURS, _OTHERS = "#c1440e", "#7a8a99"


def plot(comparisons: Sequence[Comparison], path: Path) -> bool:
    """A row of bar charts for each model. False, and no file, without matplotlib."""
    if importlib.util.find_spec("matplotlib") is None:
        return False
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    panels = [
        ("wall time, s", lambda row: row.wall),
        ("peak memory, MB", lambda row: row.peak and row.peak / 1e6),
        ("BN + per-channel affines left", lambda row: row.result["left"]),
        ("latency, ms", lambda row: row.latency),
    ]
    height = 1.0 + max(len(comparison.rows) for comparison in comparisons) * 0.24
    figure, grid = plt.subplots(
        len(comparisons), len(panels), figsize=(14, height * len(comparisons)), squeeze=False, layout="constrained"
    )
    for comparison, line in zip(comparisons, grid, strict=True):
        rows = [row for row in comparison.rows if not row.fault][::-1]
        for index, ((title, value), axes) in enumerate(zip(panels, line, strict=True)):
            _bars(axes, rows, [value(row) for row in rows], labelled=index == 0)
            axes.set_title(f"{comparison.model}: {title}" if index == 0 else title, fontsize=9, loc="left")
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return True


def _bars(axes: Any, rows: Sequence[Row], values: Sequence[float | None], *, labelled: bool) -> None:
    colours = [_OURS if row.tool == "bnfold" else _OTHERS for row in rows]
    bars = axes.barh(range(len(rows)), [value or 0 for value in values], color=colours)
    axes.bar_label(bars, ["" if value is None else f"{value:.3g}" for value in values], padding=2, fontsize=7)
    axes.set_yticks(range(len(rows)), [row.tool for row in rows] if labelled else [""] * len(rows), fontsize=8)
    axes.tick_params(axis="x", labelsize=7)
    axes.set_xlim(0, 1.18 * max((value or 0 for value in values), default=0) or 1)
    axes.spines[["top", "right"]].set_visible(False)
