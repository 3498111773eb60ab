"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path
from typing import Protocol

from bnfold.errors import OutputError
from bnfold.formats.remote import is_remote
from bnfold.temporary import removed_in_the_end, temporary_name

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
    if is_remote(os.fspath(path)):
        raise _failure(path, "it is a URL, and only what `bnfold scan --fold-to` folds goes to one")
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


class StagedFile:
    """A file beside its target under a temporary name: written, looked at, and then committed or dropped."""

    def __init__(self, name: str | PathLike[str], target: Path, path: Path) -> None:
        self._name = name  # how errors call the target
        self.target = target
        #: Where it lies until :meth:`commit`.
        self.path = path
        self._inode: tuple[int, int] | None = None
        self._renamed = False

    @contextmanager
    def writing(self) -> Iterator[Output]:
        """Fill the file; it is complete and on the disk when the block ends. An existing target's permissions are kept.

        Raises OutputError.
        """
        with _reported(self._name), _closed(_create(self.path)) as out:
            yield out
            if self.target.exists():
                self.path.chmod(stat.S_IMODE(self.target.stat().st_mode))
            out.sync()
            self._inode = _inode(self.path)

    def commit(self) -> None:
        """Give the file its name, in the place of what has it. Raises OutputError."""
        with _reported(self._name):
            self.path.replace(self.target)
            self._renamed = True
            _sync_directory(self.target.parent)

    @property
    def committed(self) -> bool:
        """Has the file got its name? Known even where a signal came between the renaming and the next statement."""
        if self._renamed or self._inode is None:
            return self._renamed
        try:
            return _inode(self.target) == self._inode
        except OSError:
            return False


@contextmanager
def staged_file(path: str | PathLike[str]) -> Iterator[StagedFile]:
    """A file to be staged for ``path``. What is not committed when the block ends is dropped.

    Whatever goes wrong, the target is as it was or new, and nothing is left beside it. Raises OutputError.
    """
    target = resolve_target(path)
    with removed_in_the_end(target.with_name(temporary_name(target.suffix))) as temporary:
        yield StagedFile(path, target, temporary)


@contextmanager
def new_file(path: str | PathLike[str], candidates: Iterable[Path]) -> Iterator[tuple[Path, Output]]:
    """Write the first of ``candidates`` that does not exist yet; it is removed if the block fails.

    ``path`` is the file that errors name. Raises OutputError.
    """
    with _reported(path):
        file, descriptor = _first_new(candidates)
    try:
        with _reported(path), _closed(descriptor) as out:
            yield file, out
            out.sync()
    except BaseException:
        remove(file)
        raise


def _first_new(candidates: Iterable[Path]) -> tuple[Path, int]:
    for candidate in candidates:
        with suppress(FileExistsError):
            return candidate, _create(candidate)
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))


def _create(file: Path) -> int:
    return os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)


@contextmanager
def _closed(descriptor: int) -> Iterator[Output]:
    """The file that is being written, closed in the end."""
    try:
        yield Output(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _reported(path: str | PathLike[str]) -> Iterator[None]:
    """What the system refuses is an OutputError about ``path``."""
    try:
        yield
    except OSError as error:
        raise _failure(path, error) from error


def _failure(path: str | PathLike[str], cause: Exception | str) -> OutputError:
    why = cause if isinstance(cause, str) else reason(cause)
    return OutputError(f"{os.fspath(path)} cannot be written: {why}")


def _inode(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


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
