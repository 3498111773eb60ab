"""Temporary files and folders that an orderly end of the process leaves nothing of, whatever interrupts it."""

from __future__ import annotations

import atexit
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: What has not been removed yet, with the process it belongs to: a fork must leave it alone.
_pending: dict[Path, int] = {}


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A new folder where the system keeps temporary files, removed in the end. Raises OSError."""
    import tempfile

    with removed_in_the_end(Path(tempfile.gettempdir(), temporary_name())) as folder:
        folder.mkdir(mode=0o700)
        yield folder


def temporary_name(suffix: str = "") -> str:
    """A name that nobody else uses."""
    return f".bnfold-{os.urandom(8).hex()}{suffix}"


@contextmanager
def removed_in_the_end(path: Path) -> Iterator[Path]:
    """Whatever is made at ``path``, a name of :func:`temporary_name`, is removed when the block ends.

    A signal may arrive at any moment, that of the removal included: what it leaves is removed at exit.
    """
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
