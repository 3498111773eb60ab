"""Where a model's bytes lie: in a file that stays mapped, or in memory."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Protocol

from bnfold.errors import ModelFileError
from bnfold.formats.atomic import Output

#: Unchanged bytes are copied in pieces of this size where the kernel does not copy them itself.
CHUNK_BYTES = 1 << 20


class Storage(Protocol):
    """Bytes that can be read in pieces."""

    size: int

    def view(self, offset: int, length: int) -> memoryview:
        """The bytes themselves, read-only, not copied."""

    def read(self, offset: int, length: int) -> memoryview | bytes:
        """The bytes, copied where holding on to them would keep a file's pages in memory."""

    def copy(self, offset: int, length: int, out: Output) -> None:
        """Append the bytes to ``out``."""


class MemoryStorage:
    """A model that was handed over as bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = memoryview(data)
        self.size = len(data)

    def view(self, offset: int, length: int) -> memoryview:
        return self.data[offset : offset + length]

    def read(self, offset: int, length: int) -> memoryview:
        return self.view(offset, length)

    def copy(self, offset: int, length: int, out: Output) -> None:
        out.write(self.view(offset, length))


class FileStorage:
    """A file, open and mapped for as long as this object lives: renaming another over it does no harm."""

    def __init__(self, path: Path, descriptor: int) -> None:
        """Take over ``descriptor``, a regular file opened for reading that is not empty."""
        self.path = path
        self._descriptor = descriptor
        self.stat = os.fstat(descriptor)
        self.size = self.stat.st_size
        self.data = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)

    def __del__(self) -> None:
        os.close(self._descriptor)

    def view(self, offset: int, length: int) -> memoryview:
        return memoryview(self.data)[offset : offset + length]

    def read(self, offset: int, length: int) -> bytes:
        # Through the map, these pages would count as the process's own memory.
        if not hasattr(os, "pread"):
            return self.data[offset : offset + length]
        parts = []
        while length:
            part = os.pread(self._descriptor, length, offset)
            if not part:
                raise ModelFileError(f"{self.path} was cut short while it was being read")
            parts.append(part)
            offset += len(part)
            length -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def copy(self, offset: int, length: int, out: Output) -> None:
        done = out.copy_from(self._descriptor, offset, length) if length > CHUNK_BYTES else 0
        while done < length:
            part = min(CHUNK_BYTES, length - done)
            out.write(self.read(offset + done, part))
            done += part

    def release(self) -> None:
        """Let go of the pages that reading through the map has brought in."""
        if hasattr(self.data, "madvise"):
            self.data.madvise(mmap.MADV_DONTNEED)
