"""How results show themselves in a notebook.

Results stand below the room that draws them, and imports never point up: the package registers the renderer (see
``bnfold/__init__.py``), and a notebook that asks is what imports it.
"""

from __future__ import annotations

from collections.abc import Callable

_renderers: list[Callable[[object], str]] = []


def register(renderer: Callable[[object], str]) -> None:
    """Have results shown by this function from a result to HTML, in place of the one before."""
    _renderers[:] = [renderer]


class Displayed:
    """A result that notebooks show as a table and a picture."""

    __slots__ = ()

    def _repr_html_(self) -> str | None:
        # None tells a notebook to show the repr.
        return _renderers[0](self) if _renderers else None
