"""Make a damaged file small, as long as it still shows its fault.

Fields are removed at every depth, then pieces of bytes; what has to stay becomes zeros, which compress.
"""

from __future__ import annotations

from collections.abc import Callable

from wire_damage import LENGTH, field, parts

#: How often the fault is tried again, and how deep in the file fields are looked at.
TRIES, DEPTH = 4000, 20


def shrink(data: bytes, fails: Callable[[bytes], bool]) -> bytes:
    """The smallest version of ``data`` found for which ``fails`` is true."""
    left = TRIES

    def test(small: bytes) -> bool:
        nonlocal left
        left -= 1
        return fails(small)

    before = None
    while before != data and left > 0:
        before = data
        data = _without_fields(data, lambda small: left > 0 and test(small))
        data = _without_chunks(data, lambda small: left > 0 and test(small))
    return _blanked(data, fails)


def _without_fields(message: bytes, fails: Callable[[bytes], bool], depth: int = 0) -> bytes:
    """``message`` without fields it can do without; large ones are tried first, then looked into."""
    index = 0
    while True:
        found = sorted(parts(message) or [], key=lambda part: part.start - part.stop)
        if index >= len(found):
            return message
        part = found[index]
        without = message[: part.start] + message[part.stop :]
        if fails(without):
            message = without
            continue
        if part.kind == LENGTH and depth < DEPTH and parts(message[part.value : part.stop]):

            def inside(inner: bytes, around: bytes = message, part=part) -> bytes:
                return around[: part.start] + field(part.number, inner) + around[part.stop :]

            inner = _without_fields(message[part.value : part.stop], lambda new: fails(inside(new)), depth + 1)
            message = inside(inner)
        index += 1


def _without_chunks(data: bytes, fails: Callable[[bytes], bool]) -> bytes:
    size = len(data) // 2
    while size >= 16:
        position = 0
        while position < len(data):
            without = data[:position] + data[position + size :]
            if fails(without):
                data = without
            else:
                position += size
        size //= 2
    return data


def _blanked(message: bytes, fails: Callable[[bytes], bool], depth: int = 0) -> bytes:
    """``message`` with long values, the numbers of weights above all, made zeros."""
    for part in [part for part in parts(message) or [] if part.kind == LENGTH and part.stop - part.value > 64]:
        value = message[part.value : part.stop]
        before, after = message[: part.value], message[part.stop :]
        if fails(before + bytes(len(value)) + after):
            message = before + bytes(len(value)) + after
        elif depth < DEPTH and parts(value):
            inner = _blanked(value, lambda new, before=before, after=after: fails(before + new + after), depth + 1)
            message = before + inner + after
    return message
