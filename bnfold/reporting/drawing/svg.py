"""A part of a model before folding beside the same part after, as an SVG picture that stands by itself."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from xml.sax.saxutils import escape

from bnfold.errors import UsageError
from bnfold.reporting.drawing.layers import HEIGHT, WIDTH, Layout, lay_out
from bnfold.reporting.drawing.palette import FINDING_COLOUR, colours, legend
from bnfold.reporting.drawing.view import OPERATOR, Node, Picture, View, around
from bnfold.reporting.text import clean, cut

#: A picture of more operators than this cannot be read.
LARGEST = 200
_MARGIN, _TITLE, _LEGEND, _BETWEEN = 18, 26, 34, 40
_FONT = "system-ui, 'Segoe UI', Helvetica, Arial, sans-serif"
_TEXT, _SOFT, _LINE = "#1a1d21", "#5a6270", "#8a919c"


def side_by_side(drawn: Picture, keys: Iterable[str] | None = None, depth: int = 2) -> str:
    """Both sides of a picture, or what is within ``depth`` of the nodes ``keys`` before and of what holds them after.

    Raises UsageError where that is too much for one picture.
    """
    before, after = drawn.before, drawn.after
    if keys is not None:
        chosen = list(keys)
        before = around(before, chosen, depth)
        there = {other for key in chosen for other in drawn.links.get(key, ())}
        there = there or {other for node in before.nodes for other in drawn.links.get(node.key, ())}
        after = around(after, there, depth)
    count = max(len(before.nodes), len(after.nodes))
    if count > LARGEST:
        raise UsageError(f"{count} operators are too many for one picture; say which with --around NAME")
    return _sheet((("before", before), ("after", after)))


def _sheet(sides: Sequence[tuple[str, View]]) -> str:
    layouts = [lay_out(view) for _, view in sides]
    nodes = [node for _, view in sides for node in view.nodes]
    states = {state: pair for state, pair in legend().items() if any(node.state == state for node in nodes)}
    if any(node.findings for node in nodes):
        states["finding"] = ("#ffffff", FINDING_COLOUR)
    widths = [max(layout.width, WIDTH) for layout in layouts]
    width = max(2 * _MARGIN + sum(widths) + _BETWEEN * (len(sides) - 1), 120.0 * len(states) + 2 * _MARGIN)
    height = 2 * _MARGIN + _TITLE + max(layout.height for layout in layouts) + (_LEGEND if states else 0)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" font-family="{_FONT}" font-size="11" role="img">',
        f'<rect width="{width:g}" height="{height:g}" rx="10" fill="#ffffff"/>',
    ]
    x = _MARGIN + (width - 2 * _MARGIN - sum(widths) - _BETWEEN * (len(sides) - 1)) / 2
    for (title, view), layout, wide in zip(sides, layouts, widths, strict=True):
        parts.append(f'<text x="{x + wide / 2:g}" y="{_MARGIN + 8}" text-anchor="middle" fill="{_SOFT}">{title}</text>')
        parts.append(f'<g transform="translate({x + (wide - layout.width) / 2:g},{_MARGIN + _TITLE})">')
        parts += _graph(view, layout)
        parts.append("</g>")
        x += wide + _BETWEEN
    for number, (state, (fill, line)) in enumerate(states.items()):
        left, top = _MARGIN + 120 * number, height - _MARGIN - 10
        parts.append(
            f'<rect x="{left}" y="{top - 10:g}" width="13" height="13" rx="3" fill="{fill}" stroke="{line}"/>'
            f'<text x="{left + 19}" y="{top:g}" fill="{_SOFT}">{escape(state)}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])


def _graph(view: View, layout: Layout) -> list[str]:
    parts = []
    for path in layout.paths:
        bends = "".join(
            f"C{a:g},{(b + d) / 2:g} {c:g},{(b + d) / 2:g} {c:g},{d:g}" for (a, b), (c, d) in itertools.pairwise(path)
        )
        x, y = path[-1]
        parts.append(f'<path d="M{path[0][0]:g},{path[0][1]:g}{bends}" fill="none" stroke="{_LINE}"/>')
        parts.append(f'<path d="M{x:g},{y:g}l-3,-6h6z" fill="{_LINE}"/>')
    return parts + [_node(node, *layout.centres[node.key]) for node in view.nodes]


def _node(node: Node, x: float, y: float) -> str:
    fill, line = colours(node.state)
    line, thick = (FINDING_COLOUR, 2.2) if node.findings else (line, 1.2)
    told = "\n".join(filter(None, (f"{node.label} ({node.type})", node.shape, node.fate, *node.messages)))
    corner = 6 if node.kind == OPERATOR else HEIGHT / 2
    middle = f'x="{WIDTH / 2:g}" text-anchor="middle" fill="{_TEXT}"'
    return (
        f'<g transform="translate({x - WIDTH / 2:g},{y - HEIGHT / 2:g})"><title>{_text(cut(told, 2000))}</title>'
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="{corner:g}" fill="{fill}" stroke="{line}" '
        f'stroke-width="{thick}"/>'
        f'<text {middle} y="17" font-weight="600">{_text(cut(node.type, 24))}</text>'
        f'<text {middle} y="31" font-size="9.5">{_text(_short(node))}</text>'
        "</g>"
    )


def _short(node: Node, length: int = 30) -> str:
    """The end of a path without the operator's type, as most names are paths that begin alike; of others both ends."""
    folder, _, last = node.label.rpartition("/")
    name = folder if folder.count("/") and last.startswith(node.type) else node.label
    return name if len(name) <= length else f"…{name[1 - length :]}" if "/" in name else cut(name, length)


def _text(text: str) -> str:
    return escape("\n".join(clean(row) for row in text.split("\n")))
