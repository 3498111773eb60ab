"""A model from elsewhere as files of this machine, for what needs all of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

from bnfold.errors import BnfoldError, ModelFileError, UnavailableError
from bnfold.formats.remote import beside, is_http, is_remote, name_of, open_filesystem, reported
from bnfold.temporary import temporary_folder


@contextmanager
def local_source(source: Any) -> Iterator[Any]:
    """``source`` itself, or where it is a URL a copy of what lies there."""
    if isinstance(source, str) and is_remote(source):
        with fetched(source) as (path, _):
            yield path
    else:
        yield source


@contextmanager
def local_unless_onnx(source: Any) -> Iterator[Any]:
    """``source`` itself, or where it is a URL of something that cannot be read in parts a copy of what lies there."""
    if isinstance(source, str) and is_remote(source) and not name_of(source).lower().endswith(".onnx"):
        with fetched(source) as (path, _):
            yield path
    else:
        yield source


@contextmanager
def fetched(url: str, size: int | None = None) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A copy of the model, its external data included, and ``bytes``, ``requests`` and ``seconds`` of fetching it.

    What is raised while it exists names the URL. Raises ModelFileError, MissingExtraError and UsageError.
    """
    started = time.monotonic()
    file_system, path = open_filesystem(url)
    with temporary_folder() as folder, called(folder / name_of(url), url) as local:
        with reported(url):
            if not is_http(url) and file_system.isdir(path):  # there it would fetch all of it
                file_system.get(path, str(local), recursive=True)
            else:
                _fetch(file_system, path, local, size)
        _fetch_beside(url, local)
        files = [each for each in folder.rglob("*") if each.is_file()]
        total = sum(each.stat().st_size for each in files)
        yield local, {"bytes": total, "requests": len(files), "seconds": time.monotonic() - started}


@contextmanager
def called(local: Path, url: str) -> Iterator[Path]:
    """In errors, the copy has the name of what it is a copy of."""
    try:
        yield local
    except BnfoldError as error:
        if str(local) not in str(error):
            raise
        raise type(error)(str(error).replace(str(local), url)) from error


def _fetch(file_system: Any, path: str, local: str | PathLike[str], size: int | None = None) -> None:
    local = Path(local)
    wanted = file_system.info(path).get("size") if size is None else size
    local.parent.mkdir(parents=True, exist_ok=True)
    file_system.get_file(path, str(local))
    if wanted is not None and local.stat().st_size != wanted:
        raise UnavailableError(f"{file_system.unstrip_protocol(path)} was cut short while it was being read")


def _fetch_beside(url: str, local: Path) -> None:
    """The files that an ONNX model has its external data in."""
    if local.suffix.lower() != ".onnx":
        return
    from bnfold.formats.onnx.external import locations

    for location in locations(local):
        file_system, path = open_filesystem(beside(url, location))
        with reported(url):
            try:
                _fetch(file_system, path, local.parent / location)
            except FileNotFoundError as error:
                raise ModelFileError(f"{url} has its data in {location!r}, which does not exist") from error
