"""Settings from bnfold.toml and pyproject.toml."""

from __future__ import annotations

from pathlib import Path

import pytest

from bnfold.analysis import Finding, Report, Severity, Size, Summary
from bnfold.analysis.config import Config, find_config
from bnfold.errors import UsageError


def write(folder: Path, text: str, name: str = "bnfold.toml") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def report(model: str, *findings: tuple[str, str]) -> Report:
    """A report with (code, layer) findings."""
    made = tuple(Finding(code, "a-name", Severity.INFO, "a message", layer) for code, layer in findings)
    return Report(model, "onnx", (), made, Summary(Size(), Size()))


def left(config: Config, model: str, *findings: tuple[str, str]) -> list[tuple[str, str]]:
    return [(finding.code, finding.layer) for finding in config.without_ignored(report(model, *findings)).findings]


def test_defaults_without_a_file(tmp_path: Path) -> None:
    config = find_config(tmp_path)
    assert (config.select, config.ignore, config.fail_on) == (None, (), "error")


def test_every_setting(tmp_path: Path) -> None:
    write(tmp_path, 'select = ["BN1", "bn201"]\nignore = ["BN105"]\nfail-on = "warning"\n')
    config = find_config(tmp_path)
    assert (config.select, config.ignore, config.fail_on) == (("BN1", "BN201"), ("BN105",), "warning")


def test_a_file_above_is_found(tmp_path: Path) -> None:
    path = write(tmp_path, 'ignore = ["BN105"]')
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    assert find_config(below).path == path


def test_the_nearest_file_counts_and_its_own_name_before_pyproject(tmp_path: Path) -> None:
    write(tmp_path, 'ignore = ["BN101"]')
    write(tmp_path / "a", '[tool.bnfold]\nignore = ["BN102"]', "pyproject.toml")
    write(tmp_path / "a" / "b", "[tool.other]\nx = 1", "pyproject.toml")
    assert find_config(tmp_path / "a" / "b").ignore == ("BN102",), "a pyproject.toml without the table is passed over"
    write(tmp_path / "a", 'ignore = ["BN103"]')
    assert find_config(tmp_path / "a").ignore == ("BN103",)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('selct = ["BN1"]', "there is no setting 'selct'; did you mean 'select'?"),
        ('colour = "red"', "there is no setting 'colour'; there are select, ignore"),
        ('select = "BN1"', "select is a list of rule codes, not 'BN1'"),
        ("ignore = [1]", "ignore is a list of rule codes, not [1]"),
        ('ignore = ["BN12l"]', "ignore: there is no rule 'BN12l'"),
        ('fail-on = "fatal"', "fail-on is one of error, warning, info, never, not 'fatal'"),
        ('per-model-ignores = ["a"]', "per-model-ignores is a table"),
        ('[per-model-ignores]\n"a" = "BN1"', "is a list of codes or a table from layers to codes"),
        ('[per-model-ignores]\n"a" = ["BX1"]', "there is no rule 'BX1'"),
        ("select = [", "is not valid TOML"),
    ],
)
def test_mistakes_are_named_with_the_file(tmp_path: Path, text: str, words: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        find_config(tmp_path)
    assert str(path) in str(caught.value)
    assert words in str(caught.value)


def test_a_table_that_is_none(tmp_path: Path) -> None:
    write(tmp_path, "[tool]\nbnfold = 3", "pyproject.toml")
    with pytest.raises(UsageError, match="the settings of bnfold are a table, not 3"):
        find_config(tmp_path)


class TestPerModelIgnores:
    def test_for_all_layers_of_a_model(self, tmp_path: Path) -> None:
        write(tmp_path, '[per-model-ignores]\n"legacy/*.onnx" = ["BN2"]')
        config = find_config(tmp_path)
        findings = (("BN201", "conv"), ("BN101", "bn"), ("BN204", ""))
        assert left(config, str(tmp_path / "legacy" / "a.onnx"), *findings) == [("BN101", "bn")]
        assert left(config, str(tmp_path / "other" / "a.onnx"), *findings) == list(findings)

    def test_for_layers_by_pattern(self, tmp_path: Path) -> None:
        write(tmp_path, '[per-model-ignores."*.onnx"]\n"head/*" = ["BN101", "BN2"]\n')
        findings = (("BN101", "head/bn"), ("BN101", "body/bn"), ("BN301", "head/bn"))
        assert left(find_config(tmp_path), "a.onnx", *findings) == [("BN101", "body/bn"), ("BN301", "head/bn")]

    def test_patterns_are_relative_to_the_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write(tmp_path, '[per-model-ignores]\n"models/a.onnx" = ["BN1"]')
        (tmp_path / "models").mkdir()
        monkeypatch.chdir(tmp_path / "models")
        assert left(find_config(Path.cwd()), "a.onnx", ("BN101", "bn")) == []
        assert left(find_config(Path.cwd()), "b.onnx", ("BN101", "bn")) == [("BN101", "bn")]
