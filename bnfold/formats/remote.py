"""Places that are not files of this machine, by fsspec: which client is needed, what its errors mean, and ranges."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import PurePosixPath
from typing import Any, Literal
from urllib.parse import urlsplit

from bnfold.errors import (
    BnfoldError,
    MissingExtraError,
    ModelFileError,
    OutputError,
    UnavailableError,
    UsageError,
    shortened,
)

#: What a request is taken to be worth, in bytes, before anything has been measured, and within which bounds after.
_WORTH, _LEAST_WORTH, _MOST_WORTH = 1 << 18, 1 << 14, 1 << 23

#: What brings the client of a protocol, where fsspec itself does not name it.
_CLIENTS = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "hf": "huggingface_hub", "https": "aiohttp",
            "http": "aiohttp", "az": "adlfs", "abfs": "adlfs"}  # fmt: skip
#: File systems that exist in one process alone.
_OF_ONE_PROCESS = frozenset({"memory"})
#: What says that a file has changed, in the words of the various services; the first that is there.
_IDENTITY = ("ETag", "etag", "md5Hash", "md5", "content_md5", "Content-MD5", "CRC", "blob_id", "generation",
             "LastModified", "last_modified", "Last-Modified", "mtime", "updated", "created")  # fmt: skip
_HTTP = frozenset({"http", "https"})
#: HTTP's answers that mean that there is no such file, and that it is not for whoever asked.
_MISSING, _FORBIDDEN = frozenset({404, 410}), frozenset({401, 403, 407})
#: What aiohttp raises where a connection ends before the answer does.
_BROKEN_OFF = frozenset(
    {"ClientPayloadError", "ServerDisconnectedError", "ClientOSError", "ClientConnectionResetError"}
)


def is_remote(target: str) -> bool:
    """Is this a URL?"""
    scheme, separator, _ = target.partition("://")
    return bool(separator) and scheme.replace("+", "").isalnum() and len(scheme) > 1


def scheme_of(url: str) -> str:
    return url.partition("://")[0].lower()


def is_http(url: str) -> bool:
    return scheme_of(url) in _HTTP


def name_of(url: str) -> str:
    """The last part of a URL's path, without what may follow a ``?`` in HTTP."""
    url, _ = split_chain(url)
    return PurePosixPath(urlsplit(url).path if is_http(url) else url.partition("://")[2]).name


def split_chain(url: str) -> tuple[str, str]:
    """A URL, and where the file system lies that it is of: ``zip://a.onnx`` and ``::s3://bucket/models.zip``."""
    first, separator, rest = url.partition("::")
    return first, separator + rest


def beside(url: str, location: str) -> str:
    """The URL of a file in the folder of another one, or below it."""
    first, rest = split_chain(url)
    return f"{first.rpartition('/')[0]}/{location}{rest}"


def client_modules(targets: Sequence[str]) -> tuple[str, ...]:
    """What the clients of these URLs are imported from, as far as they are installed: for whoever imports ahead."""
    schemes = {scheme_of(link) for target in targets if is_remote(target) for link in target.split("::")}
    modules = sorted({_CLIENTS[scheme] for scheme in schemes if scheme in _CLIENTS})
    return tuple(module for module in modules if find_spec(module) is not None)


def of_one_process(url: str) -> bool:
    """Does no other process see what lies there?"""
    return any(scheme_of(link) in _OF_ONE_PROCESS for link in url.split("::"))


