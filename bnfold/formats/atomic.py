"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path
from typing import Protocol

from bnfold.errors import OutputError

#: Pieces up to this size are gathered until there is as much.
_BUFFER_BYTES = 1 << 20
#: What copy_file_range answers where these two files, or this kernel, cannot do it.
_CANNOT_COPY = frozenset({errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF})


class Sink(Protocol):
    """Where bytes are written to."""

    def write(self, data: bytes | memoryview) -> None: ...

    def copy_from(self, descriptor: int, offset: int, length: int) -> int:
        """Let the kernel copy from an open file; how many bytes it did copy, from none to all."""


class Output:
    """A file being written: small pieces are gathered, large ones go straight through."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._pending = bytearray()
        #: How many bytes have been written.
        self.position = 0

    def write(self, data: bytes | memoryview) -> None:
        self.position += len(data)
        if len(self._pending) + len(data) > _BUFFER_BYTES:
            self.flush()
        if len(data) > _BUFFER_BYTES:
            self._write(data)
        else:
            self._pending += data

    def copy_from(self, descriptor: int, offset: int, length: int) -> int:
        if not hasattr(os, "copy_file_range"):
            return 0
        self.flush()
        done = 0
        while done < length:
            try:
                count = os.copy_file_range(descriptor, self._descriptor, length - done, offset + done)
            except OSError as error:
                if error.errno in _CANNOT_COPY:
                    break
                raise
            if not count:
                break
            done += count
        self.position += done
        return done

    def flush(self) -> None:
        """Hand to the system what has been gathered."""
        self._write(self._pending)
        self._pending = bytearray()

    def sync(self) -> None:
        """Return when everything is on the disk."""
        self.flush()
        os.fsync(self._descriptor)

    def _write(self, data: bytes | bytearray | memoryview) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]


def resolve_target(path: str | PathLike[str]) -> Path:
    """The file that ``path`` stands for, links followed. Raises OutputError where none can be written."""
    try:
        target = Path(os.path.realpath(path))
        mode = target.stat().st_mode
    except FileNotFoundError:
        if not target.parent.is_dir():
            raise _failure(path, f"there is no folder {target.parent}") from None
        return target
    except (OSError, ValueError) as error:
        raise _failure(path, error) from error
    if stat.S_ISDIR(mode):
        raise _failure(path, "it is a directory")
    if not stat.S_ISREG(mode):
        raise _failure(path, "it is not a regular file")
    if not os.access(target, os.W_OK):
        raise _failure(path, "it is write-protected")
    return target


@contextmanager
def atomic_write(path: str | PathLike[str]) -> Iterator[Output]:
    """Write a file beside ``path``, and rename it over ``path`` when the block ends without an error.

    An existing file's permissions are kept. Whatever goes wrong, the target is as it was and
    nothing is left beside it. Raises OutputError.
    """
    target = resolve_target(path)
    temporary = target.with_name(f".bnfold-{secrets.token_hex(8)}.tmp")
    try:
        with _written(temporary, _create(temporary)) as out:
            yield out
            if target.exists():
                temporary.chmod(stat.S_IMODE(target.stat().st_mode))
            out.sync()
        temporary.replace(target)
        _sync_directory(target.parent)
    except OSError as error:
        remove(temporary)
        raise _failure(path, error) from error


@contextmanager
def new_file(path: str | PathLike[str], candidates: Iterable[Path]) -> Iterator[tuple[Path, Output]]:
    """Write the first of ``candidates`` that does not exist yet; it is removed if the block fails.

    ``path`` is the file that errors name. Raises OutputError.
    """
    try:
        for candidate in candidates:
            try:
                descriptor = _create(candidate)
            except FileExistsError:
                continue
            with _written(candidate, descriptor) as out:
                yield candidate, out
                out.sync()
            return
    except OSError as error:
        raise _failure(path, error) from error


def _create(file: Path) -> int:
    return os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)


@contextmanager
def _written(file: Path, descriptor: int) -> Iterator[Output]:
    """A new file, closed in the end and removed if the block fails."""
    try:
        yield Output(descriptor)
    except BaseException:
        remove(file)
        raise
    finally:
        os.close(descriptor)


def _failure(path: str | PathLike[str], cause: Exception | str) -> OutputError:
    why = cause if isinstance(cause, str) else reason(cause)
    return OutputError(f"{os.fspath(path)} cannot be written: {why}")


def _sync_directory(directory: Path) -> None:
    """Make a rename in the directory survive a power cut, where the system lets one."""
    with suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove(path: Path) -> None:
    """Delete a file that may be gone already."""
    path.unlink(missing_ok=True)


def reason(error: Exception) -> str:
    """The system's own words without its error number: ``no space left on device``."""
    text = getattr(error, "strerror", None) or str(error)
    return text[:1].lower() + text[1:]
