"""Places that are not files of this machine, by fsspec: which client is needed, what its errors mean, and ranges."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from bnfold.errors import BnfoldError, MissingExtraError, ModelFileError, UsageError, shortened

#: What a request is taken to be worth, in bytes, before anything has been measured, and within which bounds after.
_WORTH, _LEAST_WORTH, _MOST_WORTH = 1 << 18, 1 << 14, 1 << 23
#: So many windows are worth a round trip. On a ResNet50 that takes the time of the best size within a sixth, and a
#: quarter of its bytes (docs/scale.md).
_WINDOWS = 8
#: What ``spare_bytes`` reads at once while it looks for the next tensor: some headers, and little too much.
_SPARING = 1 << 12

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


def client_modules(targets: Sequence[str]) -> tuple[str, ...]:
    """What the clients of these URLs are imported from, as far as they are installed: for whoever imports ahead."""
    schemes = {scheme_of(target) for target in targets if is_remote(target)}
    modules = sorted({_CLIENTS[scheme] for scheme in schemes if scheme in _CLIENTS})
    return tuple(module for module in modules if find_spec(module) is not None)


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
        self._file_system, self._path = open_filesystem(url)
        self.size = self._asked_size() if size is None else size

    def sibling(self, location: str) -> RemoteFile:
        """A file beside this one, or in a folder beside it; what it takes is counted apart."""
        base = self.url.rpartition("/")[0]
        return RemoteFile(
            f"{base}/{location}", spare_bytes=self.spare_bytes, weights=self.weights, skip_from=self._skip_from
        )  # fmt: skip

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

    @property
    def window(self) -> int:
        """How many bytes are read at once while the next tensor is looked for; a payload beyond is skipped.

        Larger ones save few requests, since most payloads are either far smaller or far larger, and cost many bytes.
        """
        return _SPARING if self.spare_bytes else max(_SPARING, self.worth // _WINDOWS)

    def fetch(self, start: int, stop: int) -> bytes:
        """The bytes ``[start, stop)``, in one request."""
        started = time.monotonic()
        with reported(self.url):
            data = bytes(self._file_system.cat_file(self._path, start=start, end=stop))
        seconds = time.monotonic() - started
        self._count(1, len(data), seconds)
        self._measured.append((len(data), seconds))
        if len(data) != stop - start:
            raise ModelFileError(f"{self.url} was cut short while it was being read")
        return data

    def fetch_many(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Several ranges, at the same time where the client can."""
        if not ranges:
            return []
        started = time.monotonic()
        starts, stops = [start for start, _ in ranges], [stop for _, stop in ranges]
        with reported(self.url):
            found = self._file_system.cat_ranges([self._path] * len(ranges), starts, stops, on_error="raise")
        parts = [bytes(part) for part in found]
        self._count(len(parts), sum(map(len, parts)), time.monotonic() - started)
        if any(len(part) != stop - start for part, (start, stop) in zip(parts, ranges, strict=True)):
            raise ModelFileError(f"{self.url} was cut short while it was being read")
        return parts

    def traffic(self) -> dict[str, Any]:
        """``bytes``, ``requests`` and ``seconds`` of everything so far."""
        return {"bytes": self.bytes_read, "requests": self.requests, "seconds": self.seconds}

    def _asked_size(self) -> int:
        started = time.monotonic()
        with reported(self.url):
            size = self._file_system.info(self._path).get("size")
        self._count(1, 0, time.monotonic() - started)
        if size is None:
            raise ModelFileError(f"{self.url} cannot be read in parts: its server does not say how large it is")
        return int(size)

    def _count(self, requests: int, size: int, seconds: float) -> None:
        self.requests += requests
        self.bytes_read += size
        self.seconds += seconds
