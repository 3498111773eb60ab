"""Constants: name, dtype and shape are known, values are read when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bnfold.graph.dtypes import Array, is_float
from bnfold.records import record

#: Weights are read, checked and written in pieces of about this many bytes. They are computed in
#: float64: pieces for which the system need not be asked for memory each time take a third of the time.
BLOCK_BYTES = 1 << 16
#: Results of up to this size are kept: to compute one of a few numbers again takes longer than all that is done to it.
KEPT_BYTES = 1 << 12


class ParamData(Protocol):
    """Where the values of a constant live. Nothing is read before one of these methods is called."""

    def read(self) -> Array:
        """The whole array, in the Param's shape and dtype. It may be read-only."""

    def rows(self, start: int, stop: int) -> Array:
        """Only ``array[start:stop]`` along the first axis."""


@record
class Memory:
    """Values that are in memory already; float64 values of a narrower Param are rounded when read."""

    values: Array
    dtype: np.dtype[Any]

    def read(self) -> Array:
        return np.asarray(_cast(self.values, self.dtype))

    def rows(self, start: int, stop: int) -> Array:
        return np.asarray(_cast(self.values[start:stop], self.dtype))


@record
class Derived:
    """``base`` times ``factors``, plus ``terms``: float64 arrays that broadcast, rounded once, when read.

    ``steps`` holds them in order, with True for a factor. Keeping the result unevaluated means that a
    weight changed several times is still rounded once, and that a large one is never held in memory.
    """

    base: Param
    steps: tuple[tuple[bool, NDArray[np.float64]], ...]
    #: The whole result if it is small, once somebody has asked for it: what is checked is written later.
    kept: NDArray[np.float64] | None = None

    def exact(self, start: int, stop: int) -> NDArray[np.float64]:
        if self.kept is not None:
            return self.kept[start:stop]
        block = self.base.exact_rows(start, stop)
        for is_factor, values in self.steps:
            part = values if values.shape[0] == 1 else values[start:stop]
            block = block * part if is_factor else block + part
        if block.nbytes <= KEPT_BYTES and block.shape == self.base.shape:
            block.flags.writeable = False
            object.__setattr__(self, "kept", block)
        return block

    def read(self) -> Array:
        return self.rows(0, self.base.shape[0])

    def rows(self, start: int, stop: int) -> Array:
        return np.asarray(_cast(self.exact(start, stop), self.base.dtype))


@dataclass(frozen=True, slots=True)
class Unrounded:
    """What ``source`` gives, float64, anew whenever it is wanted, rounded when read: for weights that fill memory."""

    source: Callable[[], NDArray[np.float64]]
    dtype: np.dtype[Any]

    def exact(self, start: int, stop: int) -> NDArray[np.float64]:
        return _given(self.source)[start:stop]

    def read(self) -> Array:
        return np.asarray(_cast(_given(self.source), self.dtype))

    def rows(self, start: int, stop: int) -> Array:
        return np.asarray(_cast(self.exact(start, stop), self.dtype))


@lru_cache(maxsize=1)
def _given(source: Callable[[], NDArray[np.float64]]) -> NDArray[np.float64]:
    """The latest alone is kept: a weight is read in many small blocks, one weight after the other."""
    return source()


def _cast(values: Array, dtype: np.dtype[Any]) -> Array:
    if values.dtype == dtype:
        return values
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return values.astype(dtype)


