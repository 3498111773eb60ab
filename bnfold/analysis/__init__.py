"""How BatchNormalization is placed in a model, and what is wrong or wasteful about that."""

from __future__ import annotations

from bnfold.analysis.analyzer import analyze_graph
from bnfold.analysis.finding import Finding, Repair, Severity
from bnfold.analysis.measure import measure
from bnfold.analysis.placement import BatchNormReport, Foldability, Placement
from bnfold.analysis.report import SCHEMA_VERSION, Report, Size, Summary
from bnfold.analysis.rule import Rule, all_rules, find_rule, select_rules

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
