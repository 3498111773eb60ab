"""``--format json``. The keys are documented in docs/json.md; ``schema`` rises when one changes its meaning."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from bnfold.analysis import SCHEMA_VERSION, Report
from bnfold.version import __version__

_UNUSUAL = re.compile(r"[^\n\x20-\x7e]")


def render(
    reports: Sequence[Report],
    failures: Mapping[str, str],
    *,
    counts: Sequence[tuple[int, str, str]] | None = None,
    int8: Mapping[str, object] | None = None,
) -> str:
    """Every report under ``models``, every model that could not be read under ``errors``."""
    data: dict[str, Any] = {
        **header(),
        "models": [report.to_dict() for report in reports],
        "errors": [{"model": model, "message": sentence} for model, sentence in failures.items()],
    }
    if counts is not None:
        data["counts"] = [{"code": code, "name": name, "count": count} for count, code, name in counts]
        data["statistics"] = data["counts"]  # the key of 0.1
    if int8 is not None:
        data["int8"] = int8
    return dump(data)


def header() -> dict[str, Any]:
    """What every JSON document of bnfold begins with."""
    return {"schema": SCHEMA_VERSION, "tool": {"name": "bnfold", "version": __version__}}


def dump(data: Any) -> str:
    """JSON for people and programs: indented, with NaN and infinity as the strings that verification uses too.

    What a terminal would obey (C1 control characters, marks of direction) is escaped, as JSON itself does with C0.
    """
    text = json.dumps(_plain(data), indent=2, ensure_ascii=False, allow_nan=False)
    return _UNUSUAL.sub(lambda found: found[0] if found[0].isprintable() else json.dumps(found[0])[1:-1], text)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
