"""A finding: what a rule saw, where, and what can be done about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Severity(str, Enum):
    """How much a finding matters; ``error`` outranks ``warning``, ``warning`` outranks ``info``."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"

    @property
    def rank(self) -> int:
        """3 for an error, 2 for a warning, 1 for information."""
        return {"error": 3, "warning": 2, "info": 1}[self.value]


class Repair(str, Enum):
    """Which command removes the cause of a finding."""

    NONE = ""
    FIX = "fix"
    FOLD = "fold"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing a rule found.

    ``layer`` is the name that people know the operator by, ``op`` its key in the graph; both are
    empty where the finding is about the whole model. ``values`` are the numbers that made the rule
    true, by name, as plain data.
    """

    code: str
    name: str
    severity: Severity
    message: str
    layer: str = ""
    op: str = ""
    scope: str = ""
    repair: Repair = Repair.NONE
    values: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "code": self.code,
            "name": self.name,
            "severity": self.severity.value,
            "message": self.message,
            "layer": self.layer,
            "scope": self.scope,
            "repair": self.repair.value,
            "values": dict(self.values),
        }
