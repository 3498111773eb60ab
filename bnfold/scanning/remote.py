"""Places that are not files of this machine, by fsspec: which client is needed, and what its errors mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from bnfold.errors import BnfoldError, MissingExtraError, ModelFileError, UsageError, shortened

#: What brings the client of a protocol, where fsspec itself does not name it.
_CLIENTS = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "hf": "huggingface_hub", "https": "aiohttp",
            "http": "aiohttp", "az": "adlfs", "abfs": "adlfs"}  # fmt: skip
#: File systems that exist in one process alone.
_OF_ONE_PROCESS = frozenset({"memory"})
#: What says that a file has changed, in the words of the various services; the first that is there.
_IDENTITY = ("ETag", "etag", "md5Hash", "md5", "content_md5", "blob_id", "generation", "LastModified", "last_modified",
             "mtime", "updated", "created")  # fmt: skip


def is_remote(target: str) -> bool:
    """Is this a URL?"""
    scheme, separator, _ = target.partition("://")
    return bool(separator) and scheme.replace("+", "").isalnum() and len(scheme) > 1


def scheme_of(url: str) -> str:
    return url.partition("://")[0].lower()


def of_one_process(url: str) -> bool:
    """Does no other process see what lies there?"""
    return scheme_of(url) in _OF_ONE_PROCESS


def open_filesystem(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path there. Raises MissingExtraError, UsageError and ModelFileError."""
    with reported(url):
        try:
            from fsspec.core import url_to_fs
        except ImportError as error:
            raise MissingExtraError(f"{url}: URLs need fsspec: pip install bnfold[scan]") from error
        file_system, path = url_to_fs(url, use_listings_cache=False)
        return file_system, path


def identity_of(info: Mapping[str, Any]) -> str:
    """What changes when the file does: its size, and the service's own word for the version."""
    marks = [f"{key}={str(info[key]).strip(chr(34))}" for key in _IDENTITY if info.get(key) is not None]
    return f"{info.get('size')} {marks[0] if marks else ''}".strip()


@contextmanager
def reported(url: str) -> Iterator[None]:
    """What the client libraries raise as one sentence about ``url``."""
    try:
        yield
    except (BnfoldError, GeneratorExit):
        raise
    except ImportError as error:
        client = _CLIENTS.get(scheme_of(url))
        hint = f"pip install {client}" if client else shortened(error)
        raise MissingExtraError(f"{url}: the client for {scheme_of(url)}:// is not installed: {hint}") from error
    except FileNotFoundError as error:
        raise ModelFileError(f"{url} does not exist") from error
    except PermissionError as error:
        raise ModelFileError(f"{url} cannot be read: permission denied ({shortened(error, 120)})") from error
    except ValueError as error:
        if "Protocol not known" in str(error):
            raise UsageError(f"{url}: there is no protocol {scheme_of(url)}://") from error
        raise ModelFileError(f"{url} cannot be read: {shortened(error)}") from error
    except Exception as error:  # each client library has exceptions of its own, with no common base
        raise ModelFileError(f"{url} cannot be read: {type(error).__name__}: {shortened(error)}") from error
