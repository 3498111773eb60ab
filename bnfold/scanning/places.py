"""Where folded models go: which names they get, whether anything can be put there, and how it gets there whole."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path, PurePosixPath

from bnfold.errors import OutputError, UsageError
from bnfold.formats.atomic import reason
from bnfold.formats.remote import is_http, is_remote, of_one_process, open_filesystem, reported
from bnfold.scanning.discovery import SUFFIXES, Target
from bnfold.temporary import temporary_name

#: Where an object appears when its upload is complete, and where folders are but a part of its name.
_OBJECT_STORES = frozenset({"s3", "gs", "az"})


def check_place(folder: str) -> None:
    """Before any model is read: can results be put there? An empty file is, and is removed again.

    Raises OutputError and UsageError.
    """
    if not folder:
        raise UsageError("--fold-to needs the name of a folder")
    if of_one_process(folder):
        raise UsageError(f"{folder}: what the processes of the models put there, no other would see")
    if is_http(folder):
        raise UsageError(f"{folder}: over HTTP models can be read, and not written")
    if not is_remote(folder):
        _check_folder(folder)
        return
    file_system, path = open_filesystem(folder)
    with reported(folder, "written"):
        probe = f"{path.rstrip('/')}/{temporary_name()}"
        _make_folder(file_system, probe)
        file_system.pipe_file(probe, b"")
        with suppress(PermissionError):  # who may write need not be one who may delete
            file_system.rm_file(probe)


def _check_folder(folder: str) -> None:
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {reason(error)}") from error
    if not os.access(folder, os.W_OK):
        raise OutputError(f"{folder} cannot be written: the folder is write-protected")


def place_of(target: Target, folder: str | None, taken: set[str]) -> str | None:
    """Where a folded model goes: its name below the target, with a suffix of its own where two are the same."""
    if folder is None:
        return None
    name = PurePosixPath(Path(target.name).as_posix())
    if name.suffix.lower() not in SUFFIXES:
        name = PurePosixPath(f"{name}.onnx")  # a SavedModel becomes one
    if str(name) in taken:
        name = name.with_stem(f"{name.stem}-{hashlib.sha256(os.fsencode(target.path)).hexdigest()[:8]}")
    taken.add(str(name))
    return f"{folder.rstrip('/')}/{name}" if is_remote(folder) else os.path.join(folder, name)


def upload(file: Path, url: str) -> None:
    """Put a file, and the weights beside it if there are any, under a URL: whole or not at all. Raises OutputError."""
    file_system, path = open_filesystem(url)
    with reported(url, "written"):
        _make_folder(file_system, path)
        parent = path.rpartition("/")[0]
        data = [each for each in file.parent.iterdir() if each != file]
        for each in [*data, file]:  # the model last: it names the others
            final = f"{parent}/{each.name}"
            if _is_object_store(file_system):
                file_system.put_file(str(each), final)
            else:
                staged = f"{parent}/{temporary_name()}"
                file_system.put_file(str(each), staged)
                file_system.mv(staged, final)


def _make_folder(file_system: object, path: str) -> None:
    if not _is_object_store(file_system):  # which would make a bucket
        file_system.makedirs(path.rpartition("/")[0], exist_ok=True)  # type: ignore[attr-defined]


def _is_object_store(file_system: object) -> bool:
    protocol = file_system.protocol  # type: ignore[attr-defined]
    return not _OBJECT_STORES.isdisjoint((protocol,) if isinstance(protocol, str) else protocol)
