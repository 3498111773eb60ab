"""Which models there are: files, folders, globs and URLs, one after the other as they are found."""

from __future__ import annotations

import glob
import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from bnfold.errors import ModelFileError, UsageError
from bnfold.formats.atomic import reason
from bnfold.formats.remote import (
    beside,
    identity_of,
    is_http,
    is_remote,
    name_of,
    open_filesystem,
    reported,
    split_chain,
)

SUFFIXES = (".onnx", ".keras", ".h5", ".hdf5")
_SAVED_MODEL = "saved_model.pb"
_MAGIC = frozenset("*?[")
#: A file that changed so short a time ago, in seconds, may change once more without another time of change: the clocks
#: of file systems stand still for up to two seconds.
_SETTLED = 2.0


@dataclass(frozen=True, slots=True)
class Target:
    """A model: ``path`` (or URL), bytes, what changes when the model does, and its name below what was asked for."""

    path: str
    size: int | None
    identity: str
    name: str

    @property
    def is_remote(self) -> bool:
        return is_remote(self.path)


def find_targets(targets: Iterable[str | os.PathLike[str]], without: str | None = None) -> Iterator[Target]:
    """The models that ``targets`` stand for, each once; those in the folder ``without`` only where they are named.

    ``without`` may be a URL too. Raises ModelFileError for a target that does not exist or cannot be listed, and
    UsageError for one that is ``without`` itself.
    """
    seen: set[str] = set()
    for target in [os.fspath(each) for each in targets]:
        if not target:
            raise UsageError("a target is an empty text; it should be a file, a folder, a glob or a URL")
        for found in _remote(target, without) if is_remote(target) else _local(target, without):
            place = found.path if is_remote(target) else _place(found.path)
            if place not in seen:
                seen.add(place)
                yield found


def _place(path: str) -> str:
    """The same however the way there is spelled, and through whatever link to a folder it leads."""
    folder, name = os.path.split(os.path.abspath(path) if os.path.isdir(path) else path)
    return os.path.join(os.path.realpath(folder), name)


def _local(target: str, without: str | None) -> Iterator[Target]:
    excluded = None if without is None or is_remote(without) else os.path.realpath(without)
    if os.path.isdir(target):
        if excluded is not None and os.path.realpath(target) == excluded:
            raise _itself(target)
        yield from _folder(target, excluded)
    elif os.path.lexists(target) or not _MAGIC & set(target):
        yield _file(target, os.path.basename(target))
    else:
        for path in sorted(glob.glob(target, recursive=True)):
            if excluded is not None and f"{os.path.realpath(path)}{os.sep}".startswith(f"{excluded}{os.sep}"):
                continue
            if os.path.isdir(path):
                yield from _folder(path, excluded) if os.path.isfile(os.path.join(path, _SAVED_MODEL)) else ()
            else:
                yield _file(path, os.path.basename(path))


def _itself(target: str) -> UsageError:
    return UsageError(f"{target} is what is scanned, so that results need a folder of their own")


def _folder(root: str, excluded: str | None) -> Iterator[Target]:
    """The models below a folder, in the order of their names; a folder that is a SavedModel is one."""

    def fail(error: OSError) -> None:
        raise ModelFileError(f"{error.filename} cannot be listed: {reason(error)}") from error

    for folder, folders, files in os.walk(root, onerror=fail):
        folders.sort()
        if excluded is not None and os.path.realpath(folder) == excluded:
            folders.clear()
            continue
        if _SAVED_MODEL in files:
            folders.clear()
            name = os.path.relpath(folder, root) if folder != root else os.path.basename(os.path.abspath(root))
            yield _saved_model(folder, name)
            continue
        for file in sorted(files):
            if file.lower().endswith(SUFFIXES) and not file.startswith(".bnfold-"):
                path = os.path.join(folder, file)
                yield _file(path, os.path.relpath(path, root))


def _file(path: str, name: str) -> Target:
    try:
        status = os.stat(path)
    except OSError as error:
        if os.path.islink(path):  # a link that leads nowhere is a model that cannot be read, not a wrong call
            return Target(path, None, "broken link", name)
        raise ModelFileError(f"{path} cannot be read: {reason(error)}") from error
    except ValueError as error:
        raise ModelFileError(f"{path!r} cannot be read: {reason(error)}") from error
    return Target(path, status.st_size, _identity(status), name)


