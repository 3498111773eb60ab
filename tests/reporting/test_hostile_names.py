"""Names from strangers' files in everything that is printed: shown as text, and obeyed by nobody."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import hostile
import onnx
import pytest
from command_line import bnfold


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("strange") / "strange.onnx"
    onnx.save(hostile.model(), path)
    return path


def analyzed(strange: Path, output_format: str) -> str:
    outcome = bnfold("analyze", strange, "--format", output_format, "--fail-on", "never")
    assert (outcome.code, outcome.err) == (0, "")
    return outcome.out


def strings(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set().union(*(strings(item) for item in value.values()))
    if isinstance(value, list):
        return set().union(*map(strings, value))
    return {value} if isinstance(value, str) else set()


@pytest.mark.parametrize("output_format", ["text", "json", "sarif", "github", "markdown"])
def test_a_terminal_gets_nothing_to_obey(strange: Path, output_format: str) -> None:
    assert analyzed(strange, output_format).replace("\n", "").isprintable()


def test_no_command_prints_what_a_terminal_or_a_log_obeys(strange: Path, tmp_path: Path) -> None:
    folded = tmp_path / "folded.onnx"
    for arguments in (
        ("analyze", strange, "--verbose", "--fail-on", "never"),
        ("fold", strange, "-o", folded),
        ("verify", strange, folded),
        ("fix", strange, "-o", tmp_path / "fixed.onnx"),
        ("equalize", strange, "-o", tmp_path / "equal.onnx"),
        ("graph", strange, "-o", tmp_path / "a.dot", "--around", hostile.CONTROL + "?"),
    ):
        outcome = bnfold(*arguments)
        text = outcome.out + outcome.err
        assert text.replace("\n", "").isprintable()
        # GitHub's runner looks for commands at the beginning of a line, whatever spaces are before it.
        assert [row for row in text.splitlines() if row.lstrip().startswith("::") or "##[" in row] == []


@pytest.mark.parametrize("output_format", ["json", "sarif"])
def test_programs_get_every_name_as_it_is(strange: Path, output_format: str) -> None:
    told = "\n".join(strings(json.loads(analyzed(strange, output_format))))
    found = hostile.NAMES if output_format == "json" else hostile.NAMES[:-1]  # nothing is found about the last
    assert [name for name in found if name not in told] == []


def test_an_annotation_is_one_command_a_line(strange: Path) -> None:
    rows = analyzed(strange, "github").splitlines()
    assert len(rows) >= len(hostile.NAMES) - 1
    for row in rows:
        found = re.fullmatch(r"::(notice|warning|error) file=([^:,]*),title=([^:,]*)::(.*)", row)
        assert found, row
        assert not re.search("%(?!25|0A|0D)", found[4])
    assert any("::error file=a::%250Atext" in row for row in rows)


def test_a_table_of_markdown_keeps_its_columns(strange: Path) -> None:
    rows = [row for row in analyzed(strange, "markdown").splitlines() if row.startswith("|")]
    counts = {len(re.findall(r"(?<!\\)\|", row)) for row in rows}
    assert counts == {5, 6}  # findings have four columns, placements five
    for row in rows:
        assert not re.search(r"(?<!\\)[`<\[*_]", row), row
