"""Records that are made by the hundred thousand."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

_T = TypeVar("_T")

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform

    @dataclass_transform(frozen_default=True, eq_default=False, field_specifiers=(field,))
    def record(cls: type[_T]) -> type[_T]:
        """A dataclass with slots that compares by identity. Nobody changes one: type checkers hold it to be frozen.

        At run time it is not: the constructor of a frozen one takes four times as long.
        """

    @dataclass_transform(frozen_default=True, field_specifiers=(field,))
    def value_record(cls: type[_T]) -> type[_T]:
        """A :func:`record` that compares by its values."""

else:
    record = dataclass(slots=True, eq=False)
    value_record = dataclass(slots=True, unsafe_hash=True)
