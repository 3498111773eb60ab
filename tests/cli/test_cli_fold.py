"""``bnfold fold``, ``fix``, ``verify`` and ``rules``."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from command_line import SAMPLES, bnfold
from onnx import numpy_helper

import bnfold.verification as verification
from bnfold.analysis import all_rules
from bnfold.folding import plan as plans

CNN, POST, REPVGG = (SAMPLES / f"digits_{name}.onnx" for name in ("cnn", "cnn_post", "repvgg"))


def batchnorms(path: Path) -> int:
    return sum(node.op_type == "BatchNormalization" for node in onnx.load(path).graph.node)


def files(folder: Path) -> list[str]:
    """Everything in a folder, hidden files included."""
    return sorted(os.listdir(folder))


class TestFold:
    def test_writes_a_verified_model(self, tmp_path: Path) -> None:
        out = tmp_path / "folded.onnx"
        outcome = bnfold("fold", CNN, "-o", out)
        assert outcome.code == 0
        assert files(tmp_path) == ["folded.onnx"]
        assert batchnorms(out) == 0
        onnx.checker.check_model(onnx.load(out), full_check=True)
        assert "/1/BatchNormalization BatchNormalization folded backward /0/Conv" in outcome.words
        assert "nodes 13 10 BatchNormalization 3 0" in outcome.words
        assert "verified in" in outcome.words
        assert outcome.words.endswith(f"written to {out}")

    def test_json(self, tmp_path: Path) -> None:
        out = tmp_path / "folded.onnx"
        data = json.loads(bnfold("fold", REPVGG, "-o", out, "--format", "json", "--latency").out)
        assert data["output"] == str(out)
        assert data["summary"]["before"]["batchnorms"] == 10
        assert data["summary"]["after"]["batchnorms"] == 0
        assert data["summary"]["after"]["file"] == out.stat().st_size
        assert data["verification"]["equivalent"] is True
        assert data["latency"]["ratio"] > 0
        assert {step["kind"] for step in data["plan"]["steps"]} >= {"backward", "branch"}

    def test_quiet(self, tmp_path: Path) -> None:
        outcome = bnfold("fold", CNN, "-o", tmp_path / "a.onnx", "--quiet")
        assert (outcome.code, outcome.out, outcome.err) == (0, "", "")

    def test_dry_run_writes_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        outcome = bnfold("fold", CNN, "--dry-run")
        assert outcome.code == 0
        assert "folded backward" in outcome.words
        assert "written" not in outcome.words
        assert files(tmp_path) == []

    def test_without_verification(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(verification, "verify", unwanted)
        out = tmp_path / "a.onnx"
        assert bnfold("fold", CNN, "-o", out, "--no-verify").code == 0
        assert batchnorms(out) == 0

    def test_without_branches(self, tmp_path: Path) -> None:
        out = tmp_path / "a.onnx"
        assert bnfold("fold", REPVGG, "-o", out, "--no-branches", "--no-verify").code == 0
        kept = sum(node.op_type == "Conv" for node in onnx.load(out).graph.node)
        assert kept == sum(node.op_type == "Conv" for node in onnx.load(REPVGG).graph.node)

    def test_own_inputs(self, tmp_path: Path) -> None:
        inputs = tmp_path / "in.npz"
        np.savez(inputs, image=np.zeros((2, 1, 8, 8), np.float32))
        outcome = bnfold("fold", CNN, "-o", tmp_path / "a.onnx", "--inputs", inputs, "--rtol", "1e-3")
        assert outcome.code == 0
        assert "1 feed" in outcome.words


def unwanted(*_: Any, **__: Any) -> None:
    raise AssertionError("nobody asked for this")


class TestWrongUsage:
    def test_no_output(self) -> None:
        outcome = bnfold("fold", CNN)
        assert outcome.code == 2
        assert "Say where to write with -o OUT, or pass --dry-run" in outcome.err

    def test_output_is_the_input(self, tmp_path: Path) -> None:
        model = tmp_path / "m.onnx"
        shutil.copy(CNN, model)
        before = model.read_bytes()
        (tmp_path / "link.onnx").symlink_to(model)
        for target in (model, tmp_path / "link.onnx", tmp_path / "." / "m.onnx"):
            outcome = bnfold("fold", model, "-o", target)
            assert outcome.code == 2
            assert "is the input itself; give the output another name" in outcome.err
        assert model.read_bytes() == before

    @pytest.mark.parametrize("command", ["fold", "fix"])
    def test_places_where_nothing_can_be_written(self, tmp_path: Path, command: str) -> None:
        (tmp_path / "folder").mkdir()
        for target in (tmp_path / "no" / "such" / "a.onnx", tmp_path / "folder"):
            outcome = bnfold(command, CNN, "-o", target)
            assert outcome.code == 2
            assert str(target) in outcome.err
            assert outcome.err.count("\n") == 1

    def test_an_onnx_model_does_not_become_keras(self, tmp_path: Path) -> None:
        outcome = bnfold("fold", CNN, "-o", tmp_path / "a.keras")
        assert outcome.code == 2
        assert "an ONNX model cannot be written as a Keras model" in outcome.err
        assert files(tmp_path) == []

    @pytest.mark.parametrize("name", ["out.txt", "-", "out", "out.onnx.bak", "out.pb"])
    @pytest.mark.parametrize("command", ["fold", "fix"])
    def test_an_unknown_suffix(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, name: str) -> None:
        monkeypatch.chdir(tmp_path)
        outcome = bnfold(command, CNN, "-o", name, "--no-verify")
        assert outcome.code == 2
        assert outcome.err == f"bnfold: {name}: an ONNX model is written as .onnx; the suffix decides\n"
        assert not list(tmp_path.iterdir())

    def test_a_suffix_in_capitals(self, tmp_path: Path) -> None:
        assert bnfold("fold", CNN, "-o", tmp_path / "OUT.ONNX", "--no-verify").code == 0

    @pytest.mark.parametrize("option", [("--keep-going",), ("--rtol", "0"), ("--atol", "1"), ("--strict",)])
    def test_what_needs_the_verification_is_refused_without_it(self, option: tuple[str, ...], tmp_path: Path) -> None:
        outcome = bnfold("fold", CNN, "-o", tmp_path / "a.onnx", "--no-verify", *option)
        assert outcome.code == 2
        assert f"{option[0]} needs the verification that --no-verify leaves out." in outcome.err
        assert files(tmp_path) == []

    @pytest.mark.parametrize("option", ["--keep-going", "--latency"])
    def test_what_needs_the_file_is_refused_in_a_dry_run(self, option: str) -> None:
        outcome = bnfold("fold", CNN, "--dry-run", option)
        assert outcome.code == 2
        assert f"{option} needs the file that --dry-run does not write." in outcome.err
        assert bnfold("fold", CNN, "--dry-run", "--no-verify", "--seed", "1").code == 0


class TestDifference:
    """A fault is planted in folding: one weight of one convolution is wrong by a factor."""

    @pytest.fixture
    def fault(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import bnfold.api as api
        from bnfold.folding import fold_graph
        from bnfold.graph import Param

        def wrong(graph: Any, **options: Any) -> Any:
            folded, plan = fold_graph(graph, **options)
            done = {step.label for step in plan.steps}
            if "/4/BatchNormalization" in done:
                weight = folded.op("/3/Conv").inputs[1]
                old = folded.params[weight]
                folded.params[weight] = Param.of(weight, old.exact() * 1.5, old.dtype)
            return folded, plan

        monkeypatch.setattr(api, "fold_graph", wrong)

    @pytest.mark.usefixtures("fault")
    def test_nothing_is_written_and_the_step_is_named(self, tmp_path: Path) -> None:
        out = tmp_path / "a.onnx"
        out.write_bytes(b"what was there before")
        outcome = bnfold("fold", CNN, "-o", out)
        assert outcome.code == 1
        assert out.read_bytes() == b"what was there before"
        assert files(tmp_path) == ["a.onnx"]
        assert "not equivalent" in outcome.words
        assert "1 step makes the outputs differ by itself: /4/BatchNormalization (BatchNormalization)" in outcome.words
        assert "nothing was written" in outcome.words

    @pytest.mark.usefixtures("fault")
    def test_quiet_speaks_up(self, tmp_path: Path) -> None:
        assert "not equivalent" in bnfold("fold", CNN, "-o", tmp_path / "a.onnx", "--quiet").words

    @pytest.mark.usefixtures("fault")
    def test_keep_going_leaves_that_step_out(self, tmp_path: Path) -> None:
        out = tmp_path / "a.onnx"
        outcome = bnfold("fold", CNN, "-o", out, "--keep-going")
        assert outcome.code == 0
        assert [node.name for node in onnx.load(out).graph.node if node.op_type == "BatchNormalization"] == [
            "/4/BatchNormalization"
        ]
        assert "left out, because it changed the outputs: /4/BatchNormalization" in outcome.words
        assert bnfold("verify", CNN, out).code == 0

    def test_not_verified_in_time(self, tmp_path: Path) -> None:
        outcome = bnfold("fold", CNN, "-o", tmp_path / "a.onnx", "--timeout", "0.01")
        assert outcome.code == 1
        # Said by verification, or on a slow machine by what ends the command.
        assert "the time limit of 0.01 s was reached" in outcome.words + outcome.err
        assert files(tmp_path) == []

    def test_not_verified_within_the_memory(self, tmp_path: Path) -> None:
        outcome = bnfold("fold", CNN, "-o", tmp_path / "a.onnx", "--memory", "1")
        assert outcome.code == 1
        assert outcome.err == "bnfold: the process failed within the memory limit of 1 MB\n"
        assert files(tmp_path) == []

    def test_the_threads_of_the_runtime(self, tmp_path: Path) -> None:
        outcome = bnfold("fold", CNN, "-o", tmp_path / "a.onnx", "--threads", "1", "--latency")
        assert outcome.code == 0
        assert "1 thread," in outcome.words


class TestFix:
    def test_a_bias_goes_into_the_mean(self, tmp_path: Path) -> None:
        out = tmp_path / "fixed.onnx"
        outcome = bnfold("fix", CNN, "-o", out)
        assert outcome.code == 0
        assert (
            "BN201 the bias of /0/Conv (16 parameters) went into the moving mean of /1/BatchNormalization"
            in outcome.words
        )
        assert "verified in" in outcome.words
        assert "2 findings remain:" in outcome.words
        model = onnx.load(out)
        assert len(next(node for node in model.graph.node if node.name == "/0/Conv").input) == 2
        assert batchnorms(out) == 3
        assert "BN201" not in bnfold("analyze", out).out

    def test_json(self, tmp_path: Path) -> None:
        data = json.loads(bnfold("fix", CNN, "-o", tmp_path / "a.onnx", "--format", "json").out)
        assert [change["code"] for change in data["changes"]] == ["BN201"]
        assert {finding["code"] for finding in data["remaining"]} == {"BN203"}

    def test_nothing_to_repair(self, tmp_path: Path) -> None:
        outcome = bnfold("fix", POST, "-o", tmp_path / "a.onnx")
        assert outcome.code == 0
        assert "nothing to repair" in outcome.words
        assert batchnorms(tmp_path / "a.onnx") == 3

    def test_an_output_is_needed(self) -> None:
        assert bnfold("fix", CNN).code == 2


class TestVerify:
    def test_equal(self) -> None:
        outcome = bnfold("verify", CNN, CNN)
        assert outcome.code == 0
        assert "equal bit for bit" in outcome.words
        assert "logits float32 0.00e+00" in outcome.words
        assert "allowed" not in outcome.words
        assert "allowed" in bnfold("verify", CNN, CNN, "--rtol", "0.001").words

    def test_different(self, tmp_path: Path) -> None:
        model = onnx.load(CNN)
        weight = next(t for t in model.graph.initializer if t.name in model.graph.node[-1].input)
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * 1.01, weight.name))
        onnx.save(model, tmp_path / "other.onnx")
        outcome = bnfold("verify", CNN, tmp_path / "other.onnx")
        assert outcome.code == 1
        assert "not equivalent" in outcome.words
        assert "within rounding" not in outcome.words
        assert bnfold("verify", CNN, tmp_path / "other.onnx", "--quiet").out == ""
        data = json.loads(bnfold("verify", CNN, tmp_path / "other.onnx", "--format", "json").out)
        assert (data["verdict"], data["equivalent"]) == ("different", False)
        assert [(output["ok"], output["reason"] == data["reason"]) for output in data["outputs"]] == [(False, True)]

    def test_one_model_against_the_runtimes_optimisations(self) -> None:
        outcome = bnfold("verify", CNN)
        assert outcome.code == 0
        assert outcome.words.startswith("onnxruntime keeps the outputs at every optimisation level")
        assert set(json.loads(bnfold("verify", CNN, "--format", "json").out)["levels"]) == {"basic", "extended", "all"}

    def test_an_unknown_provider(self) -> None:
        outcome = bnfold("verify", CNN, CNN, "--provider", "NoSuchProvider")
        assert outcome.code == 2
        assert "NoSuchProvider" in outcome.err


class TestRules:
    def test_the_catalogue(self) -> None:
        outcome = bnfold("rules")
        assert outcome.code == 0
        assert "BN201 redundant-bias warning bnfold fix" in outcome.words
        rows = [row.split()[0] for row in outcome.out.splitlines() if row.startswith("BN")]
        assert rows == [rule.code for rule in all_rules()]

    @pytest.mark.parametrize("name", ["BN202", "bn202", "missing-bias"])
    def test_one_page(self, name: str) -> None:
        assert bnfold("rules", name).out.startswith("BN202 missing-bias warning\n")

    def test_json(self) -> None:
        (rule,) = json.loads(bnfold("rules", "BN403", "--format", "json").out)["rules"]
        assert (rule["name"], rule["severity"], rule["repair"]) == ("overridable-constants", "warning", "fix")

    def test_a_mistake(self) -> None:
        outcome = bnfold("rules", "BN2O2")
        assert (outcome.code, outcome.err.count("\n")) == (2, 1)
        assert "did you mean BN202?" in outcome.err


def test_every_kind_of_step_has_words_in_the_table() -> None:
    from bnfold.analysis import Foldability

    for kind in plans.FoldKind:
        assert Foldability(kind.value, ("x",)).sentence().endswith("x")
