"""Temporary files and folders: an orderly end leaves nothing of them, and what a killed process left is swept later.

A name says whose it is: the system and the process. What belongs to a process that is gone is removed by the next one
that puts something into the same folder; what cannot be told, as on a file system that machines share, after a week.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import stat
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

#: What has not been removed yet, with the process it belongs to: a fork must leave it alone.
_pending: dict[Path, int] = {}
#: The folders that have been swept, each once a process.
_swept: set[Path] = set()
#: No process of bnfold's takes as long, in seconds.
_FOREIGN_AGE = 7 * 24 * 3600.0
_NAME = re.compile(r"\.bnfold-(?P<system>[0-9a-f]{8})-(?P<process>\d+)-(?P<start>\d+)-[0-9a-f]{16}(?:\.\w+)?")


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A new folder where the system keeps temporary files, removed in the end. Raises OSError."""
    import tempfile

    with removed_in_the_end(Path(tempfile.gettempdir(), temporary_name())) as folder:
        folder.mkdir(mode=0o700)
        yield folder


def temporary_name(suffix: str = "") -> str:
    """A name that nobody else uses."""
    process = os.getpid()
    return f".bnfold-{_system()}-{process}-{_start(process) or 0}-{os.urandom(8).hex()}{suffix}"


@contextmanager
def removed_in_the_end(path: Path) -> Iterator[Path]:
    """Whatever is made at ``path``, a name of :func:`temporary_name`, is removed when the block ends.

    A signal may arrive at any moment, that of the removal included: what it leaves is removed at exit.
    """
    _sweep(path.parent)
    _pending[path] = os.getpid()
    try:
        yield path
    finally:
        _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
    if not path.exists():  # elsewhere than on POSIX, files that are open stay
        _pending.pop(path, None)


@atexit.register
def _remove_pending() -> None:
    for path, owner in list(_pending.items()):
        if owner == os.getpid():
            _remove(path)


def _sweep(folder: Path) -> None:
    """Remove what processes left in a folder that were killed. Nothing that is in the way of it is an error."""
    if folder in _swept:
        return
    _swept.add(folder)
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            name = _NAME.fullmatch(entry.name)
            if name is not None and _is_left_over(name, entry.stat(follow_symlinks=False)):
                with suppress(OSError):
                    _remove(Path(entry.path))


def _is_left_over(name: re.Match[str], status: os.stat_result) -> bool:
    """Is the process gone for certain that made this file or folder?"""
    if stat.S_ISLNK(status.st_mode) or (hasattr(os, "geteuid") and status.st_uid != os.geteuid()):
        return False
    start = int(name["start"])
    if name["system"] == _system() and start:
        return _start(int(name["process"])) != start
    return time.time() - status.st_mtime > _FOREIGN_AGE


@cache
def _system() -> str:
    """What the numbers of processes are unique in: one start of one machine, and one container of it."""
    parts = []
    with suppress(OSError):
        parts = [Path("/proc/sys/kernel/random/boot_id").read_text(), os.readlink("/proc/self/ns/pid")]
    return f"{zlib.crc32(' '.join(parts).encode()):08x}"


def _start(process: int) -> int | None:
    """When a process began, in the kernel's ticks; None where it is gone or the system does not say."""
    try:
        # The name of the program, in parentheses, may hold anything.
        fields = Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return int(fields[19])
    except (OSError, ValueError, IndexError):
        return None
