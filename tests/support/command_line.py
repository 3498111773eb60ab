"""Runs the command line in this process, as a shell would see it."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

from bnfold import cli

SAMPLES = Path(__file__).parents[2] / "sample_models"


@dataclass(frozen=True)
class Outcome:
    """The exit code, and what was printed."""

    code: int
    out: str
    err: str

    @property
    def words(self) -> str:
        """What was printed, whitespace evened out."""
        return " ".join(self.out.split())


def bnfold(*arguments: str | Path) -> Outcome:
    """Run ``bnfold`` with these arguments."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.run([str(argument) for argument in arguments])
    return Outcome(code, out.getvalue(), err.getvalue())
