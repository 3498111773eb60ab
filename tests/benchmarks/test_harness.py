"""The pieces between the processes and the tables."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import scaling
from bn_statistics import BATCH, disturbed, images, random_gamma
from harness import synthetic
from harness.comparison import Comparison, Row
from harness.count import count_file
from harness.evaluate import difference
from harness.plot import plot
from harness.report import README, replace_section, setting
from harness.tables import Table, full_table, short_table
from harness.tools import BNFOLD, TOOLS, find_tools
from measure_all import PARTS

RESULT = {"nodes": 9, "convs": 3, "batchnorms": 1, "per_channel": 2, "scalar": 0, "left": 3, "difference": 1e-7}


def comparison() -> Comparison:
    rows = [
        Row("original", result=RESULT, latency=4.0),
        Row("bnfold", "1", "", [0.1, 0.3, 0.2], [0.1], [10_000_000], RESULT, 1.0),
        Row("slow", "1", "", [0.8], [0.8], [30_000_000], RESULT, 2.0),
        Row("broken", "1", "stopped after 9 s"),
    ]
    return Comparison("model", 2_000_000, rows)


def test_ratios_are_to_the_median_of_bnfold_and_latencies_to_the_original() -> None:
    table = full_table(comparison())
    rows = {row[0]: dict(zip(table.headers[1:], row[1:], strict=True)) for row in table.rows}
    assert rows["bnfold"]["wall s"] == "0.20"
    assert table.rows[2][:6] == ["slow", "0.80", "4.00×", "0.80", "30", "3.00×"]
    assert rows["slow"]["× original"] == "0.50×"
    assert rows["broken"]["wall s"] == "failed"
    assert table.notes == ["broken on model: stopped after 9 s."]


def test_a_short_table_has_a_column_for_each_tool() -> None:
    table = short_table([comparison()], "left", lambda row: str(row.result["left"]))
    assert table.headers == ["model", "original", "bnfold", "slow", "broken"]
    assert table.rows == [["model", "3", "3", "3", "failed"]]
    assert table.markdown().endswith("\n\nbroken on model: stopped after 9 s.")


def test_markdown() -> None:
    table = Table("t", ["a", "b"])
    table.add("x", "1")
    assert table.markdown() == "| a | b |\n| --- | ---: |\n| x | 1 |"


def test_the_plot_is_optional(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.plot.importlib.util.find_spec", lambda name: None)
    assert not plot([comparison()], tmp_path / "plot.png")
    assert not list(tmp_path.iterdir())


def test_the_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert plot([comparison()], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_a_difference_is_relative_to_the_range() -> None:
    a = np.array([10.0, 12.0])
    assert difference(a, np.array([10.0, 12.5])) == 0.25
    assert difference([3.0, 3.0], [3.0, 6.0]) == 1.0
    assert difference([1.0, np.nan], [1.0, 2.0]) == float("inf")
    assert difference([np.inf], [np.inf]) == 0.0
    assert difference([1.0], [1.0, 2.0]) == float("inf")


def test_missing_tools_are_named_and_bnfold_is_always_there() -> None:
    tools, missing = find_tools([sys.executable])
    assert tools[0].key == BNFOLD
    assert {tool.name for tool in tools} | set(missing) == {name for name, _ in TOOLS.values()}
    assert [tool.key for tool in find_tools([sys.executable], ["onnx"])[0]] == ["onnx"]


def test_statistics_are_plausible_and_have_the_hard_cases() -> None:
    rng = np.random.default_rng(0)
    gamma = random_gamma(rng, 4000)
    assert 0.05 < (gamma < 0).mean() < 0.15
    assert 0.02 < (np.abs(gamma) < 1e-4).mean() < 0.08
    mean, variance = disturbed(rng, np.zeros(100), np.ones(100))
    assert mean.std() > 0
    assert variance.min() > 0.5


@pytest.mark.parametrize("shape", [(3, 64, 64), (64, 64, 3), (28, 28)])
def test_pictures_differ_in_the_large(shape: tuple[int, ...]) -> None:
    batch = images(np.random.default_rng(0), shape)
    assert batch.shape == (BATCH, *shape)
    means = np.abs(batch.reshape(BATCH, -1).mean(axis=1))
    assert means[::2].mean() > 5 * means[1::2].mean()


def test_a_synthetic_model_has_the_nodes_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "deep.onnx"
    synthetic.with_nodes(100, path)
    onnx.checker.check_model(str(path), full_check=True)
    assert 100 <= count_file(path).nodes < 104
    assert {"Add", "BatchNormalization", "Conv", "Relu"} == {node.op_type for node in onnx.load(path).graph.node}


def test_a_synthetic_model_has_the_affines_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "row.onnx"
    synthetic.with_affines(50, path)
    onnx.checker.check_model(str(path), full_check=True)
    assert [node.op_type for node in onnx.load(path).graph.node] == ["Mul"] * 50


@pytest.mark.parametrize("external", [False, True])
def test_a_synthetic_model_has_the_bytes_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, external: bool
) -> None:
    if external:
        monkeypatch.setattr(synthetic, "_EXTERNAL_FROM", 0)
    path = tmp_path / "heavy.onnx"
    synthetic.with_bytes(1_000_000, path)
    onnx.checker.check_model(str(path), full_check=True)
    data = [entry for entry in tmp_path.iterdir() if entry != path]
    assert len(data) == external
    assert sum(entry.stat().st_size for entry in tmp_path.iterdir()) == pytest.approx(1_000_000, rel=0.05)


def test_the_exponent_is_one_in_proportion() -> None:
    def row(size: int, wall: float) -> dict[str, object]:
        cost = {"wall": wall, "peak": 1_000_000}
        return {"kind": "nodes", "size": size, **dict.fromkeys(scaling.STEPS, cost)}

    (table,) = scaling.tables([row(10, 1.0), row(100, 10.0), row(1000, 1000.0)])
    assert [line[3] for line in table.rows] == ["–", "1.00", "2.00"]


def test_a_section_is_replaced_and_the_rest_stays(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text("a\n<!-- begin one -->\nold\n<!-- end one -->\nb\n")
    replace_section("one", "new\n", path)
    assert path.read_text() == "a\n<!-- begin one -->\nnew\n<!-- end one -->\nb\n"
    with pytest.raises(ValueError, match="no section 'two'"):
        replace_section("two", "", path)


def test_the_readme_has_a_section_for_every_part_and_no_place_of_the_machine() -> None:
    text = README.read_text()
    for name in (*PARTS, "differences"):
        assert f"<!-- begin {name} -->" in text
        assert f"<!-- end {name} -->" in text
    assert "/home/" not in text
    assert "/root/" not in text
    assert str(README.parent) not in text


def test_the_setting_names_no_place() -> None:
    assert "/" not in setting(["bnfold 1"])
