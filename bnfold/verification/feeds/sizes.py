"""Sizes for the dimensions that a model leaves open, consistent across its inputs."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bnfold.verification.feeds.hints import Hint
from bnfold.verification.runtime.sessions import ValueSpec

Sizes = Mapping[str, tuple[int, ...]]

#: Tried in turn until the model accepts one. Many networks for images halve the size five times
#: and so want a multiple of 32; what else bakes a size in is most often one of these.
_SPATIAL = (64, 32, 224, 128, 256, 16, 8, 4, 3, 2, 1, 28, 299, 512, 640, 7)
_SEQUENCE = (8, 16, 32, 64, 128, 4, 3, 2, 1, 224, 256, 512, 1024, 4000, 16000, 7)
_BATCHES = (1, 2, 4, 3, 8, 16, 32, 64, 128)
_RANKS = (4, 2, 3, 1, 5, 0)
_SUM = re.compile(r"\s*([\w.]+)\s*\+\s*([\w.]+)\s*")
#: No input with open dimensions is made larger than this, and none with fixed ones is fed if it is larger.
_MAX_ELEMENTS, _MAX_FIXED_ELEMENTS = 1 << 24, 1 << 28


@dataclass(frozen=True, slots=True)
class Assignment:
    """A shape for every input, and in words how the open dimensions were chosen."""

    shapes: Sizes
    label: str


class OpenDims:
    """The dimensions of a model's inputs that have no fixed size.

    ``batch`` symbols stand at axis 0 of some input; the others are image sizes, sequence lengths
    and the like. An unnamed dimension at axis 0 is the batch, any other one a symbol of its own.
    """

    def __init__(self, inputs: Sequence[ValueSpec], hints: Mapping[str, Hint], rank: int | None = None) -> None:
        self._shapes = {spec.name: _symbolic(spec, hints[spec.name], rank) for spec in inputs}
        self.batch: dict[str, None] = {}
        self.others: dict[str, tuple[int, ...]] = {}
        for shape in self._shapes.values():
            if shape and isinstance(shape[0], str):
                self.batch[shape[0]] = None
        for shape in self._shapes.values():
            for dim in shape:
                if isinstance(dim, str) and dim not in self.batch and not self._is_sum(dim):
                    self.others.setdefault(dim, _SPATIAL if len(shape) >= 4 else _SEQUENCE)

    def first_choices(self) -> Iterator[Assignment]:
        """Assignments in the order in which they are worth trying, until one is accepted."""
        for step in range(len(_SPATIAL) if self.others else 1):
            yield from self._assign(1, {symbol: sizes[step] for symbol, sizes in self.others.items()})
        if self.batch:
            for batch in _BATCHES[1:]:
                yield from self._assign(batch, {symbol: sizes[0] for symbol, sizes in self.others.items()})

    def variations(self, base: Assignment) -> Iterator[Assignment]:
        """Other sizes to compare at, once ``base`` was accepted: another batch, another size, both."""
        sizes = self.values(base)
        batch = next((sizes[symbol] for symbol in self.batch), 1)
        others = {symbol: sizes[symbol] for symbol in self.others}
        larger = {
            symbol: size + (32 if size % 32 == 0 else max(1, size // 2)) * (1 + index % 2)
            for index, (symbol, size) in enumerate(others.items())
        }
        if self.batch:
            yield from self._assign(batch + 1, others)
        if others:
            yield from self._assign(batch, larger)
        if self.batch:
            yield from self._assign(batch + 2, dict.fromkeys(others, max(others.values(), default=1)))

    def values(self, assignment: Assignment) -> dict[str, int]:
        """The size of every symbol in an assignment."""
        return {
            dim: size
            for name, shape in self._shapes.items()
            for dim, size in zip(shape, assignment.shapes[name], strict=True)
            if isinstance(dim, str)
        }

    def _assign(self, batch: int, others: Mapping[str, int]) -> Iterator[Assignment]:
        sizes = {**dict.fromkeys(self.batch, batch), **others}
        shapes = {name: tuple(self._size(dim, sizes) for dim in shape) for name, shape in self._shapes.items()}
        limit = _MAX_ELEMENTS if sizes else _MAX_FIXED_ELEMENTS
        if any(math.prod(shape) > limit for shape in shapes.values()):
            return
        parts = [f"batch {batch}"] if self.batch else []
        parts += [f"{symbol}={size}" for symbol, size in others.items()]
        yield Assignment(shapes, ", ".join(parts) or "fixed size")

    def _is_sum(self, dim: str) -> bool:
        """Whether a symbol is the sum of two others, as the total length in "past + current"."""
        match = _SUM.fullmatch(dim)
        symbols = {other for shape in self._shapes.values() for other in shape}
        return match is not None and set(match.groups()) <= symbols

    def _size(self, dim: int | str, sizes: Mapping[str, int]) -> int:
        if isinstance(dim, int):
            return dim
        if dim in sizes:
            return sizes[dim]
        match = _SUM.fullmatch(dim)
        return sum(sizes[part] for part in match.groups()) if match else 1


def open_dims(inputs: Sequence[ValueSpec], hints: Mapping[str, Hint]) -> Iterator[OpenDims]:
    """The open dimensions; once for each rank worth trying if some input's rank is not known."""
    unknown = any(spec.shape is None and hints[spec.name].rank is None for spec in inputs)
    for rank in _RANKS if unknown else (None,):
        yield OpenDims(inputs, hints, rank)


def _symbolic(spec: ValueSpec, hint: Hint, rank: int | None) -> tuple[int | str, ...]:
    """The declared shape with what weights fix filled in, and a symbol for every dimension left open."""
    declared = spec.shape
    if declared is None:
        declared = (None,) * (hint.rank if hint.rank is not None else rank or 0)
    fixed = {axis % len(declared): size for axis, size in hint.dims.items() if -len(declared) <= axis < len(declared)}
    shape: list[int | str] = []
    for axis, dim in enumerate(declared):
        if isinstance(dim, int):
            shape.append(dim)
        elif axis in fixed:
            shape.append(fixed[axis])
        else:
            shape.append(dim or ("batch" if axis == 0 else f"{spec.name}.{axis}"))
    return tuple(shape)
