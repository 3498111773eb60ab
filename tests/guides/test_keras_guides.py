"""The guide does what it says: its Python runs, its commands print what is shown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from command_line import bnfold

ROOT = Path(__file__).parents[2]
GUIDES = [ROOT / "docs" / "guides" / "where-to-put-batchnorm.md"]
BLOCK = re.compile(r"^```(python|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^\$ bnfold (.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)


def shown(text: str) -> re.Pattern[str]:
    """What is printed, with ``…`` for anything and every run of spaces for any other."""
    parts = (re.escape(" ".join(part.split())) for part in text.split("…"))
    return re.compile(r"\s*.*?\s*".join(parts).replace(r"\ ", r"\s+"), re.DOTALL)


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
def test_every_block(guide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sample_models").symlink_to(ROOT / "sample_models")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    commands = 0
    for kind, text in BLOCK.findall(guide.read_text(encoding="utf-8")):
        if kind == "python":
            exec(compile(text, str(guide), "exec"), names)
            continue
        for arguments, expected in COMMAND.findall(text):
            outcome = bnfold(*arguments.split())
            assert outcome.code in (0, 1), f"{arguments}: {outcome.err}"
            assert shown(expected).search(outcome.out), f"{arguments} prints something else:\n{outcome.out}"
            commands += 1
    assert commands == guide.read_text(encoding="utf-8").count("$ bnfold ")


def test_the_commands_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the experiment, which takes minutes, on a terminal as wide as the one that they were copied from."""
    (tmp_path / "sample_models").symlink_to(ROOT / "sample_models")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    blocks = [
        text for kind, text in BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8")) if kind == "console"
    ]
    commands = [found for text in blocks for found in COMMAND.findall(text) if not found[0].startswith("experiment")]
    assert {arguments.split()[0] for arguments, _ in commands} == {"fold", "analyze", "restyle"}
    for arguments, expected in commands:
        outcome = bnfold(*arguments.split())
        assert outcome.code == 0, outcome.err
        assert shown(expected).search(outcome.out), f"{arguments} prints something else:\n{outcome.out}"


def test_the_table_of_the_experiment_is_that_of_the_readme() -> None:
    """It takes minutes to make: it is not made anew."""
    (table,) = re.findall(r"^```text\n(.*?)^```$", GUIDES[0].read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert table in (ROOT / "README.md").read_text(encoding="utf-8")
    assert "with 7 seeds p can at best be 0.0156" in table


def test_what_is_not_printed_is_noticed() -> None:
    assert shown("a  b\n…\nc").search("a b\nx\nc")
    assert not shown("a  b\n…\nc").search("a x\nb c")
