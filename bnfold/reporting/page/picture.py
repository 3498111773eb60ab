"""An SVG file of matplotlib's as a part of the page: the policy allows no style in it, and no name may become more."""

from __future__ import annotations

from xml.etree import ElementTree

from markupsafe import Markup

_SVG, _LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
_ELEMENTS = frozenset({"svg", "g", "defs", "clipPath", "path", "use", "rect", "text"})
_ATTRIBUTES = frozenset({"viewBox", "d", "x", "y", "width", "height", "transform"})
#: What stands in ``style`` there, and is understood as an attribute too.
_STYLES = frozenset({
    "fill", "fill-opacity", "opacity", "stroke", "stroke-width", "stroke-opacity", "stroke-linecap", "stroke-linejoin",
    "stroke-dasharray", "stroke-dashoffset", "font-size", "text-anchor",
})  # fmt: skip
#: A white ground and black lines would be wrong on a dark page.
_COLOURS = {("fill", "#ffffff"): "none", ("stroke", "#000000"): "currentColor"}
_PREFIX = "picture-"


def picture(drawn: bytes, label: str) -> Markup:
    """The elements and attributes that are known, and nothing else, of an SVG file that this program has drawn."""
    root = _copy(ElementTree.fromstring(drawn))
    for size in ("width", "height"):
        root.attrib.pop(size, None)
    root.attrib.update({"role": "img", "aria-label": label, "stroke-linejoin": "round"})
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _copy(element: ElementTree.Element) -> ElementTree.Element:
    copied = ElementTree.Element(element.tag.removeprefix(_SVG), _attributes(element))
    if copied.tag == "text":
        copied.text = "".join(element.itertext())
        return copied
    copied.extend(_copy(child) for child in element if child.tag.removeprefix(_SVG) in _ELEMENTS)
    for child in [child for child in copied if child.tag in ("g", "defs") and not len(child)]:
        copied.remove(child)
    return copied


def _attributes(element: ElementTree.Element) -> dict[str, str]:
    found = {key: value for key, value in element.items() if key in _ATTRIBUTES}
    for part in element.get("style", "").split(";"):
        key, value = (text.strip() for text in f"{part}:".split(":")[:2])
        if key in _STYLES and "(" not in value:
            found[key] = _COLOURS.get((key, value), value)
    if "id" in element.attrib:
        found["id"] = _PREFIX + element.attrib["id"]
    if element.get("clip-path", "").startswith("url(#"):
        found["clip-path"] = element.attrib["clip-path"].replace("url(#", f"url(#{_PREFIX}", 1)
    if element.get(_LINK, "").startswith("#"):
        found["href"] = "#" + _PREFIX + element.attrib[_LINK][1:]
    return found
