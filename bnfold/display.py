"""How results show themselves in a notebook.

Results stand below the room that draws them, and imports never point up: the renderer is looked up by its name when a
notebook asks, as the package's own names are (see ``bnfold/__init__.py``). Nothing of it is imported before.
"""

from __future__ import annotations

from importlib import import_module


class Displayed:
    """A result that notebooks show as a table and a picture."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        return str(import_module("bnfold.reporting.notebook").html(self))
