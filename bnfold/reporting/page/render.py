"""The page itself: a template, a style and scripts put into one file whose bytes depend on what it says alone."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import platform
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import metadata, resources
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from bnfold.reporting.drawing.palette import FINDING_COLOUR, legend
from bnfold.reporting.page.markdown import to_html
from bnfold.reporting.text import cut, visible
from bnfold.version import __version__

if TYPE_CHECKING:
    from bnfold.reporting.page.sheet import Sheet

_SCRIPTS = ("view.js", "paint.js", "graph.js", "plots.js", "table.js", "grid.js", "main.js")
#: Names are shown up to this length; the whole name is in the tooltip.
_SHOWN, _TOOLTIP = 160, 12_000
#: Options that change nothing about the page.
_NOT_TOLD = ("quiet", "verbose", "output_format", "count")
_USED = ("onnx", "onnxruntime", "numpy", "networkx", "keras", "tensorflow", "tf2onnx")


def page(command: str, sheets: Sequence[Sheet], settings: Mapping[str, Any]) -> bytes:
    """The HTML file of a command's results. ``settings`` are the options it was called with."""
    script = "\n".join(_asset(name) for name in _SCRIPTS)
    style = _asset("page.css") + _palette()
    worker = _asset("dagre.min.js").partition("//# sourceMappingURL")[0] + _asset("worker.js")
    text = _template().render(
        command=command,
        sheets=sheets,
        rules=_rules(sheets),
        settings={
            key: ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
            for key, value in settings.items()
            if value not in (None, False, "", ()) and key not in _NOT_TOLD
        },
        versions=_versions(),
        data=_data([sheet.data for sheet in sheets]),
        script=Markup(script),
        style=Markup(style),
        worker=Markup(worker),
        licence=_asset("dagre.LICENSE.txt"),
        policy=(
            f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; worker-src blob:; "
            "base-uri 'none'; form-action 'none'"
        ),
        legend=legend(),
    )
    return text.encode("utf-8", "backslashreplace")


@cache
def _asset(name: str) -> str:
    return resources.files("bnfold.reporting.page").joinpath("assets", name).read_text(encoding="utf-8")


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        name=_name, seen=lambda text: cut(visible(text), 4 * _SHOWN), markdown=lambda text: Markup(to_html(text)),
        cell=_cell,
    )  # fmt: skip
    return environment.from_string(_asset("page.html.jinja"))


def _name(text: object) -> Markup:
    """A name from a file: isolated from the direction of the text around it, cut, and whole in the tooltip."""
    whole = visible(text)
    shown = cut(whole, _SHOWN)
    tip = Markup(' title="{}"').format(cut(whole, _TOOLTIP)) if shown != whole else ""
    parts = Markup("/<wbr>").join(shown.split("/"))  # a path breaks where a folder ends
    return Markup('<bdi class="name"{}>{}</bdi>').format(tip, parts)


def _cell(value: object) -> str:
    """A number or word of a verification, as short as it can be read."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}"
    return cut(visible(value), _SHOWN)


def _rules(sheets: Sequence[Sheet]) -> dict[str, Any]:
    """The rules that found something, by code: the text that explains a finding stands in its class."""
    codes = {finding.code for sheet in sheets if sheet.report is not None for finding in sheet.report.findings}
    codes = codes.union(*(sheet.codes for sheet in sheets))
    if not codes:
        return {}
    from bnfold.analysis import all_rules

    return {rule.code: rule for rule in all_rules() if rule.code in codes}


def _versions() -> dict[str, str]:
    installed = {name: next(iter(metadata.distributions(name=name)), None) for name in _USED}
    found = {name: distribution.version for name, distribution in installed.items() if distribution is not None}
    return {"bnfold": __version__, "Python": platform.python_version(), **found}


def _data(value: Any) -> Markup:
    """JSON that may stand in a script element: nothing in it ends the element or begins a comment."""
    text = json.dumps(_finite(value), ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, str):
        return visible(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _palette() -> str:
    """The colours of the states, for nodes and for the legend."""
    rules = [
        f'.node[data-state="{state}"] rect, i[data-state="{state}"] {{ fill: {fill}; stroke: {line}; '
        f"background: {fill}; border-color: {line}; }}"
        for state, (fill, line) in legend().items()
    ]
    return "\n".join([*rules, f":root {{ --finding: {FINDING_COLOUR}; }}", ""])
