"""Learning curves of an experiment, drawn by matplotlib: the same file for the same result."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from bnfold.errors import MissingExtraError, UsageError
from bnfold.experiment.results import ArmResult, ExperimentResult
from bnfold.experiment.training import Epoch
from bnfold.formats.atomic import resolve_target, staged_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FORMATS = (".svg", ".png")
#: Okabe and Ito's colours, which people who do not see all colours can tell apart (2008).
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
#: Nothing in the file may depend on the time, on a random number or on the fonts of the machine.
_STYLE: Any = {"svg.hashsalt": "bnfold", "svg.fonttype": "none", "font.family": "DejaVu Sans", "font.size": 9.0}


def check_plot(path: str | PathLike[str]) -> None:
    """Before any work: UsageError for a suffix that is not drawn, MissingExtraError, OutputError for no folder."""
    if Path(path).suffix.lower() not in _FORMATS:
        raise UsageError(f"{path}: a plot is written as {' or '.join(_FORMATS)}; the suffix decides")
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError.of("--plot needs matplotlib", "experiment")
    resolve_target(path)


def draw(result: ExperimentResult, path: str | PathLike[str]) -> None:
    """Write training and validation curves of every arm at its rate: each seed thin, their mean thick.

    Raises UsageError, MissingExtraError, and OutputError where the file cannot be written.
    """
    check_plot(path)
    suffix = Path(path).suffix.lower().removeprefix(".")
    with staged_file(path) as staged:
        content = _drawn(result, suffix)
        with staged.writing() as out:
            out.write(content)
        staged.commit()


def svg(result: ExperimentResult) -> bytes:
    """The same curves as the content of an SVG file. matplotlib has to be installed."""
    return _drawn(result, "svg")


def _drawn(result: ExperimentResult, suffix: str) -> bytes:
    import io

    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(8.0, 3.4), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(1, 2, sharey=True)
        for panel, part, title in zip(panels, ("score", "val_score"), ("training", "validation"), strict=True):
            _panel(panel, result, part)
            panel.set_title(title)
        panels[0].set_ylabel(_plain(result.metric))
        panels[1].legend(frameon=False)
        out = io.BytesIO()
        metadata = {"Date": None} if suffix == "svg" else {"Software": None}
        figure.savefig(out, format=suffix, metadata=metadata, dpi=150)
    return out.getvalue()


def _panel(panel: Axes, result: ExperimentResult, part: str) -> None:
    for index, arm in enumerate(result.arms):
        colour = _COLOURS[index % len(_COLOURS)]
        curves = [_curve(run.epochs, part) for run in arm.runs]
        for epochs, values in curves:
            panel.plot(epochs, values, color=colour, linewidth=0.6, alpha=0.5)
        epochs, means = mean_curve(curves)
        panel.plot(epochs, means, color=colour, linewidth=2.2, label=_label(arm))
    panel.set_xlabel("epoch")
    panel.locator_params(axis="x", integer=True)
    panel.grid(visible=True, linewidth=0.3)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)


def _label(arm: ArmResult) -> str:
    rate = "" if arm.rate is None else f", rate {arm.rate:g}"
    lost = f", {arm.diverged} diverged" if arm.diverged else ""
    return f"{_plain(arm.label)}{rate}{lost}"


def _plain(name: str) -> str:
    """A name in which matplotlib finds no formula, which would have to be a correct one, and which it does not hide."""
    return (" " if name.startswith("_") else "") + name.replace("$", r"\$")


def _curve(epochs: Sequence[Epoch], part: str) -> tuple[list[int], list[float]]:
    points = [(epoch.epoch, getattr(epoch, part)) for epoch in epochs if getattr(epoch, part) is not None]
    return [epoch for epoch, _ in points], [value for _, value in points]


def mean_curve(curves: Sequence[tuple[Sequence[int], Sequence[float]]]) -> tuple[list[int], list[float]]:
    """The mean over the runs that have an epoch; as far as every run has got, so that it is one of the same runs."""
    shared: set[int] = set.intersection(*(set(epochs) for epochs, _ in curves)) if curves else set()
    by_epoch: list[dict[int, Any]] = [dict(zip(epochs, values, strict=True)) for epochs, values in curves]
    epochs = sorted(shared)
    return epochs, [fmean(values[epoch] for values in by_epoch) for epoch in epochs]
