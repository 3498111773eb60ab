"""Settings from ``bnfold.toml`` or ``[tool.bnfold]`` in ``pyproject.toml``, found upward from a folder.

select = ["BN"]              # codes or prefixes; all by default
ignore = ["BN203"]
fail-on = "warning"          # error, warning, info or never

[per-model-ignores]
"legacy/*.onnx" = ["BN2"]                             # for all layers of these models
"models/detector.onnx" = { "head/*" = ["BN101"] }     # for layers whose name fits
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from bnfold.analysis.report import Finding, Report, Severity
from bnfold.analysis.rules import select_rules
from bnfold.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: What ``fail-on`` may be besides a severity.
NEVER = "never"
FAIL_ON = (*(severity.value for severity in Severity), NEVER)
_KEYS = ("select", "ignore", "fail-on", "per-model-ignores")
#: The pattern that stands for every layer, and for findings about the whole model.
_EVERY_LAYER = "*"


@dataclass(frozen=True, slots=True)
class Config:
    """The settings of one project. ``per_model`` maps a model's pattern to layer patterns to codes."""

    path: Path | None = None
    select: tuple[str, ...] | None = None
    ignore: tuple[str, ...] = ()
    fail_on: str = Severity.ERROR.value
    per_model: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)

    def without_ignored(self, report: Report) -> Report:
        """The report without the findings that ``per-model-ignores`` names."""
        patterns = [
            (layer, codes)
            for model, layers in self.per_model.items()
            if self._is_model(report.model, model)
            for layer, codes in layers.items()
        ]
        if not patterns:
            return report
        return replace(report, findings=tuple(f for f in report.findings if not _is_ignored(f, patterns)))

    def _is_model(self, model: str, pattern: str) -> bool:
        """Patterns are relative to the folder of the settings file."""
        path = Path(model)
        names = {path.as_posix()}
        if self.path is not None:
            folder, whole = self.path.parent.resolve(), path.resolve()
            if whole.is_relative_to(folder):
                names.add(whole.relative_to(folder).as_posix())
        return any(fnmatchcase(name, pattern) for name in names)


def _is_ignored(finding: Finding, patterns: Iterable[tuple[str, tuple[str, ...]]]) -> bool:
    return any(fnmatchcase(finding.layer, layer) and finding.code.startswith(codes) for layer, codes in patterns)


def find_config(folder: Path) -> Config:
    """The settings nearest to ``folder``: its own or those of a folder above; defaults where there are none.

    Raises UsageError for a file that is not TOML, a key or value that means nothing, and an unknown rule.
    """
    for place in (folder, *folder.parents):
        own = place / "bnfold.toml"
        if own.is_file():
            return _read(own, _toml(own))
        project = place / "pyproject.toml"
        if project.is_file():
            tools = _toml(project).get("tool", {})
            if not isinstance(tools, dict):
                raise UsageError(f"{project}: tool is a table, not {tools!r}")
            table = tools.get("bnfold")
            if table is not None:
                return _read(project, table)
    return Config()


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error


def _read(path: Path, table: Any) -> Config:
    if not isinstance(table, dict):
        raise UsageError(f"{path}: the settings of bnfold are a table, not {table!r}")
    for key in table:
        if key not in _KEYS:
            near = difflib.get_close_matches(key, _KEYS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(_KEYS)}"
            raise UsageError(f"{path}: there is no setting {key!r}{hint}")
    fail_on = table.get("fail-on", Severity.ERROR.value)
    if fail_on not in FAIL_ON:
        raise UsageError(f"{path}: fail-on is one of {', '.join(FAIL_ON)}, not {fail_on!r}")
    return Config(
        path,
        _codes(path, "select", table["select"]) if "select" in table else None,
        _codes(path, "ignore", table.get("ignore", [])),
        fail_on,
        _per_model(path, table.get("per-model-ignores", {})),
    )


def _per_model(path: Path, table: Any) -> dict[str, dict[str, tuple[str, ...]]]:
    key = "per-model-ignores"
    if not isinstance(table, dict):
        raise UsageError(f"{path}: {key} is a table from models to layers to codes, not {table!r}")
    found = {}
    for model, layers in table.items():
        if isinstance(layers, list):
            layers = {_EVERY_LAYER: layers}
        if not isinstance(layers, dict):
            raise UsageError(f"{path}: {key}.{model!r} is a list of codes or a table from layers to codes")
        found[model] = {layer: _codes(path, f"{key}.{model!r}", codes) for layer, codes in layers.items()}
    return found


def _codes(path: Path, key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(code, str) for code in value):
        raise UsageError(f"{path}: {key} is a list of rule codes, not {value!r}")
    try:
        select_rules(value, None)
    except UsageError as error:
        raise UsageError(f"{path}: {key}: {error}") from error
    return tuple(code.strip().upper() for code in value)
