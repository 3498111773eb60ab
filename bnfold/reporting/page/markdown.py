"""The little Markdown that the rules' docstrings use, as HTML: paragraphs, lists, code, strong words and links."""

from __future__ import annotations

import re
from html import escape

_CODE = re.compile(r"`([^`]+)`")
_STRONG = re.compile(r"\*\*([^*]+)\*\*")


def to_html(text: str) -> str:
    """HTML for Markdown of the package's own; whatever it does not know is shown as it stands."""
    return "\n".join(_block(block) for block in re.split(r"\n[ \t]*\n", _fences_closed(text)) if block.strip())


def _fences_closed(text: str) -> str:
    """Blank lines inside of a fenced block do not end it."""
    parts = text.split("```")
    return "```".join(
        part if index % 2 == 0 else re.sub(r"\n[ \t]*\n", "\n\u00a0\n", part) for index, part in enumerate(parts)
    )


def _block(block: str) -> str:
    lines = block.strip("\n").splitlines()
    if lines[0].startswith("```"):
        body = [line for line in lines[1:] if not line.startswith("```")]
        return f"<pre><code>{escape(chr(10).join(body))}</code></pre>"
    if all(line.startswith("    ") for line in lines):
        return f"<pre><code>{escape(chr(10).join(line[4:] for line in lines))}</code></pre>"
    if lines[0].startswith(("- ", "* ")):
        items = re.split(r"^[-*] ", "\n".join(lines), flags=re.MULTILINE)[1:]
        return "<ul>" + "".join(f"<li>{_inline(item)}</li>" for item in items) + "</ul>"
    return f"<p>{_inline(' '.join(lines))}</p>"


def _inline(text: str) -> str:
    text = escape(" ".join(text.split()))
    return _STRONG.sub(r"<strong>\1</strong>", _CODE.sub(r"<code>\1</code>", text))
