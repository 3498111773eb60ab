"""Keras models folded into files within limits of time and memory, which hold for their conversion too."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from bnfold.errors import OutputError
from bnfold.formats.keras import model as keras_model
from bnfold.graph.parameters import Derived
from bnfold.pipeline import fix_file, fold_file
from bnfold.verification import VerifyOptions

SAMPLE = Path(__file__).parents[2] / "sample_models" / "mlp_bn_before.keras"


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the models that this process converts to ONNX."""
    names: list[str] = []
    real = keras_model.keras_to_onnx

    def noting(keras, model, name):
        names.append(name)
        return real(keras, model, name)

    monkeypatch.setattr(keras_model, "keras_to_onnx", noting)
    return names


def test_without_limits_each_model_is_converted_once(tmp_path: Path, conversions: list[str]) -> None:
    result = fold_file(SAMPLE, tmp_path / "a.keras")
    assert result.verification.verdict == "within rounding"
    assert len(conversions) == 2
    assert any("Keras and onnxruntime agree" in note for note in result.notes)


@pytest.mark.parametrize("suffix", [".keras", ".onnx"])
@pytest.mark.parametrize("sample", ["mlp_bn_before", "mlp_bn_after", "mlp_mixed", "transfer", "inception_post"])
def test_every_sample_is_folded_and_verified(tmp_path: Path, sample: str, suffix: str) -> None:
    result = fold_file(SAMPLE.with_name(f"{sample}.keras"), tmp_path / f"a{suffix}")
    assert result.verification.verdict in ("equal", "within rounding"), result.verification.sentence()


@pytest.mark.parametrize("do", [fold_file, fix_file])
def test_with_limits_conversion_is_done_within_them(tmp_path: Path, conversions: list[str], do) -> None:
    result = do(SAMPLE, tmp_path / "a.keras", options=VerifyOptions(timeout=300, memory=32 << 30))
    assert result.verification.equivalent
    assert result.path == tmp_path / "a.keras"
    assert not conversions


@pytest.mark.parametrize("suffix", [".keras", ".onnx"])
@pytest.mark.parametrize(
    ("limits", "words"),
    [({"timeout": 0.01}, "time limit of 0.01 s"), ({"memory": 1 << 29}, "memory limit of 537 MB")],
    ids=["time", "memory"],
)
def test_what_does_not_come_to_its_end_is_not_written(tmp_path: Path, suffix: str, limits: dict, words: str) -> None:
    result = fold_file(SAMPLE, tmp_path / f"a{suffix}", options=VerifyOptions(**limits))
    assert result.verification.verdict == "not verified"
    assert words in result.verification.reason
    assert list(tmp_path.iterdir()) == []


def norms(path: Path) -> Path:
    """Conv, BN, Dense, BN: TensorFlow computes constants of the second BN, and none of the first."""
    rng = np.random.default_rng(0)
    stack = [layers.Conv2D(6, 3), layers.BatchNormalization(), layers.ReLU(), layers.Flatten(), layers.Dense(5)]
    model = keras.Sequential([keras.Input((9, 9, 3)), *stack, layers.BatchNormalization()])
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, value.shape) for value in layer.get_weights()])
    model.save(path)
    return path


@pytest.mark.parametrize("suffix", [".keras", ".onnx"])
@pytest.mark.parametrize("limits", [{}, {"timeout": 300}], ids=["here", "in a process of its own"])
def test_the_judge_gets_the_weights_before_they_were_rounded(tmp_path: Path, suffix: str, limits: dict) -> None:
    source = norms(tmp_path / "a.keras")
    result = fold_file(source, tmp_path / f"b{suffix}", options=VerifyOptions(**limits))
    assert result.verification.equivalent
    assert result.verification.exactness.unrounded
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("b")] == [f"b{suffix}"]


@pytest.mark.parametrize("suffix", [".keras", ".onnx"])
def test_a_weight_that_is_off_by_a_thousandth_is_found(tmp_path: Path, suffix: str, monkeypatch) -> None:
    """In a single channel, of a kernel that folding computed."""
    real = Derived.exact

    def off(self, start: int, stop: int):
        values = np.array(real(self, start, stop))
        if values.ndim == 4:
            values[..., 2] *= 1.001
        return values

    monkeypatch.setattr(Derived, "exact", off)
    result = fold_file(norms(tmp_path / "a.keras"), tmp_path / f"b{suffix}")
    assert result.verification.verdict == "different"
    assert not (tmp_path / f"b{suffix}").exists()


def without_onnx(path: Path) -> Path:
    """A model that tf2onnx has no operators for: a Dropout that is called in training mode."""
    x = keras.Input((6,))
    y = layers.BatchNormalization()(layers.Dense(8)(layers.Dropout(0.3)(x, training=True)))
    keras.Model(x, layers.Dense(2)(layers.ReLU()(y))).save(path)
    return path


def test_a_model_without_onnx_is_compared_by_its_predictions(tmp_path: Path) -> None:
    result = fold_file(without_onnx(tmp_path / "a.keras"), tmp_path / "b.keras")
    assert (result.verification, result.path) == (None, tmp_path / "b.keras")
    assert result.agreement.equivalent
    assert result.agreement.difference < 1e-6
    assert result.summary.after.batchnorms == 0
    assert any("StatelessRandomUniformV2" in note for note in result.notes)
    assert result.to_dict()["agreement"]["equivalent"]
    before, after = (keras.saving.load_model(tmp_path / name) for name in ("a.keras", "b.keras"))
    data = np.random.default_rng(0).normal(size=(5, 6))
    np.testing.assert_allclose(after.predict(data, verbose=0), before.predict(data, verbose=0), atol=1e-5)


def test_predictions_that_differ_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras_model.KerasModel, "prediction_difference", lambda self, other: (0.1, 0.01))
    result = fold_file(without_onnx(tmp_path / "a.keras"), tmp_path / "b.keras")
    assert not result.equivalent
    assert result.path is None
    assert not (tmp_path / "b.keras").exists()


@pytest.mark.parametrize("said", [{"strict": True}, {"rtol": 1e-3}, {"inputs": {"x": np.zeros((1, 6))}}])
def test_predictions_do_not_stand_in_for_a_comparison_of_the_callers(tmp_path: Path, said: dict) -> None:
    with pytest.raises(OutputError, match="StatelessRandomUniformV2"):
        fold_file(without_onnx(tmp_path / "a.keras"), tmp_path / "b.keras", options=VerifyOptions(**said))


def test_what_onnxruntime_cannot_run_is_not_compared_with_keras(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    """It has no Erf for float64."""
    x = keras.Input((6,), dtype="float64")
    y = layers.BatchNormalization(dtype="float64")(layers.Dense(8, dtype="float64")(x))
    keras.Model(x, layers.Activation("gelu", dtype="float64")(y)).save(tmp_path / "a.keras")
    result = fold_file(tmp_path / "a.keras", tmp_path / "b.keras")
    assert result.verification.equivalent
    assert any("not compared with Keras: onnxruntime cannot run it" in note for note in result.notes)
    assert "Gemm" not in capfd.readouterr().err
