"""Which models there are: files, folders, globs and URLs, one after the other as they are found."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from bnfold.errors import ModelFileError
from bnfold.formats.atomic import reason
from bnfold.formats.remote import identity_of, is_remote, open_filesystem, reported

SUFFIXES = (".onnx", ".keras", ".h5", ".hdf5")
_SAVED_MODEL = "saved_model.pb"
_MAGIC = frozenset("*?[")


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
    """The models that ``targets`` stand for, each once, leaving out those in the folder ``without``.

    Raises ModelFileError for a target that does not exist or cannot be listed.
    """
    seen: set[str] = set()
    for target in [os.fspath(each) for each in targets]:
        for found in _remote(target) if is_remote(target) else _local(target, without):
            if found.path not in seen:
                seen.add(found.path)
                yield found


def _local(target: str, without: str | None) -> Iterator[Target]:
    if os.path.isdir(target):
        yield from _folder(target, without)
    elif os.path.lexists(target) or not _MAGIC & set(target):
        yield _file(target, os.path.basename(target))
    else:
        for path in sorted(glob.glob(target, recursive=True)):
            if os.path.isdir(path):
                yield from _folder(path, without) if os.path.isfile(os.path.join(path, _SAVED_MODEL)) else ()
            else:
                yield _file(path, os.path.basename(path))


def _folder(root: str, without: str | None) -> Iterator[Target]:
    """The models below a folder, in the order of their names; a folder that is a SavedModel is one."""
    excluded = None if without is None else os.path.realpath(without)

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
    return Target(path, status.st_size, f"{status.st_size} mtime={status.st_mtime_ns}", name)


def _saved_model(folder: str, name: str) -> Target:
    """One identity of all its files."""
    parts, total = [], 0
    for path in sorted(Path(folder).rglob("*")):
        if path.is_file():
            status = path.stat()
            total += status.st_size
            parts.append(f"{path.relative_to(folder)} {status.st_size} {status.st_mtime_ns}")
    digest = hashlib.sha256("\n".join(parts).encode("utf-8", "surrogateescape")).hexdigest()
    return Target(folder, total, f"{total} files={digest}", name)


def _remote(url: str) -> Iterator[Target]:
    """The models at a URL: a file, a glob, or everything below a prefix."""
    file_system, path = open_filesystem(url)
    with reported(url):
        if _MAGIC & set(path) and not url.startswith(("http://", "https://")):
            listed = file_system.glob(path, detail=True)
        else:
            info = file_system.info(path)
            if info["type"] != "directory":
                yield _of_info(file_system.unstrip_protocol(path), info, PurePosixPath(path).name)
                return
            yield from _below(file_system, path)
            return
    for name in sorted(listed):
        if listed[name]["type"] != "directory":
            yield _of_info(file_system.unstrip_protocol(name), listed[name], PurePosixPath(name).name)


def _below(file_system: object, root: str) -> Iterator[Target]:
    """A folder at a time, so that a bucket of any size is listed in little memory."""
    walk = file_system.walk(root, detail=True, on_error="raise")  # type: ignore[attr-defined]
    for folder, folders, files in walk:
        if _SAVED_MODEL in files:
            folders.clear()
            size = sum(int(info.get("size") or 0) for info in files.values())
            marks = " ".join(f"{name}:{identity_of(files[name])}" for name in sorted(files))
            identity = f"{size} files={hashlib.sha256(marks.encode()).hexdigest()}"
            name = folder.removeprefix(root).strip("/") or PurePosixPath(root).name
            yield Target(file_system.unstrip_protocol(folder), size, identity, name)  # type: ignore[attr-defined]
            continue
        for name in sorted(files):
            if name.lower().endswith(SUFFIXES):
                path = f"{folder}/{name}"
                url = file_system.unstrip_protocol(path)  # type: ignore[attr-defined]
                yield _of_info(url, files[name], path.removeprefix(root).strip("/"))


def _of_info(url: str, info: dict[str, object], name: str) -> Target:
    size = info.get("size")
    return Target(url, int(str(size)) if size is not None else None, identity_of(info), name)
