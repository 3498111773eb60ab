"""What rounding alone does to a result, found by doing it: hooks for the float64 evaluation.

:class:`Perturbed` is Monte Carlo arithmetic (D. S. Parker, 1997): what every operator computes, and every
constant, is multiplied by 1 + eta·u, u uniform in −1…1. The effect shows how much a result depends on the
last digits of what it is computed from. :class:`Rounded` moves constants within their own rounding.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any
from zlib import crc32

import numpy as np

from bnfold.graph import Array
from bnfold.verification.float64 import Call, Hook
from bnfold.verification.float64.registry import Value, is_real

#: Bits of the significand, the leading one included, and the exponent of the smallest number.
_FORMATS = {"float16": (11, -24), "bfloat16": (8, -133), "float32": (24, -149), "float64": (53, -1074)}


_BLOCK = 1 << 18
#: A constant that a converter computed went through several roundings.
COMPUTED_UNITS = 16.0


class Perturbed:
    """Every result and constant off by a relative ``eta`` at most; whole numbers, which are exact, stay."""

    def __init__(self, eta: float | Mapping[str, float], seed: int, whole: bool = False) -> None:
        """``eta`` may be another one for each name; others stay. ``whole``: whole numbers do not stay."""
        self._eta, self._seed, self._whole = eta, seed, whole

    def constant(self, name: str, values: Array) -> Array:
        moved: Array = self._moved(values, name)
        return moved

    def produced(self, call: Call, values: Sequence[Value]) -> Sequence[Value]:
        return [self._moved(value, name) for name, value in zip(call.outputs, values, strict=False)]

    def _moved(self, value: Value, name: str) -> Value:
        eta = self._eta.get(name, 0.0) if isinstance(self._eta, Mapping) else self._eta
        if not is_real(value) or not eta:
            return value
        rng = np.random.default_rng((self._seed, crc32(name.encode())))
        moved = value.copy(order="C")
        flat = moved.reshape(-1)
        with np.errstate(all="ignore"):
            for part in blocks(flat.size):
                old = flat[part]
                factor = 1.0 + eta * (2.0 * rng.random(old.size) - 1.0)
                stays = False if self._whole else old == np.rint(old)
                flat[part] = np.where(stays, old, old * factor)
        return moved


class Rounded:
    """Constants moved by up to a unit in the last place of the type they are stored in.

    Half of that is for the rounding in each of the two models, whose makers may both have rounded.
    """

    def __init__(
        self,
        stored: Mapping[str, str],
        settings: Collection[str],
        seed: int,
        computed: Mapping[str, Array],
        units: float = 1.0,
    ) -> None:
        """``stored`` gives the type of each constant to move; ``settings`` name outputs of operators that have
        a float attribute to move, whose results stand in for it. Those ``computed`` are moved by
        :data:`COMPUTED_UNITS` units in the last place of the sizes that it gives, the others by ``units``."""
        self._stored, self._settings, self._seed, self._computed = stored, settings, seed, computed
        self._units = units

    def constant(self, name: str, values: Array) -> Array:
        if name not in self._stored:
            return values
        moved = values.copy(order="C")
        flat, dtype = moved.reshape(-1), self._stored[name]
        sizes = self._computed.get(name)
        for part in blocks(flat.size):
            drawn = _drawn_by_value(flat[part], (self._seed << 32) + crc32(name.encode()))
            if sizes is None:
                flat[part] += drawn * self._units * spacing(flat[part], dtype)
            else:
                flat[part] += drawn * COMPUTED_UNITS * spacing(sizes.reshape(-1)[part], dtype)
        return moved

    def produced(self, call: Call, values: Sequence[Value]) -> Sequence[Value]:
        if call.op_type == "Constant" and is_real(values[0]):
            return [self.constant(call.outputs[0], values[0])]
        if call.outputs[0] not in self._settings or not is_real(values[0]):
            return values
        rng = np.random.default_rng((self._seed, crc32(call.outputs[0].encode())))
        factor = 2.0 * rng.random() - 1.0
        return [values[0] + factor * spacing(values[0], "float32"), *values[1:]]


class Exact:
    """Constants replaced by what they were before they were rounded."""

    def __init__(self, values: Mapping[str, Any], then: Hook | None = None) -> None:
        """``values`` are functions that give the values; ``then`` is applied to what comes out."""
        self._values, self._then = values, then

    def constant(self, name: str, values: Array) -> Array:
        if name in self._values:
            values = np.asarray(self._values[name](), np.float64).reshape(values.shape)
        return values if self._then is None else self._then.constant(name, values)

    def produced(self, call: Call, values: Sequence[Value]) -> Sequence[Value]:
        return values if self._then is None else self._then.produced(call, values)


def blocks(size: int) -> Iterator[slice]:
    """So many elements in pieces: weights may be large, and what is computed with them on the way as well."""
    return (slice(start, start + _BLOCK) for start in range(0, size, _BLOCK))


def _drawn_by_value(values: Array, seed: int) -> Array:
    """Uniform in −1…1, the same for equal values, since these are rounded alike, and opposite for opposite ones.

    The bits of the value, mixed (SplitMix64, G. L. Steele and others, 2014).
    """
    wide = np.ascontiguousarray(np.abs(values), np.float64)
    with np.errstate(over="ignore"):
        bits = wide.view(np.uint64).reshape(values.shape) + np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15)
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        bits ^= bits >> np.uint64(31)
    return np.asarray(np.sign(values) * ((bits >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1.0))


def spacing(values: Array, dtype: str) -> Array:
    """The distance of a number of that type from the next one; 0 at 0."""
    bits, lowest = _FORMATS[dtype]
    _, exponent = np.frexp(values)
    gap = np.ldexp(1.0, np.maximum(exponent - bits, lowest))
    return np.where(values == 0.0, 0.0, gap)
