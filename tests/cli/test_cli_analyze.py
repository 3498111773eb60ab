"""``bnfold analyze``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import SAMPLES, bnfold

CNN, MLP, POST = (SAMPLES / f"digits_{name}.onnx" for name in ("cnn", "mlp", "cnn_post"))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings file but the test's own is found upward from here."""
    monkeypatch.chdir(tmp_path)


def found(*arguments: str | Path) -> list[str]:
    """The codes of all findings, sorted."""
    data = json.loads(bnfold("analyze", *arguments, "--format", "json").out)
    return sorted(finding["code"] for model in data["models"] for finding in model["findings"])


class TestOneModel:
    def test_text(self) -> None:
        outcome = bnfold("analyze", CNN)
        assert outcome.code == 0
        assert outcome.out.startswith(f"{CNN}\n")
        assert (
            "/1/BatchNormalization 16 Conv → BN → Relu before activation folds backward into /0/Conv" in outcome.words
        )
        assert (
            "warning BN201 /0/Conv has a bias of 16 parameters that /1/BatchNormalization takes away" in outcome.words
        )
        assert "3 BN, all before activation" in outcome.words

    @pytest.mark.parametrize("output_format", ["json", "sarif", "github", "markdown"])
    def test_other_formats(self, output_format: str) -> None:
        outcome = bnfold("analyze", CNN, "--format", output_format)
        assert outcome.code == 0
        assert outcome.err == ""
        assert "BN201" in outcome.out
        if output_format in ("json", "sarif"):
            json.loads(outcome.out)

    def test_quiet_and_count(self) -> None:
        assert "3 BN" not in bnfold("analyze", CNN, "--quiet").out
        assert bnfold("analyze", CNN, "--count").words == (
            "count code rule 2 BN203 redundant-scale 1 BN201 redundant-bias"
        )

    def test_the_former_name_of_count_is_understood_and_not_shown(self) -> None:
        assert bnfold("analyze", CNN, "--statistics").out == bnfold("analyze", CNN, "--count").out
        assert "--statistics" not in bnfold("analyze", "--help").out

    def test_stats(self) -> None:
        assert "|scale|" not in bnfold("analyze", CNN).out
        assert "|scale|" in bnfold("analyze", CNN, "--stats").out
        data = json.loads(bnfold("analyze", CNN, "--stats", "--format", "json").out)
        numbers = data["models"][0]["batchnorms"][0]["statistics"]
        assert set(numbers) == {"scale", "variance", "epsilon", "dead_channels", "weight_spread_bits"}
        assert numbers["scale"]["min"] < numbers["scale"]["median"] < numbers["scale"]["max"]


class TestSelection:
    def test_select_and_ignore(self) -> None:
        assert found(CNN) == ["BN201", "BN203", "BN203"]
        assert found(CNN, "--select", "BN201,BN3") == ["BN201"]
        assert found(CNN, "--select", "BN2", "--ignore", "BN203") == ["BN201"]
        assert found(CNN, "--ignore", "BN2") == []

    def test_an_unknown_code_ends_the_call(self) -> None:
        outcome = bnfold("analyze", CNN, "--select", "BN2O1")
        assert (outcome.code, outcome.out) == (2, "")
        assert outcome.err == "bnfold: there is no rule 'BN2O1'; did you mean BN201? `bnfold rules` lists them all\n"

    def test_a_code_like_no_other_ends_the_call(self) -> None:
        outcome = bnfold("analyze", CNN, "--select", "zzz")
        assert outcome.err == "bnfold: there is no rule 'zzz'; `bnfold rules` lists them all\n"

    @pytest.mark.parametrize(("level", "code"), [(None, 0), ("error", 0), ("warning", 1), ("info", 1), ("never", 0)])
    def test_fail_on(self, level: str | None, code: int) -> None:
        extra = ("--fail-on", level) if level else ()
        assert bnfold("analyze", CNN, *extra).code == code

    def test_ignored_findings_do_not_fail(self) -> None:
        assert bnfold("analyze", CNN, "--fail-on", "warning", "--ignore", "BN201").code == 0


