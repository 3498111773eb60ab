"""How BatchNormalization is placed in a model, and what is wrong or wasteful about that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bnfold.analysis.analyzer import analyze_graph
    from bnfold.analysis.placement import Placement
    from bnfold.analysis.report import (
        SCHEMA_VERSION,
        BatchNormReport,
        Finding,
        Foldability,
        Repair,
        Report,
        Severity,
        Summary,
    )
    from bnfold.analysis.rule import Rule
    from bnfold.analysis.rules import all_rules, find_rule, select_rules
    from bnfold.analysis.size import Size, measure

__all__ = [
    "SCHEMA_VERSION",
    "BatchNormReport",
    "Finding",
    "Foldability",
    "Placement",
    "Repair",
    "Report",
    "Rule",
    "Severity",
    "Size",
    "Summary",
    "all_rules",
    "analyze_graph",
    "find_rule",
    "measure",
    "select_rules",
]

_MODULES = {
    "analyzer": ("analyze_graph",),
    "placement": ("Placement",),
    "report": (
        "SCHEMA_VERSION",
        "BatchNormReport",
        "Finding",
        "Foldability",
        "Repair",
        "Report",
        "Severity",
        "Summary",
    ),
    "rule": ("Rule",),
    "rules": ("all_rules", "find_rule", "select_rules"),
    "size": ("Size", "measure"),
}


def __getattr__(name: str) -> Any:
    # Folding needs to measure models, but none of the rules: they are imported when they are used.
    import importlib

    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f"bnfold.analysis.{module}"), name)
    raise AttributeError(f"module 'bnfold.analysis' has no attribute {name!r}")