def _identity(status: os.stat_result) -> str:
    """What changes when a file does, restored with its old times included: no program sets the time of a change.

    The number of the inode is left out: where folders are mounted over a network it may be another one every time.
    """
    times = (status.st_mtime_ns, status.st_ctime_ns)
    unsettled = max(times) > time.time_ns() - _SETTLED * 1e9
    note = f" unsettled={time.time_ns()}" if unsettled else ""  # the next scan reads it once more
    return f"{status.st_size} mtime={times[0]} ctime={times[1]}{note}"


def identity_beside(model: str, names: Sequence[str]) -> str:
    """What changes when one of a model's data files does; ``names`` are relative to its folder. Empty for none.

    A file that is not there changes whenever it is looked at. Raises what :func:`reported` raises.
    """
    marks = []
    for name in names:
        if is_remote(model):
            file_system, path = open_filesystem(beside(model, name))
            with reported(model):
                marks.append(identity_of(file_system.info(path)))
        else:
            marks.append(_identity(os.stat(os.path.join(os.path.dirname(model), name))))
    return f" beside={_digest(marks)}" if marks else ""


def _saved_model(folder: str, name: str) -> Target:
    """One identity of all its files."""
    parts, total = [], 0
    for path in sorted(Path(folder).rglob("*")):
        if path.is_file():
            status = path.stat()
            total += status.st_size
            parts.append(f"{path.relative_to(folder)} {_identity(status)}")
    return Target(folder, total, f"{total} files={_digest(parts)}", name)


def _digest(marks: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(marks).encode("utf-8", "surrogateescape")).hexdigest()


def _remote(url: str, without: str | None) -> Iterator[Target]:
    """The models at a URL: a file, a glob, or everything below a prefix."""
    file_system, path = open_filesystem(url)
    first, rest = split_chain(url)
    excluded = _excluded(file_system, without)
    with reported(url):
        if _MAGIC & set(path) and not is_http(url):
            listed = file_system.glob(path, detail=True)
        else:
            info = file_system.info(path)
            if info["type"] != "directory":
                yield _of_info(file_system.unstrip_protocol(path) + rest, info, name_of(url))
                return
            if excluded is not None and path.rstrip("/") == excluded:
                raise _itself(url)
            yield from _below(file_system, path, excluded, rest)
            return
    if not listed and not rest:
        base = first[: min(first.index(sign) for sign in _MAGIC if sign in first)].rpartition("/")[0]
        with reported(base):
            file_system.info(file_system._strip_protocol(base))
    for name in sorted(listed):
        if listed[name]["type"] != "directory" and not (excluded is not None and name.startswith(f"{excluded}/")):
            yield _of_info(file_system.unstrip_protocol(name) + rest, listed[name], PurePosixPath(name).name)


def _excluded(file_system: Any, without: str | None) -> str | None:
    """The folder ``without`` as a path of this file system, None where it is none."""
    if without is None or not is_remote(without):
        return None
    other, path = open_filesystem(without)
    return path.rstrip("/") if type(other) is type(file_system) else None


def _below(file_system: Any, root: str, excluded: str | None, rest: str) -> Iterator[Target]:
    """A folder at a time, so that a bucket of any size is listed in little memory."""
    for folder, folders, files in file_system.walk(root, detail=True, on_error="raise"):
        if folder.rstrip("/") == excluded:
            folders.clear()
            continue
        if _SAVED_MODEL in files:
            folders.clear()
            size = sum(int(info.get("size") or 0) for info in files.values())
            marks = [f"{name}:{identity_of(files[name])}" for name in sorted(files)]
            identity = f"{size} files={_digest(marks)}"
            name = folder.removeprefix(root).strip("/") or PurePosixPath(root).name
            yield Target(file_system.unstrip_protocol(folder) + rest, size, identity, name)
            continue
        for name in sorted(files):
            if name.lower().endswith(SUFFIXES):
                path = f"{folder}/{name}" if folder else name
                url = file_system.unstrip_protocol(path) + rest
                yield _of_info(url, files[name], path.removeprefix(root).strip("/"))


def _of_info(url: str, info: dict[str, object], name: str) -> Target:
    size = info.get("size")
    return Target(url, int(str(size)) if size is not None else None, identity_of(info), name)
