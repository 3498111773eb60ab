"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

from bnfold.errors import OutputError

_BUFFER_BYTES = 1 << 18
#: What copy_file_range answers where the two files or the kernel cannot do it.
_CANNOT_COPY = frozenset({errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF})


class Output:
    """A file being written: small pieces are gathered, large ones go straight through."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.position = 0
        self._pending = bytearray()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.position += len(data)
        if len(self._pending) + len(data) <= _BUFFER_BYTES:
            self._pending += data
            return
        self.flush()
        self._write(memoryview(data))

    def flush(self) -> None:
        """Hand what has been gathered to the system."""
        if self._pending:
            self._write(memoryview(self._pending))
            self._pending = bytearray()

    def _write(self, data: memoryview) -> None:
        while data:
            data = data[os.write(self.descriptor, data) :]

    def copy_from(self, descriptor: int, offset: int, length: int) -> int:
        """Let the kernel copy from another file; the number of bytes it copied, which may be 0."""
        if not hasattr(os, "copy_file_range"):
            return 0
        self.flush()
        done = 0
        while done < length:
            try:
                count = os.copy_file_range(descriptor, self.descriptor, length - done, offset + done)
            except OSError as error:
                if error.errno in _CANNOT_COPY:
                    break
                raise
            if not count:
                break
            done += count
        self.position += done
        return done

    def align(self, boundary: int) -> None:
        """Write zeros up to the next multiple of ``boundary``."""
        self.write(bytes(-self.position % boundary))


def resolve_target(path: str | PathLike[str]) -> Path:
    """The file that ``path`` stands for, links followed. Raises OutputError where none can be written."""
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise OutputError(f"{path} is a directory, not a file to write to")
    if target.exists() and not target.is_file():
        raise OutputError(f"{path} is not a regular file")
    if target.exists() and not os.access(target, os.W_OK):
        raise OutputError(f"{path} is write-protected")
    if not target.parent.is_dir():
        raise OutputError(f"{path} cannot be written: there is no folder {target.parent}")
    return target


@contextmanager
def atomic_write(path: str | PathLike[str]) -> Iterator[Output]:
    """Write a file beside ``path`` and rename it over ``path`` when the block ends without an error.

    An existing file's permissions are kept. Whatever goes wrong, the target is as it was and
    nothing is left beside it. Raises OutputError.
    """
    try:
        target = resolve_target(path)
        temporary = target.with_name(f".bnfold-{secrets.token_hex(8)}.tmp")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {reason(error)}") from error
    try:
        output = Output(descriptor)
        try:
            yield output
            output.flush()
            if target.exists():
                os.chmod(temporary, stat.S_IMODE(target.stat().st_mode))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, target)
    except OSError as error:
        remove(temporary)
        raise OutputError(f"{path} cannot be written: {reason(error)}") from error
    except BaseException:
        remove(temporary)
        raise
    sync_directory(target.parent)


def sync_directory(directory: Path) -> None:
    """Make a rename in the directory survive a power cut, where the system lets one."""
    if os.name == "nt":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Delete a file that may be gone already."""
    path.unlink(missing_ok=True)


def reason(error: OSError) -> str:
    """The system's own words, without its error number: ``no space left on device``."""
    text = error.strerror or str(error)
    return text[:1].lower() + text[1:]
