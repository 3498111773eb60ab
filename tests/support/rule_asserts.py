"""What the tests of the rules ask of a report."""

from __future__ import annotations

from typing import Any

import bnfold
from bnfold.analysis import Finding, Severity


def found(model: Any, code: str) -> list[Finding]:
    """The findings of one rule, in order."""
    return list(bnfold.analyze(model, select=[code]).findings)


def only(model: Any, code: str) -> Finding:
    """The one finding of a rule."""
    (finding,) = found(model, code)
    return finding


def layers(model: Any, code: str) -> list[str]:
    """The layers at which a rule fires, in order."""
    return [finding.layer for finding in found(model, code)]


def codes(model: Any, *, least: Severity = Severity.INFO) -> list[str]:
    """The codes of all findings at or above a severity, sorted, each as often as it occurs."""
    return sorted(finding.code for finding in bnfold.analyze(model).findings if finding.severity.rank >= least.rank)
