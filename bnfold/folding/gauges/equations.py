"""Systems of linear equations that grow one equation at a time, and can be taken back to any earlier state.

One system holds n independent copies of the same equations with different numbers (one for each channel),
so every number is a vector. What is solved for is a *basic* variable, written in others that were free at
that time; the variable that fewest equations hold is chosen, so that in a chain of additions each term pays
for itself, and in a tree of equalities no path is long.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from bnfold.records import record

Vector = NDArray[np.float64]
Bits = NDArray[np.bool_]
#: One number for all copies, or one for each.
Number = float | Vector

#: How far a sum may be off zero, relative to the largest of its terms, and count as zero.
TOLERANCE = 1e-9
#: A value this small beside the largest number that it was added up from is zero: a sum of n numbers is off by n
#: times 2^-53 of the largest at the most, so that is room for 32 of them that all err the same way.
NOTHING = 2.0**-48
#: So many equations behind a conflict are told at most.
_TOLD = 64


class MixedError(Exception):
    """An equation says something about a variable in some copies and not in others: treat the copies apart."""


@record
class Conflict:
    """An equation that contradicts others: their sources, and one copy in which it does."""

    sources: tuple[object, ...]
    copy: int


def differ(first: Vector, second: Number, sizes: Vector) -> Bits:
    """Are numbers of those sizes different ones? What is no number differs from none."""
    return np.asarray(np.abs(first - second) > TOLERANCE * sizes)


@record
class _Basic:
    """``x = sum(factor * variable) + constant``, from the equation ``source`` and those behind ``used``.

    The constant was added up from numbers of which ``largest`` is the largest.
    """

    terms: dict[int, Number]
    constant: Vector
    largest: Vector
    source: object
    used: tuple[int, ...]


class System:
    """Equations over the reals, in ``copies`` copies. ``weights`` says how many equations hold each variable.

    ``reach`` is how far apart the values of variables that differ by a constant may be; None: as far as they like.
    ``unit`` is what numbers are small beside, whatever they were added up from: 1 for logarithms, whose differences
    are relative ones. A shift has none: one of 1e-10 matters where everything is as small.
    """

    def __init__(self, copies: int, weights: dict[int, float], reach: float | None = None, unit: float = 0.0) -> None:
        self.copies, self.weights, self.reach, self.unit = copies, weights, reach, unit
        self._basic: dict[int, _Basic] = {}
        self._journal: list[tuple[int, dict[int, float], dict[int | None, tuple[Vector, Vector]]]] = []
        self._extent: dict[int | None, tuple[Vector, Vector]] = {}

    def mark(self) -> int:
        """The present state, for :meth:`undo`."""
        return len(self._journal)

    def undo(self, mark: int) -> None:
        """Back to an earlier state."""
        while len(self._journal) > mark:
            variable, weights, extents = self._journal.pop()
            del self._basic[variable]
            self.weights.update(weights)
            self._extent.update(extents)

    def add(self, terms: Mapping[int, Number], constant: Vector, source: object) -> Conflict | None:
        """``sum(factor * variable) = constant``: kept if it contradicts nothing."""
        rest, right, used, size, summed = self._reduced(terms, constant)
        left: dict[int, Number] = {}
        for variable, (factor, largest) in rest.items():
            if isinstance(factor, float):  # the rule: one number for all copies
                if abs(factor) > TOLERANCE * largest:
                    left[variable] = factor
                continue
            zero = np.abs(factor) <= TOLERANCE * largest
            if zero.all():
                continue
            if zero.any():
                raise MixedError
            left[variable] = factor
        if not left:
            off = differ(right, 0.0, np.maximum(size, self.unit)) & (np.abs(right) > NOTHING * summed)
            return Conflict(self._sources(source, used), int(off.argmax())) if off.any() else None
        pivot = min(left, key=lambda variable: (self.weights[variable], -variable))
        divisor = left.pop(pivot)
        expression = {variable: as_number(-factor / divisor) for variable, factor in left.items()}
        value = right / divisor
        extent = self._joined(pivot, expression, value)
        if isinstance(extent, int):
            return Conflict(self._sources(source, used), extent)
        before = {variable: self.weights[variable] for variable in expression}
        old = {key: self._extent_of(key) for key in extent}
        self._journal.append((pivot, before, old))
        for variable in expression:
            self.weights[variable] += self.weights[pivot]
        self._extent.update(extent)
        self._basic[pivot] = _Basic(expression, value, summed / np.abs(divisor), source, used)
        return None

    def values(self) -> dict[int, Vector]:
        """A solution: free variables are zero, or what brings those that hang on them closest to zero.

        What is zero but for rounding is zero.
        """
        found: dict[int, Vector] = {}
        sizes: dict[int, Vector] = {}
        for variable in self.weights:
            if variable not in self._basic:
                low, high = self._extent_of(variable)
                centre = -(low + high) / 2
                far = np.maximum(np.abs(low), np.abs(high)) > (self.reach or np.inf) / 4
                found[variable] = np.where(far, centre, 0.0)
                sizes[variable] = np.abs(found[variable])
        for variable, basic in reversed(self._basic.items()):
            total, size = basic.constant, basic.largest
            for other, factor in basic.terms.items():
                total = total + factor * found[other]
                size = np.maximum(size, np.abs(factor) * sizes[other])
            found[variable] = np.where(np.abs(total) <= NOTHING * size, 0.0, total)
            sizes[variable] = size
        return found

    def _reduced(
        self, terms: Mapping[int, Number], constant: Vector
    ) -> tuple[dict[int, tuple[Number, Number]], Vector, tuple[int, ...], Vector, Vector]:
        """The equation in free variables, its right side, the variables replaced, and the largest numbers added up.

        Each factor stands beside the largest of the numbers that it is the sum of; beside the right side stand that
        of what was added now, and that of what these were added up from before.
        """
        rest: dict[int, tuple[Number, Number]] = {}
        right, size = constant, np.abs(constant)
        summed = size
        used: dict[int, None] = {}
        stack = list(terms.items())
        while stack:
            variable, factor = stack.pop()
            basic = self._basic.get(variable)
            if basic is None:
                total, largest = rest.get(variable, (0.0, 0.0))
                rest[variable] = total + factor, _larger(largest, factor)
                continue
            used[variable] = None
            if np.count_nonzero(basic.constant):
                part = factor * basic.constant
                right, size = right - part, np.maximum(size, np.abs(part))
                summed = np.maximum(summed, np.abs(factor) * basic.largest)
            stack += [(other, factor * inner) for other, inner in basic.terms.items()]
        return rest, right, tuple(used), size, summed

    def _extent_of(self, variable: int | None) -> tuple[Vector, Vector]:
        zero = np.zeros(self.copies)
        return self._extent.get(variable, (zero, zero))

    def _joined(
        self, pivot: int, expression: Mapping[int, Number], value: Vector
    ) -> dict[int | None, tuple[Vector, Vector]] | int:
        """How far the values reach that hang on one variable (None: on none) when ``pivot`` does; a copy too far."""
        if self.reach is None or len(expression) > 1 or any(not _is_one(f) for f in expression.values()):
            return {}
        if pivot not in self._extent and not np.count_nonzero(value):
            return {}  # where the root is, which every extent holds
        root = next(iter(expression), None)
        (low, high), (below, above) = self._extent_of(root), self._extent_of(pivot)
        low, high = np.minimum(low, below + value), np.maximum(high, above + value)
        far = high - low > self.reach
        return int(far.argmax()) if far.any() else {root: (low, high)}

    def _sources(self, source: object, used: tuple[int, ...]) -> tuple[object, ...]:
        """The equations that an equation and the variables replaced in it come from, the nearest first."""
        found, queue, seen = {source: None}, deque(used), set(used)
        while queue and len(found) < _TOLD:
            basic = self._basic[queue.popleft()]
            found[basic.source] = None
            fresh = [variable for variable in basic.used if variable not in seen]
            seen.update(fresh)
            queue += fresh
        return tuple(found)


def _larger(largest: Number, factor: Number) -> Number:
    """The larger of a size and that of a factor."""
    if isinstance(factor, float) and isinstance(largest, float):
        return max(largest, abs(factor))
    return np.maximum(largest, np.abs(factor))


def _is_one(factor: Number) -> bool:
    return isinstance(factor, float) and factor == 1.0


def as_number(factor: Number) -> Number:
    """One float where all copies have the same."""
    if isinstance(factor, np.ndarray):
        return float(factor[0]) if np.count_nonzero(factor == factor[0]) == factor.size else factor
    return float(factor)


class Parity:
    """Equations over {0, 1}, in ``copies`` copies: which variables are negative."""

    def __init__(self, copies: int, weights: dict[int, float]) -> None:
        self.copies, self.weights = copies, weights
        self._basic: dict[int, tuple[frozenset[int], Bits, object, tuple[int, ...]]] = {}
        self._journal: list[tuple[int, dict[int, float]]] = []

    def mark(self) -> int:
        return len(self._journal)

    def undo(self, mark: int) -> None:
        while len(self._journal) > mark:
            variable, weights = self._journal.pop()
            del self._basic[variable]
            self.weights.update(weights)

    def add(self, variables: Mapping[int, Number], odd: Bits, source: object) -> Conflict | None:
        """An odd number of the variables with an odd factor is negative, or an even one."""
        rest: set[int] = set()
        used: dict[int, None] = {}
        stack = [variable for variable, factor in variables.items() if np.ravel(factor)[0] % 2]
        while stack:
            variable = stack.pop()
            basic = self._basic.get(variable)
            if basic is None:
                rest ^= {variable}
                continue
            used[variable] = None
            odd = odd ^ basic[1]
            stack += basic[0]
        if not rest:
            return Conflict(self._sources(source, tuple(used)), int(odd.argmax())) if odd.any() else None
        pivot = min(rest, key=lambda variable: (self.weights[variable], -variable))
        others = frozenset(rest - {pivot})
        self._journal.append((pivot, {variable: self.weights[variable] for variable in others}))
        for variable in others:
            self.weights[variable] += self.weights[pivot]
        self._basic[pivot] = (others, odd, source, tuple(used))
        return None

    def values(self) -> dict[int, Bits]:
        """A solution: free variables are positive."""
        found = {v: np.zeros(self.copies, bool) for v in self.weights if v not in self._basic}
        for variable, (others, odd, _, _) in reversed(self._basic.items()):
            total = odd
            for other in others:
                total = total ^ found[other]
            found[variable] = total
        return found

    def _sources(self, source: object, used: tuple[int, ...]) -> tuple[object, ...]:
        """As of a :class:`System`."""
        found, queue, seen = {source: None}, deque(used), set(used)
        while queue and len(found) < _TOLD:
            _, _, behind, more = self._basic[queue.popleft()]
            found[behind] = None
            fresh = [variable for variable in more if variable not in seen]
            seen.update(fresh)
            queue += fresh
        return tuple(found)
