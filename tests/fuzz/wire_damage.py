"""Damage to a file's bytes, and to the protobuf messages in it.

A mutator takes a random source, the model and another one to splice from, and returns the damaged bytes.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

Mutator = Callable[[random.Random, bytes, bytes], bytes]

#: Numbers at which sizes, axes and counts go wrong.
EXTREMES = (0, 1, -1, 2, 3, 7, 127, 255, 65536, 1 << 31, (1 << 31) - 1, -(1 << 31), 1 << 60, (1 << 63) - 1, -(1 << 63))
LENGTH = 2


# -- bytes -------------------------------------------------------------------------------------------


def flip_bits(rng: random.Random, data: bytes, other: bytes) -> bytes:
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 4, 32)) if damaged else 0):
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def truncate(rng: random.Random, data: bytes, other: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def cut_out(rng: random.Random, data: bytes, other: bytes) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + data[start + rng.choice((1, 2, 16, 1000)) :]


def splice_bytes(rng: random.Random, data: bytes, other: bytes) -> bytes:
    start, source = rng.randrange(len(data) + 1), rng.randrange(len(other) + 1)
    length = rng.choice((1, 8, 64, 2000))
    return data[:start] + other[source : source + length] + data[start + rng.choice((0, length)) :]


# -- the wire format ---------------------------------------------------------------------------------


class Part(NamedTuple):
    """A field of a message: where it starts, where its value does, where it ends."""

    number: int
    kind: int
    start: int
    value: int
    stop: int


def varint(value: int) -> bytes:
    out = bytearray()
    value &= (1 << 64) - 1
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def parts(data: bytes) -> list[Part] | None:
    """The fields of a message; None where the bytes are none."""
    found, pos = [], 0
    while pos < len(data):
        tag, value = _number(data, pos)
        kind = tag & 7
        if kind == LENGTH:
            length, value = _number(data, value)
            stop = value + length
        elif kind == 0:
            stop = _number(data, value)[1]
        elif kind in (1, 5):
            stop = value + (8 if kind == 1 else 4)
        else:
            return None
        if not tag >> 3 or stop > len(data) or stop <= pos:
            return None
        found.append(Part(tag >> 3, kind, pos, value, stop))
        pos = stop
    return found


def _number(data: bytes, pos: int) -> tuple[int, int]:
    value = shift = 0
    while pos < len(data) and shift < 70:
        value |= (data[pos] & 127) << shift
        pos, shift = pos + 1, shift + 7
        if data[pos - 1] < 128:
            return value, pos
    return 0, len(data) + 1


def _edit(rng: random.Random, data: bytes, change: Callable[[bytes, list[Part]], bytes]) -> bytes:
    """``change`` one message somewhere inside ``data``; the lengths around it are put right."""
    found = parts(data)
    if not found:
        return data
    inner = [part for part in found if part.kind == LENGTH and part.stop - part.value > 1]
    if inner and rng.random() < 0.75:
        part = rng.choice(inner)
        if parts(data[part.value : part.stop]):
            new = _edit(rng, data[part.value : part.stop], change)
            return data[: part.start] + field(part.number, new) + data[part.stop :]
    return change(data, found)


def field(number: int, value: bytes) -> bytes:
    """A length-delimited field as protobuf writes it."""
    return varint(number << 3 | LENGTH) + varint(len(value)) + value


def repeat_field(rng: random.Random, data: bytes, other: bytes) -> bytes:
    def change(message: bytes, found: list[Part]) -> bytes:
        part = rng.choice(found)
        times = rng.choice((1, 1, 1, 5, 200))
        return message[: part.stop] + message[part.start : part.stop] * times + message[part.stop :]

    return _edit(rng, data, change)


def drop_field(rng: random.Random, data: bytes, other: bytes) -> bytes:
    def change(message: bytes, found: list[Part]) -> bytes:
        part = rng.choice(found)
        return message[: part.start] + message[part.stop :]

    return _edit(rng, data, change)


def wrong_length(rng: random.Random, data: bytes, other: bytes) -> bytes:
    def change(message: bytes, found: list[Part]) -> bytes:
        part = rng.choice(found)
        prefix = varint(part.number << 3 | LENGTH) + varint(rng.choice(EXTREMES))
        return message[: part.start] + prefix + message[part.value :]

    return _edit(rng, data, change)


def blow_up_varint(rng: random.Random, data: bytes, other: bytes) -> bytes:
    def change(message: bytes, found: list[Part]) -> bytes:
        numbers = [part for part in found if part.kind == 0] or found
        part = rng.choice(numbers)
        tag = varint(part.number << 3)
        value = rng.choice((varint(rng.choice(EXTREMES)), b"\xff" * rng.choice((9, 10, 11, 60)) + b"\x01"))
        return message[: part.start] + tag + value + message[part.stop :]

    return _edit(rng, data, change)


def other_number(rng: random.Random, data: bytes, other: bytes) -> bytes:
    def change(message: bytes, found: list[Part]) -> bytes:
        part = rng.choice(found)
        tag = varint(rng.choice((1, 2, 3, 5, 6, 7, 9, 14, 20, 25, 1000)) << 3 | rng.choice((part.kind, 0, 1, 2, 3, 5)))
        return message[: part.start] + tag + message[part.start + 1 :]

    return _edit(rng, data, change)


def splice_field(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Put a message of the other model where another one was, or beside it."""
    message = other
    for _ in range(rng.randrange(1, 5)):
        found = [part for part in parts(message) or [] if part.kind == LENGTH]
        if not found:
            break
        part = rng.choice(found)
        message = message[part.value : part.stop]

    def change(around: bytes, found: list[Part]) -> bytes:
        part = rng.choice(found)
        return around[: part.start] + field(part.number, message) + around[rng.choice((part.start, part.stop)) :]

    return _edit(rng, data, change)


def nest(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """A message inside itself, up to a few hundred times."""

    def change(message: bytes, found: list[Part]) -> bytes:
        part, inner = rng.choice(found), message
        path = rng.choice(((1, 5, 6), (1, 5, 11), (part.number,)))
        for _ in range(rng.choice((1, 5, 40, 300))):
            for number in reversed(path):
                inner = field(number, inner)
            if len(inner) > 1 << 18:
                break
        return message[: part.stop] + inner + message[part.stop :]

    return _edit(rng, data, change)


BYTES: tuple[Mutator, ...] = (flip_bits, truncate, cut_out, splice_bytes)
WIRE: tuple[Mutator, ...] = (
    repeat_field, drop_field, wrong_length, blow_up_varint, other_number, splice_field, nest,
)  # fmt: skip
