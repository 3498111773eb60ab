"""What goes with the numbers: where they were measured, and the README and files they are put into."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

README = Path(__file__).parents[1] / "README.md"
_BEGIN, _END = "<!-- begin {} -->", "<!-- end {} -->"


def setting(releases: Iterable[str]) -> str:
    """The date, the machine and the versions in one line, with nothing that identifies the machine."""
    today = datetime.now(timezone.utc).date().isoformat()
    system = f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"
    return f"{today}, {system}; {', '.join(dict.fromkeys(releases))}"


def write_json(path: Path, where: str, results: Any) -> None:
    path.write_text(json.dumps({"setting": where, "results": results}, indent=1) + "\n")


def replace_section(name: str, text: str, path: Path = README) -> None:
    """Put ``text`` between the marks of a section of a Markdown file. Raises ValueError without the marks."""
    begin, end = _BEGIN.format(name), _END.format(name)
    old = path.read_text()
    if begin not in old or end not in old:
        raise ValueError(f"{path.name} has no section {name!r}")
    path.write_text(f"{old.split(begin)[0]}{begin}\n{text.strip()}\n{end}{old.split(end, 1)[1]}")
