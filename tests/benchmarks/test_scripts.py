"""The scripts from end to end, on the smallest models there are."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import compare
import keras_table
import networks
import pytest
import restyle_table
import scaling
from harness.count import count_file

pytestmark = pytest.mark.slow

SAMPLE = Path(__file__).parents[2] / "sample_models" / "digits_repvgg.onnx"


def test_compare_measures_bnfold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "report.json"
    options = ["--runs", "1", "--latency", "0.1", "--tools", "bnfold,onnx", "--json", str(report)]
    compare.main([str(SAMPLE), *options])
    original, bnfold, copied = json.loads(report.read_text())["results"][0]["rows"]
    assert original["result"]["left"] == copied["result"]["left"] == 10
    assert (bnfold["result"]["left"], bnfold["result"]["convs"], bnfold["fault"]) == (0, 4, "")
    assert bnfold["result"]["difference"] < 1e-5
    assert copied["result"]["difference"] == 0
    assert all(row["latency"] > 0 for row in (original, bnfold, copied))
    assert bnfold["wall"] > 0
    assert bnfold["peak"] > 0
    assert "digits_repvgg" in capsys.readouterr().out


def test_compare_says_what_fails(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    options = ["--runs", "1", "--latency", "0", "--tools", "onnx", "--timeout", "0.01", "--json", str(report)]
    with pytest.raises(RuntimeError, match=r"digits_repvgg\.onnx: stopped after 0 s"):
        compare.main([str(SAMPLE), *options])


@pytest.mark.parametrize(
    ("arguments", "words"), [(["none.onnx"], "no such file"), (["--tools", "none", str(SAMPLE)], "unknown tools")]
)
def test_compare_refuses(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        compare.main(arguments)
    assert words in str(stopped.value) + capsys.readouterr().err


def test_networks_are_exported_as_trained_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    options = ["acnet", "--folder", str(tmp_path), "--tools", "bnfold"]
    networks.main(options)
    counts = count_file(tmp_path / "acnet.onnx")
    assert (counts.batchnorms, counts.convs) == (15, 15)
    assert "| acnet | 15 · 15 · 48 | 0 · 5 · 13 |" in capsys.readouterr().out
    written = (tmp_path / "acnet.onnx").stat().st_mtime_ns
    networks.main([*options, "--build-only"])
    assert (tmp_path / "acnet.onnx").stat().st_mtime_ns == written, "what is there is not built again"


@pytest.mark.keras
def test_keras_networks_are_folded(tmp_path: Path) -> None:
    pytest.importorskip("tensorflow")
    report = tmp_path / "report.json"
    keras_table.main(["keras_mlp_bn_after", "--json", str(report)])
    (row,) = json.loads(report.read_text())["results"]
    assert (row["parameters_before"], row["parameters_after"]) == (271_346, 266_610)
    assert (row["batchnorms_before"], row["batchnorms_after"]) == (3, 0)
    assert row["difference"] < 1e-5


def test_scaling_measures_every_step(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    sizes = ["--nodes", "100", "--affines", "50", "--bytes", "1e6"]
    scaling.main([*sizes, "--runs", "1", "--json", str(report)])
    results = json.loads(report.read_text())["results"]
    assert [(row["kind"], row["size"]) for row in results] == [("nodes", 100), ("affines", 50), ("bytes", 1_000_000)]
    assert all(row[step]["wall"] > 0 for row in results for step in scaling.STEPS)


@pytest.mark.parametrize("script", [networks, keras_table])
def test_unknown_networks_are_refused(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        script.main(["lenet"])
    assert "unknown networks: lenet" in capsys.readouterr().err


@pytest.mark.keras
def test_restyle_table_goes_the_whole_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(restyle_table, "WAYS", (("before", "none"),))
    restyle_table.main(["mlp_mixed", "--json", str(tmp_path / "report.json")])
    (row,) = json.loads((tmp_path / "report.json").read_text())["results"]
    assert (row["style"], row["batchnorms"], row["folded"]) == ("none, then before", 2, 0)
    assert (row["inexact"], row["written"]) == (0, True)
    assert row["verdict_folded"] not in ("different", "not verified", "")
    assert "none, then before" in capsys.readouterr().out
