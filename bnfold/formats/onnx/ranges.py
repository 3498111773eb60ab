"""A model elsewhere: its skeleton and the parameters that somebody asks for are fetched, its weights are not.

Each tensor's header stands behind the payload of the last one, so that skipping a payload costs a request, and with it
a round trip; reading through it costs its bytes. The two take the same time where it is as large as what a round trip
is worth, latency times bandwidth. But how much is to be read is said before the payload is seen. A window of all that
a round trip is worth never takes twice the time of who knew the sizes, and reads far too much; so a window is an eighth
of that at first and after a payload that was rightly skipped, and four times as large as the last one, up to all of it,
where the last skip was in vain: what lay between was worth less than the request (docs/scale.md has it measured).
"""

from __future__ import annotations

from bisect import bisect_right
from typing import overload

from bnfold.formats.atomic import Sink
from bnfold.formats.onnx.storage import CHUNK_BYTES
from bnfold.formats.remote import RemoteFile

#: Tensors up to this size are read with what is around them; of larger ones only vectors are.
SMALL_BYTES = 1 << 16
#: What :class:`Window` and the requests for single tensors may overshoot to save a request.
_GAP = 512
#: The first window is this part of what a round trip is worth, and one after a skip in vain so many times the last.
_PART, _GROWTH = 8, 4
#: No window is smaller, and those of ``spare_bytes`` are not larger: some headers, and little too much.
_LEAST = 1 << 12


class Window:
    """The bytes of a remote file as the walk over the wire format reads them: by index and by slice.

    What has been fetched is kept.
    """

    def __init__(self, file: RemoteFile) -> None:
        self._file = file
        self._starts: list[int] = []
        self._parts: list[bytes] = []
        self._start = self._stop = 0
        self._part = b""
        #: How large the last window was that was fetched, and where it ended.
        self._ahead = self._end = 0

    def __len__(self) -> int:
        return self._file.size

    @overload
    def __getitem__(self, key: int) -> int: ...
    @overload
    def __getitem__(self, key: slice) -> bytes: ...
    def __getitem__(self, key: int | slice) -> int | bytes:
        if isinstance(key, slice):
            start, stop, _ = key.indices(self._file.size)
            return self.read(start, max(start, stop))
        if not self._start <= key < self._stop:
            self._move(key)
        return self._part[key - self._start]

    def read(self, start: int, stop: int) -> bytes:
        """The bytes ``[start, stop)``; what has not been fetched yet is, and no more."""
        if self._start <= start and stop <= self._stop:
            return self._part[start - self._start : stop - self._start]
        self.prefetch([(start, stop)], gap=0)
        pieces = []
        while start < stop:
            index = bisect_right(self._starts, start) - 1
            offset, part = self._starts[index], self._parts[index]
            piece = part[start - offset : stop - offset]
            pieces.append(piece)
            start += len(piece)
        return b"".join(pieces)

    def prefetch(self, ranges: list[tuple[int, int]], gap: int = _GAP) -> None:
        """Fetch what is missing of these ranges, neighbours with less than ``gap`` bytes between them at once."""
        missing: list[tuple[int, int]] = []
        for wanted in sorted(ranges):
            for start, stop in self._missing(*wanted):
                if missing and start - missing[-1][1] <= gap:
                    missing[-1] = (missing[-1][0], max(stop, missing[-1][1]))
                else:
                    missing.append((start, stop))
        if len(missing) == 1:
            self._keep(missing[0][0], self._file.fetch(*missing[0]))
        else:
            for (start, _), part in zip(missing, self._file.fetch_many(missing), strict=True):
                self._keep(start, part)

    def _move(self, position: int) -> None:
        """Let the window begin at ``position``, or be the part that holds it."""
        if not 0 <= position < self._file.size:
            raise IndexError(position)
        index = bisect_right(self._starts, position) - 1
        if index < 0 or position >= self._starts[index] + len(self._parts[index]):
            self._ahead = self._window(position)
            stop = self._end = min(self._file.size, position + self._ahead)
            if index + 1 < len(self._starts):
                stop = min(stop, self._starts[index + 1])
            index = self._keep(position, self._file.fetch(position, stop))
        self._start, self._part = self._starts[index], self._parts[index]
        self._stop = self._start + len(self._part)

    def _window(self, position: int) -> int:
        """How many bytes to read from ``position`` on."""
        worth = self._file.worth
        if self._file.spare_bytes:
            return _LEAST
        in_vain = 0 <= position - self._end < worth and self._ahead
        return max(_LEAST, min(worth, _GROWTH * self._ahead) if in_vain else worth // _PART)

    def _missing(self, start: int, stop: int) -> list[tuple[int, int]]:
        """What of ``[start, stop)`` lies in no part."""
        found = []
        index = max(0, bisect_right(self._starts, start) - 1)
        for begin, part in zip(self._starts[index:], self._parts[index:], strict=True):
            if begin >= stop:
                break
            if begin > start:
                found.append((start, begin))
            start = max(start, begin + len(part))
        return [*found, (start, stop)] if start < stop else found

    def _keep(self, start: int, part: bytes) -> int:
        """Remember a part; one that overlaps those after it is cut at them by whoever reads. Its index."""
        index = bisect_right(self._starts, start)
        self._starts.insert(index, start)
        self._parts.insert(index, part)
        return index


class RemoteStorage:
    """The storage of a remote file, or of one with external data beside it."""

    def __init__(self, file: RemoteFile) -> None:
        self.file = file
        self.size = file.size
        self.data = Window(file)

    def view(self, offset: int, length: int) -> memoryview:
        return memoryview(self.data.read(offset, offset + length))

    def read(self, offset: int, length: int) -> bytes:
        return self.data.read(offset, offset + length)

    def copy(self, offset: int, length: int, out: Sink) -> None:
        for start in range(offset, offset + length, CHUNK_BYTES):
            out.write(self.file.fetch(start, min(start + CHUNK_BYTES, offset + length)))

    def leaves_out(self, length: int, rank: int) -> bool:
        return not self.file.weights and rank > 1 and (self.file.spare_bytes or length > SMALL_BYTES)

    def prefetch(self, ranges: list[tuple[int, int]]) -> None:
        """Fetch at once, as (offset, length), what is small enough to be needed most likely."""
        if not self.file.spare_bytes:
            self.data.prefetch([(at, at + length) for at, length in ranges if length <= SMALL_BYTES])

    def release(self) -> None:
        """Everything that was fetched is kept: it is little."""
