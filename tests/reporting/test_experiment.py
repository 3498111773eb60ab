"""An experiment's table, its verdict, its curves and its progress."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from experiment_samples import arm, experiment

from bnfold.errors import OutputError, UsageError
from bnfold.experiment.schedule import Plan, Settings, make_plan
from bnfold.reporting import as_json
from bnfold.reporting.console import make_console
from bnfold.reporting.curves import check_plot, draw, mean_curve
from bnfold.reporting.experiment import number, print_experiment
from bnfold.reporting.watching import Watching


def printed(result: object) -> str:
    out = io.StringIO()
    print_experiment(make_console(out), "m.keras", result)  # type: ignore[arg-type]
    return " ".join(out.getvalue().split())


class TestTable:
    def test_arms_and_cost(self) -> None:
        text = printed(experiment())
        assert "none 0.01 0.6333 0.7000 diverged 0.6000 3 of 6 0.5 2" in text
        assert "before 0.01 0.8500 0.9000 0.8000 0.8500 1 of 6 0.5 2" in text
        assert "before 2 1 1,234 7 0.25 ms 1.50 is equivalent" in text
        assert "none − before -0.2167" in text
        assert "a diverged run counts as the worst score that was seen in any" in text

    def test_three_seeds_show_nothing(self) -> None:
        text = printed(experiment())
        assert "no clear difference in accuracy" in text
        assert "with 3 seeds p can at best be 0.25: a clear difference (p < 0.05) takes at least 6 seeds" in text

    def test_a_clear_difference_is_said(self) -> None:
        low, high = [0.70, 0.71, 0.69, 0.72, 0.70, 0.71, 0.70], [0.80, 0.82, 0.81, 0.81, 0.83, 0.80, 0.82]
        result = experiment(arm("none", *low), arm("before", *high))
        assert "before is better than none by 0.1086 (95 % interval 0.0" in printed(result)
        assert "p = 0.0156)" in printed(result)
        assert "takes at least" not in printed(result)

    def test_an_arm_that_is_no_onnx(self) -> None:
        only = arm("none", 0.7, 0.6, 0.65)
        shipped = replace(only.shipped, nodes=None, milliseconds=None, relative=None, notes=("it cannot be",))
        text = printed(experiment(replace(only, shipped=shipped), arm("before", 0.9, 0.8, 0.85)))
        assert "none 2 1 1,234 – – – is equivalent" in text
        assert "folded as a Keras model, without nodes and latency (none): it cannot be" in text
        assert "folded as a Keras model" not in printed(experiment())

    def test_without_test_data(self) -> None:
        text = printed(experiment(judged_on="validation"))
        assert "accuracy (validation)" in text
        assert "there are no test data" in text

    @pytest.mark.parametrize(
        ("value", "text"), [(0.94666, "0.9467"), (12.3, "12.3000"), (1e-5, "1e-05"), (0.0, "0.0000")]
    )
    def test_numbers(self, value: float, text: str) -> None:
        assert number(value) == text

    def test_json(self) -> None:
        data = json.loads(as_json.dump(experiment().to_dict()))
        assert data["verdict"] == "no clear difference in accuracy"
        assert data["lowest_p"] == 0.25
        assert data["arms"][0]["scores"] == [0.7, 0.6, 0.6]
        assert data["arms"][0]["diverged"] == 1
        assert data["arms"][1]["shipped"]["batchnorms_left"] == 1
        assert len(data["arms"][0]["runs"][0]["epochs"]) == 3
        assert data["pairs"][0]["clear"] is False


class TestCurves:
    @pytest.mark.parametrize("suffix", ["svg", "png"])
    def test_the_same_file_every_time(self, tmp_path: Path, suffix: str) -> None:
        files = [tmp_path / f"{name}.{suffix}" for name in "ab"]
        for path in files:
            draw(experiment(), path)
        assert files[0].read_bytes() == files[1].read_bytes()
        assert len(files[0].read_bytes()) > 1000

    def test_what_is_drawn(self, tmp_path: Path) -> None:
        draw(experiment(), tmp_path / "a.svg")
        text = (tmp_path / "a.svg").read_text(encoding="utf-8")
        for words in (
            "training",
            "validation",
            "accuracy",
            "epoch",
            "none, rate 0.01, 1 diverged",
            "before, rate 0.01",
        ):
            assert f">{words}<" in text
        # In each of two panels every seed is thin and every arm's mean thick.
        assert text.count("stroke-width: 0.6") == 2 * 6
        assert text.count("stroke-width: 2.2") == 2 * 2 + 2  # and the legend

    def test_the_mean_is_of_the_same_runs(self) -> None:
        assert mean_curve([([1, 2, 3], [0.1, 0.2, 0.3]), ([1, 2], [0.3, 0.6])]) == ([1, 2], pytest.approx([0.2, 0.4]))

    def test_what_is_wrong_is_said(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"a\.pdf: a plot is written as \.svg or \.png"):
            check_plot("a.pdf")
        with pytest.raises(OutputError, match="there is no folder"):
            draw(experiment(), tmp_path / "nowhere" / "a.svg")


class TestWatching:
    def plan(self) -> Plan:
        return make_plan(["m.keras"], ("none", "before"), seeds=2, rates=[0.1], settings=Settings(data="d", epochs=4))

    def table(self, watching: Watching) -> str:
        console = make_console(io.StringIO())
        with console.capture() as captured:
            console.print(watching.table(seconds=30.0))
        return " ".join(captured.get().split())

    def test_a_line_an_arm(self) -> None:
        watching, plan = Watching(io.StringIO()), self.plan()
        runs = list(plan.runs())
        watching.stage("training")
        watching.runs(plan, runs[:1])
        assert "none 1 of 2 – 0 of 4 – – before 0 of 2 – 0 of 4 – –" in self.table(watching)
        row = {"epoch": 2, "diverged": False, "val_score": 0.5}
        watching.epoch(runs[1], row)
        # Half of one run in 30 seconds: a run and a half are left.
        assert "before 0 of 2 seed 0, rate 0.1 2 of 4 0.5000 1:30" in self.table(watching)
        watching.epoch(runs[1], {"epoch": 3, "diverged": True, "val_score": None})
        watching.finished(runs[1])
        assert "before 1 of 2 seed 0, rate 0.1 3 of 4 diverged 0:30" in self.table(watching)

    def test_a_file_gets_nothing(self) -> None:
        out = io.StringIO()
        with Watching(out) as watching:
            watching.runs(self.plan(), [])
        assert out.getvalue() == ""
