"""A view in Graphviz's language, and what Graphviz makes of it where it is installed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator

from bnfold.errors import OutputError, UsageError, shortened
from bnfold.reporting.drawing.networks import attributes
from bnfold.reporting.drawing.palette import FINDING_COLOUR, colours
from bnfold.reporting.drawing.view import OPERATOR, Node, View
from bnfold.reporting.text import clean, cut

_LABEL = 48
#: Graphviz reads no string token of more than 16,384 bytes; longer strings are put together from pieces.
_PIECE = 2_000
#: What Graphviz takes for entities (``&lt;``) in what it shows.
_SHOWN = frozenset({"label", "tooltip"})


def dot(view: View) -> str:
    """The view as a directed graph; subgraphs of operators are clusters."""
    lines = [
        f"digraph {_quoted(view.name)} {{",
        '  graph [rankdir=TB, fontname="Helvetica"];',
        '  node [shape=box, style="rounded,filled", fontname="Helvetica", fontsize=11];',
        '  edge [arrowsize=0.6, color="#8a8f98"];',
    ]
    lines += _scope(view, _tree(view), "", "  ")
    for edge in view.edges:
        slot = "" if edge.slot is None else f", slot={edge.slot}"
        lines.append(f"  {_quoted(edge.source)} -> {_quoted(edge.target)} [tensor={_quoted(edge.tensor)}{slot}];")
    return "\n".join([*lines, "}", ""])


def run(text: str, output_format: str) -> bytes:
    """What Graphviz draws. Raises UsageError where it is not installed, OutputError where it fails."""
    program = shutil.which("dot")
    if program is None:
        raise UsageError(
            f"a .{output_format} file is drawn by Graphviz, which is not installed (there is no program 'dot'); "
            "write .dot, .graphml or .json instead"
        )
    done = subprocess.run(
        [program, f"-T{output_format}"],
        input=text.encode("utf-8", "backslashreplace"),
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise OutputError(f"Graphviz could not draw the graph: {shortened(done.stderr.decode(errors='replace'))}")
    return done.stdout


def _tree(view: View) -> dict[str, list[str]]:
    """The scopes inside each scope, in the order of their first operators."""
    inside: dict[str, list[str]] = {}
    known = dict.fromkeys(node.scope for node in view.nodes if node.scope)
    for scope in known:
        outer = max((other for other in known if scope.startswith(f"{other}/")), key=len, default="")
        inside.setdefault(outer, []).append(scope)
    return inside


def _scope(view: View, inside: dict[str, list[str]], scope: str, indent: str) -> Iterator[str]:
    for node in view.nodes:
        if node.scope == scope:
            yield f"{indent}{_quoted(node.key)} [{_attributes(node)}];"
    for inner in inside.get(scope, ()):
        yield f"{indent}subgraph {_quoted(f'cluster {inner}')} {{"
        yield f"{indent}  label={_quoted(_plain(cut(inner, _LABEL)))}; style=dashed;"
        yield from _scope(view, inside, inner, indent + "  ")
        yield f"{indent}}}"


def _attributes(node: Node) -> str:
    fill, line = colours(node.state)
    label = cut(node.label, _LABEL)
    shown = {"label": f"{node.type}\n{label}" if node.kind == OPERATOR else f"{node.kind}\n{label}"}
    shown |= {"fillcolor": fill, "color": FINDING_COLOUR if node.findings else line}
    shown["tooltip"] = "; ".join(filter(None, (node.fate, *node.messages))) or node.type
    if node.kind != OPERATOR:
        shown["shape"] = "oval"
    known = {f"bnfold_{key}" if key in ("label", "shape") else key: value for key, value in attributes(node).items()}
    return ", ".join(
        f"{key}={_quoted(_plain(str(value)) if key in _SHOWN else str(value))}"
        for key, value in {**known, **shown}.items()
    )


def _plain(text: str) -> str:
    return text.replace("&", "&amp;")


def _quoted(text: str) -> str:
    """A string of the language: quotes and backslashes are escaped, and what no terminal shows is written out."""
    pieces = [text[start : start + _PIECE] for start in range(0, len(text), _PIECE)] or [""]
    return " + ".join(f'"{_escaped(piece)}"' for piece in pieces)


def _escaped(text: str) -> str:
    rows = [clean(row).replace("\\", "\\\\").replace('"', '\\"') for row in text.split("\n")]
    return "\\n".join(rows)
