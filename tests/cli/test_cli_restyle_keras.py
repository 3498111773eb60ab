"""``bnfold restyle``: what it writes, prints and exits with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from command_line import SAMPLES, Outcome
from command_line import bnfold as run
from keras import layers
from keras_folding import functional
from keras_models import randomised

from bnfold.graph import ModelGraph, Op, Param
from bnfold.restyling import edit

MIXED = SAMPLES / "mlp_mixed.keras"
INCEPTION = SAMPLES / "inception_post.keras"


def names(path: Path) -> list[str]:
    return [layer.name for layer in keras.models.load_model(path).layers]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Path]:
    path = tmp_path_factory.mktemp("restyled") / "out.keras"
    return run("restyle", MIXED, "-o", path), path


class TestWritten:
    def test_what_is_printed(self, written: tuple[Outcome, Path]) -> None:
        outcome, path = written
        assert (outcome.code, outcome.err) == (0, "")
        assert "exact bn_2 moves between dense_2 and elu_2 (elu)" in outcome.words
        assert "classes is left as it is: it is the last linear layer before an output" in outcome.words
        assert "verified in" in outcome.words
        assert f"written to {path}" in outcome.out

    def test_the_file(self, written: tuple[Outcome, Path]) -> None:
        expected = ["pixels", "bn_input", "dense_1", "bn_1", "elu_1", "dense_2", "bn_2", "elu_2", "classes"]
        assert names(written[1]) == expected

    def test_again_there_is_nothing_to_change(self, written: tuple[Outcome, Path]) -> None:
        outcome = run("restyle", written[1], "--dry-run")
        assert outcome.code == 0
        assert "nothing to change: the layers that can take a BN have this style" in outcome.words

    def test_quiet(self, tmp_path: Path) -> None:
        outcome = run("restyle", MIXED, "-o", tmp_path / "out.keras", "-q", "--no-verify")
        assert (outcome.code, outcome.out) == (0, "")
        assert (tmp_path / "out.keras").exists()

    def test_hdf5(self, tmp_path: Path) -> None:
        path = tmp_path / "out.h5"
        assert run("restyle", SAMPLES / "cnn_legacy.h5", "-o", path, "--norm", "none").code == 0
        assert not [name for name in names(path) if name.startswith("bn")]


class TestNeedsTraining:
    def test_a_warning_and_exit_code_0(self, tmp_path: Path) -> None:
        outcome = run("restyle", INCEPTION, "-o", tmp_path / "out.keras")
        assert outcome.code == 0
        assert "needs training bn_stem moves between conv_stem and its relu" in outcome.words
        assert "warning 1 of 8 changes is not exact: train the model before you use it" in outcome.words
        assert "verified in" in outcome.words
        assert names(tmp_path / "out.keras")[1:4] == ["conv_stem", "bn_stem", "conv_stem_activation"]

    def test_exact_writes_nothing(self, tmp_path: Path) -> None:
        outcome = run("restyle", INCEPTION, "-o", tmp_path / "out.keras", "--exact")
        assert outcome.code == 1
        assert "nothing was written: 1 of 8 changes is not exact" in outcome.words
        assert not list(tmp_path.iterdir())

    def test_fresh_weights_are_compared_with_nothing(self, tmp_path: Path) -> None:
        outcome = run("restyle", MIXED, "-o", tmp_path / "out.keras", "--weights", "fresh", "--seed", "4")
        assert outcome.code == 0
        assert "its weights are initialised anew" in outcome.words
        assert "verified" not in outcome.words


class TestDryRun:
    def test_the_lists_of_layers(self, tmp_path: Path) -> None:
        outcome = run("restyle", SAMPLES / "mlp_bn_after.keras", "--dry-run", "-o", tmp_path / "out.keras")
        rows = [row.split(None, 1) for row in outcome.out.splitlines() if row.startswith("  ") and row[2] in "+-"]
        assert [[mark, " ".join(words.split())] for mark, words in rows] == [
            ["-", "dense_1 Dense, elu"],
            ["+", "dense_1 Dense, no bias"],
            ["-", "dense_2 Dense, elu"],
            ["+", "dense_1_activation Activation, elu"],
            ["+", "dense_2 Dense, no bias"],
            ["+", "dense_2_activation Activation, elu"],
        ]
        assert not list(tmp_path.iterdir())

    def test_json(self) -> None:
        outcome = run("restyle", MIXED, "--dry-run", "--format", "json", "--norm", "after")
        data: dict[str, Any] = json.loads(outcome.out)
        assert data["schema"] == 1
        assert data["output"] is None
        assert {(change["kind"], change["class"]) for change in data["changes"]} == {
            ("move", "exact"),
            ("bias comes", "exact"),
        }
        assert data["layers"]["before"][2] == "dense_1  Dense, no bias"
        assert data["left"] == [{"layer": "classes", "reason": "it is the last linear layer before an output"}]


def test_a_layer_whose_name_tensorflow_does_not_take(tmp_path: Path) -> None:
    name = "<img src=x onerror=alert(1)>"
    stack = [keras.Input((4,)), keras.layers.Dense(3, activation="relu", name=name), keras.layers.Dense(2)]
    keras.Sequential(stack).save(tmp_path / "m.keras")
    outcome = run("restyle", tmp_path / "m.keras", "-o", tmp_path / "out.keras", "--norm", "before")
    assert outcome.code == 0, outcome.err
    assert [layer.name for layer in keras.saving.load_model(tmp_path / "out.keras").layers][:2] == [name, f"{name}_bn"]


class TestData:
    def test_measured(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "data.npz", x_train=np.random.default_rng(0).random((40, 8, 8), np.float32))
        out = tmp_path / "out.keras"
        outcome = run("restyle", MIXED, "-o", out, "--norm", "before", "--data", tmp_path / "data.npz")
        assert (outcome.code, outcome.err) == (0, "")
        assert np.asarray(keras.models.load_model(out).get_layer("bn_2").moving_mean).any()
        assert "verified in" in outcome.words
        assert "with the measured statistics the new BN compute the same, to 0." in outcome.words

    @pytest.mark.parametrize(
        ("arrays", "words"),
        [
            ({"y": np.zeros(3)}, "holds no array for"),
            ({"x": np.zeros((3, 7, 8))}, "takes numbers of shape"),
            ({"x": np.zeros((0, 8, 8))}, "at least one"),
        ],
    )
    def test_data_that_do_not_fit(self, arrays: dict[str, Any], words: str, tmp_path: Path) -> None:
        np.savez(tmp_path / "data.npz", **arrays)
        outcome = run("restyle", MIXED, "--dry-run", "--data", tmp_path / "data.npz")
        assert (outcome.code, outcome.out) == (2, "")
        assert words in outcome.err
        assert outcome.err.count("\n") == 1

    def test_a_file_that_is_none(self, tmp_path: Path) -> None:
        (tmp_path / "data.npz").write_text("nothing")
        outcome = run("restyle", MIXED, "--dry-run", "--data", tmp_path / "data.npz")
        assert outcome.code == 2
        assert "cannot be read as .npz or .npy" in outcome.err


class TestMistakes:
    def test_no_output(self) -> None:
        outcome = run("restyle", MIXED)
        assert outcome.code == 2
        assert "Say where to write with -o OUT, or pass --dry-run" in outcome.err

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--only", "nothing*"], "no layer of the model has a name like 'nothing*'"),
            (["--epsilon", "2"], "epsilon is a small positive number"),
            (["--weights", "fresh", "--data", "none.npz"], "not for fresh ones"),
        ],
    )
    def test_one_sentence(self, arguments: list[str], words: str) -> None:
        outcome = run("restyle", MIXED, "--dry-run", *arguments)
        assert outcome.code == 2
        assert outcome.err.startswith("bnfold: ")
        assert words in outcome.err

    @pytest.mark.parametrize("suffix", [".onnx", ".keras"])
    def test_onnx(self, tmp_path: Path, suffix: str) -> None:
        outcome = run("restyle", SAMPLES / "digits_mlp.onnx", "-o", tmp_path / f"out{suffix}")
        assert outcome.code == 2
        assert "no Keras model" in outcome.err
        outcome = run("restyle", MIXED, "-o", tmp_path / "out.onnx")
        assert outcome.code == 2
        assert "is written as .keras or .h5" in outcome.err


def test_a_model_that_tf2onnx_cannot_convert_is_compared_by_its_predictions(tmp_path: Path) -> None:
    path, out = tmp_path / "model.keras", tmp_path / "out.keras"

    def body(x: Any) -> Any:
        x = layers.Dense(4, activation="relu", name="hidden")(x)
        return layers.Dense(2, name="last")(keras.ops.erfinv(x))

    randomised(functional((3,), body)).save(path)
    outcome = run("restyle", path, "-o", out)
    assert outcome.code == 0, outcome.err
    assert "Keras's predictions agree to" in outcome.words
    assert out.exists()


def test_a_planted_mistake_is_found_and_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = edit.drop_biases

    def wrong(graph: ModelGraph, pairs: list[tuple[Op, Op]]) -> None:
        own(graph, pairs)
        key = graph.op(pairs[0][1].name).input(edit.MEAN)
        mean = graph.params[key]
        graph.params[key] = Param.of(key, mean.exact() + 0.1, mean.dtype)

    monkeypatch.setattr(edit, "drop_biases", wrong)
    outcome = run("restyle", SAMPLES / "mlp_bn_after.keras", "-o", tmp_path / "out.keras")
    assert outcome.code == 1
    assert "not equivalent" in outcome.words
    assert "nothing was written" in outcome.words
    assert not list(tmp_path.iterdir())