class TestSettings:
    def test_they_are_found_upward(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "bnfold.toml").write_text('ignore = ["BN203"]\nfail-on = "warning"\n')
        (tmp_path / "below").mkdir()
        monkeypatch.chdir(tmp_path / "below")
        assert found(CNN) == ["BN201"]
        assert bnfold("analyze", CNN).code == 1

    def test_the_command_line_comes_first(self, tmp_path: Path) -> None:
        (tmp_path / "pyproject.toml").write_text(
            '[tool.bnfold]\nselect = ["BN1"]\nignore = ["BN2"]\nfail-on = "info"\n'
        )
        assert found(CNN) == []
        assert found(CNN, "--select", "BN201") == ["BN201"]
        assert bnfold("analyze", CNN, "--select", "BN201", "--fail-on", "never").code == 0

    def test_per_model_ignores(self, tmp_path: Path) -> None:
        (tmp_path / "bnfold.toml").write_text('[per-model-ignores."*/digits_cnn.onnx"]\n"/0/*" = ["BN2"]\n')
        assert found(CNN) == ["BN203", "BN203"]
        assert "BN201" in found(MLP)

    def test_a_project_file_of_another_shape(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "pyproject.toml").write_text("tool = 3")
        monkeypatch.chdir(tmp_path)
        outcome = bnfold("analyze", CNN)
        assert (outcome.code, outcome.out) == (2, "")
        assert outcome.err == f"bnfold: {tmp_path / 'pyproject.toml'}: tool is a table, not 3\n"

    def test_a_mistake_is_one_sentence(self, tmp_path: Path) -> None:
        (tmp_path / "bnfold.toml").write_text("igonre = []\n")
        outcome = bnfold("analyze", CNN)
        assert outcome.code == 2
        assert outcome.err.endswith("there is no setting 'igonre'; did you mean 'ignore'?\n")


class TestSeveralModels:
    def test_quiet_says_which_model_a_finding_is_about(self) -> None:
        outcome = bnfold("analyze", "-q", CNN, SAMPLES / "digits_cnn.onnx")
        assert outcome.out.count(f"{CNN}\n") == 2

    @pytest.mark.parametrize("output_format", ["text", "json", "github", "markdown", "sarif"])
    def test_no_bn_is_said_in_every_format(self, tmp_path: Path, output_format: str) -> None:
        folded = tmp_path / "folded.onnx"
        assert bnfold("fold", CNN, "-o", folded, "--no-verify").code == 0
        for quiet in ([], ["-q"]):
            out = bnfold("analyze", folded, "--format", output_format, *quiet).out
            assert out.count("a layer that was created counts only once it is added") == 1

    def test_sections_and_a_table(self) -> None:
        outcome = bnfold("analyze", CNN, MLP, POST)
        assert outcome.code == 0
        assert [row for row in outcome.out.splitlines() if row in {str(CNN), str(MLP), str(POST)}] == [
            str(CNN), str(MLP), str(POST),
        ]  # fmt: skip
        assert f"{CNN} 3 3 0 1 2" in outcome.words
        assert f"{POST} 3 3 0 0 5" in outcome.words

    def test_one_that_cannot_be_read_does_not_stop_the_others(self, tmp_path: Path) -> None:
        broken = tmp_path / "broken.onnx"
        broken.write_text("not a model")
        outcome = bnfold("analyze", broken, CNN)
        assert outcome.code == 2
        assert outcome.err.startswith(f"bnfold: {broken}")
        assert outcome.err.count("\n") == 1
        assert "3 BN, all before activation" in outcome.words
        assert f"{broken} cannot be read" in outcome.words
        data = json.loads(bnfold("analyze", broken, CNN, "--format", "json").out)
        assert [error["model"] for error in data["errors"]] == [str(broken)]
        assert len(data["models"]) == 1
