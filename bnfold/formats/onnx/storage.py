"""Where a model's bytes lie: in a file that stays mapped, or in memory."""

from __future__ import annotations

import errno
import mmap
import os
import stat
from pathlib import Path
from typing import Protocol

from bnfold.errors import ModelFileError
from bnfold.formats.atomic import Sink, reason

#: Bytes are copied in pieces of this size where the kernel does not copy them itself.
CHUNK_BYTES = 1 << 20


Identity = tuple[int, int, int, int]


class UnusableFileError(ValueError):
    """A file that cannot hold a model or its weights; the text is the end of a sentence about it."""


class Storage(Protocol):
    """Bytes that can be read in pieces."""

    def view(self, offset: int, length: int) -> memoryview:
        """The bytes themselves, read-only, not copied."""

    def read(self, offset: int, length: int) -> memoryview | bytes:
        """The bytes, copied where holding on to them would keep a file's pages in memory."""

    def copy(self, offset: int, length: int, out: Sink) -> None:
        """Append the bytes to ``out``."""

    def leaves_out(self, length: int, rank: int) -> bool:
        """Are the values of a tensor of so many bytes and dimensions left unread?"""


class MemoryStorage:
    """A model that was handed over as bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)

    def view(self, offset: int, length: int) -> memoryview:
        return memoryview(self.data)[offset : offset + length]

    def read(self, offset: int, length: int) -> memoryview:
        return self.view(offset, length)

    def copy(self, offset: int, length: int, out: Sink) -> None:
        out.write(self.view(offset, length))

    def leaves_out(self, length: int, rank: int) -> bool:
        return False

    def release(self) -> None:
        """There is nothing to let go of."""


class FileStorage:
    """A file, open and mapped for as long as this object lives: renaming another over it does no harm."""

    def __init__(self, path: Path, descriptor: int) -> None:
        """Take over ``descriptor``: ``path``, a file that is not empty, opened for reading."""
        self.path = path
        self._descriptor = descriptor
        self.stat = os.fstat(descriptor)
        self.size = self.stat.st_size
        self.data = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)

    def __del__(self) -> None:
        os.close(self._descriptor)

    def view(self, offset: int, length: int) -> memoryview:
        return memoryview(self.data)[offset : offset + length]

    def read(self, offset: int, length: int) -> bytes:
        # Not through the map, whose pages would count as this process's memory.
        if not hasattr(os, "pread"):
            return self.data[offset : offset + length]
        parts = []
        while length:
            part = os.pread(self._descriptor, length, offset)
            if not part:
                raise ModelFileError(f"{self.path} was cut short while it was being read")
            parts.append(part)
            offset += len(part)
            length -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def copy(self, offset: int, length: int, out: Sink) -> None:
        done = out.copy_from(self._descriptor, offset, length) if length >= CHUNK_BYTES else 0
        while done < length:
            part = min(CHUNK_BYTES, length - done)
            out.write(self.read(offset + done, part))
            done += part

    def leaves_out(self, length: int, rank: int) -> bool:
        return False

    def release(self) -> None:
        """Let go of the pages that reading through the map has brought in."""
        if hasattr(self.data, "madvise"):
            self.data.madvise(mmap.MADV_DONTNEED)

    def is_current(self) -> bool:
        """Does the path still lead to this very file, unchanged?"""
        try:
            now = self.path.stat()
        except OSError:
            return False
        return identity(now) == identity(self.stat)


class DetachedStorage:
    """A file that is opened only while it is read: a model may have more data files than a process may open."""

    def __init__(self, storage: FileStorage) -> None:
        self._path = storage.path
        self._stat = storage.stat

    def view(self, offset: int, length: int) -> memoryview:
        return self._open().view(offset, length)

    def read(self, offset: int, length: int) -> bytes:
        return self._open().read(offset, length)

    def copy(self, offset: int, length: int, out: Sink) -> None:
        self._open().copy(offset, length, out)

    def leaves_out(self, length: int, rank: int) -> bool:
        return False

    def _open(self) -> FileStorage:
        try:
            storage = open_file(self._path)
        except (OSError, UnusableFileError) as error:
            raise ModelFileError(f"{self._path} cannot be read any more: {reason(error)}") from error
        if identity(storage.stat) != identity(self._stat):
            raise ModelFileError(f"{self._path} has changed since the model was loaded")
        return storage


#: Without O_NONBLOCK, opening a pipe would wait for somebody to write to it.
_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def open_file(path: Path) -> FileStorage:
    """Open and map a file. Raises OSError, and UnusableFileError where it is empty or not a regular file."""
    return _mapped(path, os.open(path, _READ))


def open_beneath(directory: Path, path: Path) -> FileStorage:
    """:func:`open_file` for a resolved ``path`` inside a resolved ``directory``, following no link on the way.

    Between resolving a path and opening it, somebody may put a link in its place: what is opened here is
    what was resolved, or it is an OSError. Systems without ``openat`` compare the two afterwards instead.
    """
    parts = path.relative_to(directory).parts
    if os.open not in os.supports_dir_fd:
        storage = open_file(path)
        if os.path.realpath(path) != os.fspath(path) or not storage.is_current():
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        return storage
    here = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in parts[:-1]:
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=here)
            os.close(here)
            here = inner
        # A location that is the directory itself has no parts.
        return _mapped(path, os.open(parts[-1] if parts else ".", _READ | os.O_NOFOLLOW, dir_fd=here))
    finally:
        os.close(here)


def _mapped(path: Path, descriptor: int) -> FileStorage:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or not status.st_size:
        os.close(descriptor)
        raise UnusableFileError("is empty" if stat.S_ISREG(status.st_mode) else "is not a regular file")
    return FileStorage(path, descriptor)


def identity(status: os.stat_result) -> Identity:
    """What tells a file from another one, or from itself after a change."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
