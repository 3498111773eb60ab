"""The documents speak of files that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/README.md")]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8"))
    assert [target for target in targets if not (document.parent / target).exists()] == []


@pytest.mark.parametrize("name", ["docs/architecture.md", "docs/algebra.md"])
def test_files_that_are_named_exist(name: str) -> None:
    """From the root, from the package, or within a folder that the same line names."""
    count, missing = 0, []
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        paths = re.findall(r"`([\w/]+(?:\.py|\.toml|/))`", line)
        places = [ROOT, ROOT / "bnfold", *(ROOT / "bnfold" / path for path in paths if path.endswith("/"))]
        missing += [path for path in paths if not any((place / path).exists() for place in places)]
        count += len(paths)
    assert count > 1
    assert missing == []


def test_every_room_is_on_the_map() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = [path for path in (ROOT / "bnfold").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
    names = [path.name + "/" * path.is_dir() for path in rooms if not path.name.startswith("__")]
    assert len(names) > 10
    assert [name for name in names if f"`{name}`" not in text] == []
