"""How far a scan has got, on a terminal: done, models a second, findings, failures, time left."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from bnfold import jobs
    from bnfold.scanning.row import Row


class ScanProgress:
    """A line on stderr while the block lasts. The total grows while targets are still being listed."""

    def __init__(self) -> None:
        self._findings = 0
        self._failed = 0
        self._shown = Progress(
            MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn(),
            console=Console(stderr=True), transient=True,
        )  # fmt: skip
        self._task = self._shown.add_task("starting", total=None)

    def __enter__(self) -> ScanProgress:
        self._shown.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._shown.stop()

    def update(self, progress: jobs.Progress, row: Row) -> None:
        """One more model is done."""
        self._findings += len(row.report["findings"]) if row.report is not None else 0
        self._failed += row.failed
        text = f"{progress.per_second:.1f} models/s, {self._findings:,} findings, {self._failed:,} failed"
        self._shown.update(self._task, completed=progress.done, total=progress.total, description=text)
