"""What is going on, on a terminal, for work that takes longer than a second."""

from __future__ import annotations

import threading
from types import TracebackType

from rich.console import Console
from rich.status import Status


class Spinner:
    """Shows the current stage on stderr, from ``patience`` seconds after it was entered until it is left."""

    def __init__(self, patience: float) -> None:
        self._status = Status("starting", console=Console(stderr=True))
        self._timer = threading.Timer(patience, self._status.start)
        self._timer.daemon = True

    def __enter__(self) -> Spinner:
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timer.cancel()
        self._timer.join()
        self._status.stop()

    def stage(self, name: str) -> None:
        """What is being done from now on."""
        self._status.update(name)
