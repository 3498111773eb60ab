"""Whole processes and what they cost."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

LAUNCH = Path(__file__).with_name("launch.py")
_DIRECTORIES = re.compile(r"(?:/[^\s/:'\"]+)+/")


@dataclass(frozen=True)
class Run:
    """One process: seconds of wall and CPU time, peak resident bytes, how it ended and what it printed."""

    wall: float
    cpu: float
    peak: int
    status: int
    timed_out: bool
    output: str

    @property
    def fault(self) -> str:
        """Why the process failed, ``""`` if it did not: the last line it printed, without directories."""
        if self.timed_out:
            return f"stopped after {self.wall:.0f} s"
        if self.status == 0:
            return ""
        lines = [line.strip() for line in self.output.splitlines() if line.strip()]
        last = lines[-1] if lines else f"exit status {self.status}"
        return _DIRECTORIES.sub("", last)[:160]


def run(
    command: Sequence[str], *, timeout: float, cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> Run:
    """Run a command to its end, or to the end of its time."""
    with tempfile.TemporaryDirectory(prefix="bnfold-bench-") as folder:
        log = Path(folder, "output")
        answer = subprocess.run(
            [sys.executable, "-I", "-S", str(LAUNCH), str(timeout), str(log), *command],
            stdout=subprocess.PIPE,
            check=True,
            text=True,
            cwd=cwd,
            env={**os.environ, **(environment or {})},
        )
        return Run(**json.loads(answer.stdout), output=log.read_text(errors="replace"))
