"""Processes for the tests of survival: the command line with limits, and without root's privileges."""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "sample_models"
#: From Linux's prctl.h and capability.h.
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "bnfold", *map(str, arguments)]


def environment(**changes: str) -> dict[str, str]:
    # Where no file may grow Python would leave compiled modules cut off.
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **changes}


def bnfold(
    *arguments: str | Path, before: Callable[[], None] | None = None, seconds: float = 120, **changes: str
) -> subprocess.CompletedProcess[str]:
    """A whole bnfold process; ``before`` runs in it first, ``changes`` are to its environment."""
    return subprocess.run(
        command(*arguments), env=environment(**changes), capture_output=True, text=True, check=False,
        preexec_fn=before, timeout=seconds,
    )  # fmt: skip


def without_privileges() -> None:
    """Make write protection hold for root too, in a process that is about to start."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)


def small_files(limit: int) -> Callable[[], None]:
    """No file may grow beyond ``limit`` bytes, as on a disk that is nearly full."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def names(folder: Path) -> list[str]:
    """What is in a folder and below."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def assert_one_sentence(done: subprocess.CompletedProcess[str], *words: str, code: int = 2) -> None:
    """The process said what is wrong in one line, and nothing else."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("bnfold: ")
    assert done.stderr.count("\n") == 1
    assert done.stderr.rstrip("\n").isprintable()
    for word in words:
        assert word in done.stderr


def running(arguments: Sequence[str | Path], **changes: str) -> subprocess.Popen[str]:
    """A bnfold process that goes on."""
    return subprocess.Popen(
        command(*arguments), env=environment(**changes), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
