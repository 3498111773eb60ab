"""The scripts from end to end, on the smallest models there are."""

from __future__ import annotations

import json
from pathlib import Path

import compare
import pytest
from harness.count import count_file

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


def test_a_torch_network_is_exported_as_trained(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from harness.build import build_onnx

    path = build_onnx("acnet", tmp_path)
    counts = count_file(path)
    assert (counts.batchnorms, counts.convs) == (15, 15)
    written = path.stat().st_mtime_ns
    assert build_onnx("acnet", tmp_path).stat().st_mtime_ns == written, "what is there is not built again"