@record
class Param:
    """A constant: name, dtype and shape are known, its values are read only when asked for.

    ``record`` is the file format's own note of where an unchanged constant came from, so that it
    can be copied to the output without being read; it is None for one that folding made.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    data: ParamData
    record: object | None = None
    #: The smallest and the largest of the magnitudes that its rows reach, once somebody has read a large weight for it.
    extent: tuple[float, float] | None = None

    @classmethod
    def of(cls, name: str, values: Array, dtype: np.dtype[Any] | None = None) -> Param:
        """A constant held in memory. float64 ``values`` stay exact until they are written as ``dtype``."""
        dtype = np.dtype(values.dtype if dtype is None else dtype)
        return cls(name, dtype, tuple(values.shape), Memory(values, dtype))

    @property
    def size(self) -> int:
        """The number of elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    @property
    def is_known(self) -> bool:
        """Are these its values? Those of a weight that was left unread in a remote file are not."""
        return bool(getattr(self.data, "known", True))

    @property
    def is_float(self) -> bool:
        """float16, bfloat16, float32 or float64."""
        return is_float(self.dtype)

    @property
    def is_rounded(self) -> bool:
        """Whether :meth:`exact` may say more than :meth:`array`: folding computed the values in float64."""
        in_float64 = isinstance(self.data, Memory) and self.data.values.dtype == np.float64
        return isinstance(self.data, (Derived, Unrounded)) or (in_float64 and self.dtype != np.float64)

    def array(self) -> Array:
        """The values, rounded to :attr:`dtype`."""
        return self.data.read()

    def exact(self) -> NDArray[np.float64]:
        """The values in float64, without the rounding to :attr:`dtype` where folding computed them."""
        if isinstance(self.data, Memory):
            return np.asarray(self.data.values, dtype=np.float64)
        if isinstance(self.data, (Derived, Unrounded)):
            return self.data.exact(0, self.shape[0])
        whole = len(self.shape) < 2  # of what is large, a map of the file is not to stay in memory
        return np.asarray(self.data.read() if whole else self.data.rows(0, self.shape[0]), dtype=np.float64)

    def exact_rows(self, start: int, stop: int) -> NDArray[np.float64]:
        """:meth:`exact`, only ``[start:stop]`` along the first axis."""
        if isinstance(self.data, (Derived, Unrounded)):
            return self.data.exact(start, stop)
        if isinstance(self.data, Memory):
            return np.asarray(self.data.values[start:stop], dtype=np.float64)
        return np.asarray(self.data.rows(start, stop), dtype=np.float64)

    def scaled(self, factor: NDArray[np.float64]) -> Param:
        """This constant times ``factor`` (float64, of the same rank, one that broadcasts against it)."""
        return self._derived(True, factor)

    def shifted(self, term: NDArray[np.float64]) -> Param:
        """This constant plus ``term`` (float64, of the same rank, one that broadcasts against it)."""
        return self._derived(False, term)

    def _derived(self, is_factor: bool, values: NDArray[np.float64]) -> Param:
        if values.ndim != len(self.shape) or any(
            own not in (1, size) for own, size in zip(values.shape, self.shape, strict=True)
        ):
            raise ValueError(f"an array of shape {values.shape} does not fit {self.name} {self.shape}")
        if not self.shape:
            exact = self.exact()
            return Param.of(self.name, exact * values if is_factor else exact + values, self.dtype)
        base, steps = (self.data.base, self.data.steps) if isinstance(self.data, Derived) else (self, ())
        return Param(self.name, self.dtype, self.shape, Derived(base, (*steps, (is_factor, values))))

    def note_extent(self, extent: tuple[float, float]) -> None:
        """Keep :attr:`extent`: it follows from the values, so nobody sees a difference but in time."""
        object.__setattr__(self, "extent", extent)

    def renamed(self, name: str) -> Param:
        return replace(self, name=name)

    def row_blocks(self, max_bytes: int = BLOCK_BYTES) -> Iterator[tuple[int, int]]:
        """Ranges ``(start, stop)`` along the first axis that hold about ``max_bytes`` each."""
        if not self.shape or not self.size:
            return
        row = max(1, self.nbytes // self.shape[0])
        step = max(1, max_bytes // row)
        for start in range(0, self.shape[0], step):
            yield start, min(start + step, self.shape[0])

    def blocks(self, max_bytes: int = BLOCK_BYTES) -> Iterator[Array]:
        """The values in C order, in contiguous pieces of about ``max_bytes``: for writing."""
        if not self.shape:
            yield np.ascontiguousarray(self.array())
            return
        for start, stop in self.row_blocks(max_bytes):
            yield np.ascontiguousarray(self.data.rows(start, stop))