def open_filesystem(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path there. Raises MissingExtraError, UsageError and ModelFileError."""
    with reported(url):
        try:
            from fsspec.core import url_to_fs
        except ImportError as error:
            raise MissingExtraError.of(f"{url}: URLs need fsspec", "scan") from error
        # A range of what was compressed on the way would be one of other bytes.
        options = {"headers": {"Accept-Encoding": "identity"}} if is_http(url) else {}
        file_system, path = url_to_fs(url, use_listings_cache=False, **options)
        return file_system, path


def identity_of(info: Mapping[str, Any]) -> str:
    """What changes when the file does: its size, and the service's own word for the version.

    Where a service has none, the file is another one whenever it is asked for.
    """
    marks = [f"{key}={str(info[key]).strip(chr(34))}" for key in _IDENTITY if info.get(key) is not None]
    return f"{info.get('size')} {marks[0] if marks else f'asked={time.time_ns()}'}"


@contextmanager
def reported(url: str, what: Literal["read", "written"] = "read") -> Iterator[None]:
    """What the client libraries raise as one sentence about ``url``, which was to be read or written.

    Raises MissingExtraError and UsageError; ModelFileError (UnavailableError where another time may do) or OutputError.
    """
    try:
        yield
    except (BnfoldError, GeneratorExit):
        raise
    except ImportError as error:
        client = _CLIENTS.get(scheme_of(url))
        hint = f"pip install {client}" if client else shortened(error)
        raise MissingExtraError(f"{url}: the client for {scheme_of(url)}:// is not installed: {hint}") from error
    except Exception as error:  # each client library has exceptions of its own, with no common base
        if isinstance(error, ValueError) and "Protocol not known" in str(error):
            raise UsageError(f"{url}: there is no protocol {scheme_of(url)}://") from error
        why = _why(url, error)
        if what == "written":
            raise OutputError(f"{url} cannot be written: {why or 'there is no such place'}") from error
        if why is None:
            raise ModelFileError(f"{url} does not exist") from error
        raise UnavailableError(f"{url} cannot be read: {why}") from error


def _why(url: str, error: Exception) -> str | None:
    """What an error of a client says, None where it says that there is no such file."""
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and is_http(url) and isinstance(cause, Exception):
        error = cause  # for fsspec everything that goes wrong there is a file that is missing
    status = getattr(error, "status", None)
    if isinstance(error, FileNotFoundError) or status in _MISSING:
        return None
    if isinstance(error, PermissionError) or status in _FORBIDDEN:
        return f"permission denied ({f'HTTP {status}' if status else shortened(error, 120)})"
    if isinstance(status, int) and status >= 400 and getattr(error, "message", None):
        return f"the server answers {status} {error.message}"  # type: ignore[attr-defined]
    if isinstance(error, NotImplementedError):
        return f"{scheme_of(url)}:// does not offer that"
    if type(error).__name__ == "TooManyRedirects":
        return "it leads from one address to another without end"
    if type(error).__name__ in _BROKEN_OFF:
        return "the connection broke off"
    words = shortened(error)
    return words if isinstance(error, ValueError) else f"{type(error).__name__}: {words}"


class RemoteFile:
    """A file behind a URL, read in ranges, with a count of what that took.

    ``size`` in bytes is asked for where it is not given. ``spare_bytes`` reads the fewest bytes, in more requests.
    ``weights`` False leaves large weights unread: what asks for their values is answered with ones. ``skip_from`` is
    the number of bytes that a round trip is worth (latency times bandwidth); None measures it on the way.
    """

    def __init__(
        self,
        url: str,
        *,
        size: int | None = None,
        spare_bytes: bool = False,
        weights: bool = True,
        skip_from: int | None = None,
    ) -> None:
        """Raises ModelFileError, MissingExtraError and UsageError as :func:`reported` does."""
        self.url = url
        self.spare_bytes = spare_bytes
        self.weights = weights
        self.requests = self.bytes_read = 0
        self.seconds = 0.0
        self._skip_from = skip_from
        #: Bytes and seconds of every request.
        self._measured: list[tuple[int, float]] = []
        #: The file, from a server that knows no ranges and has sent all of it.
        self._whole: bytes | None = None
        self._file_system, self._path = open_filesystem(url)
        self.size = self._asked_size() if size is None else size

    def sibling(self, location: str) -> RemoteFile:
        """A file beside this one, or in a folder beside it; what it takes is counted apart."""
        return RemoteFile(
            beside(self.url, location),
            spare_bytes=self.spare_bytes,
            weights=self.weights,
            skip_from=self._skip_from,
        )

    @property
    def worth(self) -> int:
        """How many bytes are read in the time of a round trip: latency times bandwidth."""
        if self._skip_from is not None:
            return self._skip_from
        if len(self._measured) < 2:
            return _WORTH
        latency = min(seconds for _, seconds in self._measured)
        rates = [size / (seconds - latency) for size, seconds in self._measured if seconds > 1.5 * latency]
        return int(min(_MOST_WORTH, max(_LEAST_WORTH, latency * max(rates)))) if rates else _WORTH

    def fetch(self, start: int, stop: int) -> bytes:
        """The bytes ``[start, stop)``, in one request."""
        if self._whole is not None:
            return self._whole[start:stop]
        started = time.monotonic()
        with reported(self.url):
            data = self._range(start, stop)
        seconds = time.monotonic() - started
        self._count(1, len(data), seconds)
        self._measured.append((len(data), seconds))
        if len(data) == stop - start:
            return data
        if len(data) != self.size:
            raise UnavailableError(f"{self.url} was cut short while it was being read")
        self._whole = data
        return data[start:stop]

    def fetch_many(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Several ranges, at the same time where the client can."""
        if not ranges:
            return []
        if not self._measured and is_http(self.url):  # one of them first: it tells whether there are ranges
            return [self.fetch(*ranges[0]), *self.fetch_many(ranges[1:])]
        if self._whole is not None:
            return [self._whole[start:stop] for start, stop in ranges]
        started = time.monotonic()
        starts, stops = [start for start, _ in ranges], [stop for _, stop in ranges]
        with reported(self.url):
            if self._file_system.async_impl:
                found = self._file_system.cat_ranges([self._path] * len(ranges), starts, stops, on_error="raise")
            else:
                found = [self._range(start, stop) for start, stop in ranges]
        parts = [bytes(part) for part in found]
        self._count(len(parts), sum(map(len, parts)), time.monotonic() - started)
        if any(len(part) != stop - start for part, (start, stop) in zip(parts, ranges, strict=True)):
            raise UnavailableError(f"{self.url} was cut short while it was being read")
        return parts

    def _range(self, start: int, stop: int) -> bytes:
        # Clients that are not asynchronous open a file for it, which would read megabytes ahead.
        options = {} if self._file_system.async_impl else {"cache_type": "none"}
        return bytes(self._file_system.cat_file(self._path, start=start, end=stop, **options))

    def traffic(self) -> dict[str, Any]:
        """``bytes``, ``requests`` and ``seconds`` of everything so far."""
        return {"bytes": self.bytes_read, "requests": self.requests, "seconds": self.seconds}

    def _asked_size(self) -> int:
        started = time.monotonic()
        with reported(self.url):
            size = self._file_system.info(self._path).get("size")
        self._count(1, 0, time.monotonic() - started)
        if size is not None:
            return int(size)
        started = time.monotonic()
        with reported(self.url):
            self._whole = bytes(self._file_system.cat_file(self._path))
        self._count(1, len(self._whole), time.monotonic() - started)
        return len(self._whole)

    def _count(self, requests: int, size: int, seconds: float) -> None:
        self.requests += requests
        self.bytes_read += size
        self.seconds += seconds
