"""The part of a graph that somebody asks for by name."""

from __future__ import annotations

import difflib

from bnfold.errors import UsageError
from bnfold.reporting.drawing.view import View
from bnfold.reporting.text import clean, cut


def named(view: View, name: str, model: str) -> list[str]:
    """The keys of the operators that have that name, or put out the tensor of that name. Raises UsageError.

    Layers and nodes need not have names of their own: all that share it are taken.
    """
    for names in (lambda node: (node.key,), lambda node: (node.label,), lambda node: node.outputs):
        found = [node.key for node in view.nodes if name in names(node)]
        if found:
            return found
    known = {text for node in view.nodes for text in (node.key, node.label) if len(text) <= 200}
    near = difflib.get_close_matches(name, sorted(known), n=1)
    hint = f"; did you mean {clean(near[0])!r}?" if near else ""
    raise UsageError(f"{model}: there is no operator or tensor {clean(cut(name, 200))!r}{hint}")
