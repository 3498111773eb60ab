"""An HTTP server that answers as its paths say: with ranges or without, by a detour, too short, not at all.

All but "unsized" say which version they send (ETag).
"""

from __future__ import annotations

import gzip
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

#: The first part of a path: how the file after it is served.
KINDS = ("ranges", "whole", "redirect", "loop", "gzip", "unsized", "short", "dies", "403", "404", "500", "dies-once")


class Server(ThreadingHTTPServer):
    """``files`` by name; ``requests`` are method, path and Range of every request."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = files
        self.requests: list[tuple[str, str, str | None]] = []
        self.sent = 0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that leaves is no error."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *words: object) -> None:
        """Nothing is printed."""

    def do_HEAD(self) -> None:
        self._serve(with_body=False)

    def do_GET(self) -> None:
        self._serve(with_body=True)

    def _serve(self, with_body: bool) -> None:
        wanted = self.headers.get("Range")
        self.server.requests.append((self.command, self.path, wanted))
        kind, _, name = self.path.lstrip("/").partition("/")
        data = self.server.files.get(name)
        if kind == "dies-once":
            first = sum(method == "GET" and path == self.path for method, path, _ in self.server.requests) == 1
            kind = "dies" if first else "ranges"
        if kind.isdigit() or data is None:
            return self._end(int(kind) if kind.isdigit() else 404, b"", with_body)
        if kind in ("redirect", "loop"):
            place = f"/ranges/{name}" if kind == "redirect" else self.path
            return self._end(302, b"", with_body, Location=place)
        if kind == "gzip" and "gzip" in self.headers.get("Accept-Encoding", ""):
            return self._end(200, gzip.compress(data), with_body, **{"Content-Encoding": "gzip"})
        part = re.fullmatch(r"bytes=(\d+)-(\d+)", wanted or "")
        if part is None or kind == "whole":
            return self._end(200, data, with_body, kind=kind)
        start, stop = int(part[1]), min(int(part[2]) + 1, len(data))
        if start >= len(data):
            return self._end(416, b"", with_body, **{"Content-Range": f"bytes */{len(data)}"})
        span = f"bytes {start}-{stop - 1}/{len(data)}"
        return self._end(206, data[start:stop], with_body, kind=kind, **{"Content-Range": span})

    def _end(self, code: int, body: bytes, with_body: bool, kind: str = "", **headers: str) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        if kind not in ("whole", "gzip"):
            self.send_header("Accept-Ranges", "bytes")
        if kind != "unsized" and body:
            self.send_header("ETag", f'"{hash(self.server.files[self.path.partition("/")[2].partition("/")[2]])}"')
        if kind == "unsized":
            self.send_header("Connection", "close")
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(len(body) // 2 if kind == "short" and with_body else len(body)))
        self.end_headers()
        if with_body:
            body = body[: len(body) // 2] if kind in ("short", "dies") else body
            self.server.sent += len(body)
            self.wfile.write(body)
            self.close_connection |= kind in ("short", "dies")


@contextmanager
def http_server(files: dict[str, bytes]) -> Iterator[Server]:
    """A server of these files, in a thread."""
    server = Server(files)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
