"""A Dask scheduler and its workers, each a process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Cluster:
    """``address`` is the scheduler's; ``workers`` are processes with one thread each and no nanny."""

    def __init__(self, folder: Path, count: int) -> None:
        self._file = folder / "scheduler.json"
        self._folder = folder
        path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")])
        self._environment = {**os.environ, "PYTHONPATH": path}
        self.scheduler = self._start("scheduler", "--port", "0", "--no-dashboard", "--host", "127.0.0.1")
        while not self._file.exists():
            time.sleep(0.05)
        self.workers = [self.add_worker() for _ in range(count)]
        from distributed import Client

        with Client(scheduler_file=str(self._file), set_as_default=False) as client:
            client.wait_for_workers(count, timeout=120)
            self.address = client.scheduler.address

    def add_worker(self) -> subprocess.Popen[bytes]:
        options = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--local-directory", self._folder)
        return self._start("worker", *options)

    def close(self) -> None:
        for process in [*self.workers, self.scheduler]:
            process.kill()
            process.wait()

    def _start(self, kind: str, *arguments: str | Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "distributed.cli.dask_" + kind, "--scheduler-file", self._file, *arguments]
        return subprocess.Popen(
            command, env=self._environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )  # fmt: skip


@contextmanager
def cluster(folder: Path, count: int = 2) -> Iterator[Cluster]:
    found = Cluster(folder, count)
    try:
        yield found
    finally:
        found.close()
