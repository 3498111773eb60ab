"""``--format sarif``: SARIF 2.1.0, for code scanning."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bnfold.analysis import Finding, Report, Rule, Severity, all_rules
from bnfold.reporting.as_json import dump
from bnfold.version import __version__

SCHEMA_URI = "https://json.schemastore.org/sarif-2.1.0.json"
_LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}


def render(
    reports: Sequence[Report], failures: Mapping[str, str], *, counts: Sequence[tuple[int, str, str]] | None = None
) -> str:
    """One run with all models; those that could not be read are notifications of its invocation."""
    rules = all_rules()
    places = {rule.code: index for index, rule in enumerate(rules)}
    run = {
        "tool": {"driver": {"name": "bnfold", "version": __version__, "rules": [_rule(rule) for rule in rules]}},
        "invocations": [_invocation(failures)],
        "results": [_result(report, finding, places) for report in reports for finding in report.findings],
        "columnKind": "unicodeCodePoints",
    }
    return dump({"$schema": SCHEMA_URI, "version": "2.1.0", "runs": [run]})


def _rule(rule: Rule) -> dict[str, Any]:
    sections = rule.sections()
    text = "\n\n".join(f"## {title}\n\n{body}" for title, body in sections.items())
    return {
        "id": rule.code,
        "name": rule.name,
        "shortDescription": {"text": rule.summary()},
        "fullDescription": {"text": sections["What it finds"]},
        "help": {"text": sections["Fix"], "markdown": text},
        "defaultConfiguration": {"level": _LEVELS[rule.severity]},
    }


def _result(report: Report, finding: Finding, places: Mapping[str, int]) -> dict[str, Any]:
    location: dict[str, Any] = {
        "physicalLocation": {"artifactLocation": {"uri": _uri(report.model)}, "region": {"startLine": 1}}
    }
    if finding.layer:
        name = f"{finding.scope}/{finding.layer}" if finding.scope else finding.layer
        location["logicalLocations"] = [{"name": finding.layer, "fullyQualifiedName": name, "kind": "element"}]
    return {
        "ruleId": finding.code,
        "ruleIndex": places[finding.code],
        "level": _LEVELS[finding.severity],
        "message": {"text": finding.message},
        "locations": [location],
        "partialFingerprints": {"bnfold/v1": _fingerprint(finding)},
        "properties": {"repair": finding.repair.value, "values": dict(finding.values)},
    }


def _fingerprint(finding: Finding) -> str:
    """The same for the same finding in the next version of a model: the rule and the layer, not the numbers."""
    key = json.dumps([finding.code, finding.scope, finding.layer])
    return hashlib.sha256(key.encode("utf-8", "backslashreplace")).hexdigest()[:32]


def _invocation(failures: Mapping[str, str]) -> dict[str, Any]:
    notes = [
        {
            "level": "error",
            "message": {"text": sentence},
            "locations": [{"physicalLocation": {"artifactLocation": {"uri": _uri(model)}}}],
        }
        for model, sentence in failures.items()
    ]
    return {"executionSuccessful": not failures, "toolExecutionNotifications": notes}


def _uri(model: str) -> str:
    """A relative path stays relative to the root of the repository; an absolute one becomes a file URI."""
    path = Path(model)
    encoded = quote(path.as_posix(), errors="backslashreplace")
    return f"file://{encoded}" if path.is_absolute() else encoded
