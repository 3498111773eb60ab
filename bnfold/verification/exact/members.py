"""Sequences: members have the names that they have among the runtime's outputs, ``name[0]`` and so on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bnfold.graph import Array


def flat(values: Mapping[str, Any]) -> dict[str, Array]:
    """Tensors as they are, sequences member by member; empty optionals are left out."""
    found: dict[str, Array] = {}
    for name, value in values.items():
        if isinstance(value, list):
            found.update(flat({f"{name}[{index}]": item for index, item in enumerate(value)}))
        elif value is not None:
            found[name] = value
    return found


def whole(name: str) -> str:
    """The sequence that a member is of; any other tensor itself."""
    return name.partition("[")[0] if name.endswith("]") else name
