"""How far an experiment has got, on a terminal: a line an arm."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import IO, Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from bnfold.experiment.schedule import Plan, Run
from bnfold.reporting.console import cell, table
from bnfold.reporting.experiment import number

_DASH = "–"


class Watching:
    """Shows on stderr what an experiment does; a file gets nothing of that."""

    def __init__(self, file: IO[str] | None = None) -> None:
        self._console = Console(file=file or sys.stderr)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._stage = "starting"
        self._arms: dict[str, _Arm] = {}
        self._started = time.monotonic()

    def __enter__(self) -> Watching:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._live.stop()

    def stage(self, name: str) -> None:
        self._stage = name
        self._refresh()

    def runs(self, plan: Plan, done: Sequence[Run]) -> None:
        for arm in plan.arms:
            count = len(plan.seeds) * len(plan.rates)
            finished = sum(run.arm.label == arm.label for run in done)
            self._arms[arm.label] = _Arm(count, finished, plan.settings.epochs)
        self._started = time.monotonic()
        self._refresh()

    def epoch(self, run: Run, row: dict[str, Any]) -> None:
        self._arms[run.arm.label].epoch(run, row)
        self._refresh()

    def finished(self, run: Run) -> None:
        self._arms[run.arm.label].finished(run)
        self._refresh()

    def _refresh(self) -> None:
        if self._console.is_terminal:
            self._live.update(self.table(time.monotonic() - self._started), refresh=True)

    def table(self, seconds: float) -> Table:
        """A row an arm: runs that are done, epochs of the last one, its score, and the time that is left."""
        grid = table(self._stage, "runs", "last run", "epoch", "validation", "left")
        for label, arm in self._arms.items():
            grid.add_row(
                cell(label), cell(f"{arm.done} of {arm.count}"), cell(arm.last), cell(f"{arm.at} of {arm.epochs}"),
                cell(arm.score), cell(_left(arm.left(seconds))),
            )  # fmt: skip
        return grid


class _Arm:
    def __init__(self, count: int, done: int, epochs: int) -> None:
        self.count, self.done, self.epochs = count, done, epochs
        self.before = done
        self.at = 0
        self.last = self.score = _DASH
        #: How far each of the runs under way is, by its key.
        self._under_way: dict[str, int] = {}

    def epoch(self, run: Run, row: dict[str, Any]) -> None:
        self.at = int(row["epoch"])
        self._under_way[run.key] = self.at
        self.last = f"seed {run.seed}" + ("" if run.rate is None else f", rate {run.rate:g}")
        self.score = "diverged" if row["diverged"] else number(row["val_score"])

    def finished(self, run: Run) -> None:
        self._under_way.pop(run.key, None)
        self.done += 1

    def left(self, seconds: float) -> float | None:
        """Seconds, at the pace so far, None where nothing has come yet."""
        came = self.done - self.before + sum(self._under_way.values()) / self.epochs
        return (self.count - self.before - came) * seconds / came if came else None


def _left(seconds: float | None) -> str:
    if seconds is None:
        return _DASH
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
