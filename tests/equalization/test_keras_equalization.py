"""Keras to Keras: the layers get level weights, and the model predicts the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import bnfold

keras = pytest.importorskip("keras")
SAMPLES = Path(__file__).parents[2] / "sample_models"


@pytest.fixture
def model() -> keras.Model:
    layers = keras.layers
    keras.utils.set_random_seed(0)
    image = layers.Input((6, 6, 3))
    x = layers.Conv2D(4, 3, name="first", use_bias=False)(image)
    x = layers.ReLU()(layers.BatchNormalization(name="bn")(x))
    x = layers.DepthwiseConv2D(3, padding="same", activation="relu", name="middle")(x)
    x = layers.GlobalAveragePooling2D()(x)
    built = keras.Model(image, layers.Dense(3, name="last")(x))
    rng = np.random.default_rng(0)
    gamma = np.exp2(rng.uniform(-4, 4, 4))
    shifts = 0.01 * rng.normal(size=(2, 4))  # biases of a size that lets scales rise
    built.get_layer("bn").set_weights([gamma, *shifts, rng.uniform(0.5, 1.5, 4)])
    return built


def ranges(model: keras.Model, name: str, axes: tuple[int, ...]) -> np.ndarray:
    return np.abs(model.get_layer(name).get_weights()[0]).max(axis=axes)


def test_a_keras_file_is_equalised_into_a_keras_file(model: keras.Model, tmp_path: Path) -> None:
    source, folded, out = (tmp_path / f"{name}.keras" for name in ("source", "folded", "out"))
    model.save(source)
    bnfold.fold_file(source, folded)
    result = bnfold.equalize_file(source, out)
    assert result.verification is not None
    assert result.verification.equivalent
    before, after = keras.models.load_model(folded), keras.models.load_model(out)
    images = np.random.default_rng(1).normal(size=(5, 6, 6, 3)).astype(np.float32)
    np.testing.assert_array_equal(before.predict(images, verbose=0), after.predict(images, verbose=0))
    pairs = [
        (ranges(after, "first", (0, 1, 2)), ranges(after, "middle", (0, 1, 3))),
        (ranges(after, "middle", (0, 1, 3)), ranges(after, "last", (1,))),
    ]
    assert np.abs(np.log2(ranges(before, "first", (0, 1, 2)) / ranges(before, "middle", (0, 1, 3)))).max() > 2
    assert all(np.abs(np.log2(first / second)).max() <= 1 + 1e-6 for first, second in pairs)
    assert not bnfold.equalize(out).plan.scaled


def test_into_onnx(model: keras.Model, tmp_path: Path) -> None:
    model.save(tmp_path / "source.keras")
    result = bnfold.equalize_file(tmp_path / "source.keras", tmp_path / "out.onnx")
    assert result.path == tmp_path / "out.onnx"
    assert result.plan.scaled
    assert not bnfold.equalize(tmp_path / "out.onnx").plan.scaled


def test_a_separable_convolution_has_two_weights_and_keeps_its_neighbours() -> None:
    plan = bnfold.equalize(SAMPLES / "cnn_legacy.h5").plan
    assert not plan.scaled
    reasons = {item.layer: item.reason for item in plan.unscaled}
    assert reasons["conv_1"] == "separable_2 (SeparableConv2D) has weights whose ranges cannot be told by channel"


def test_int8_of_a_keras_model(model: keras.Model, tmp_path: Path) -> None:
    model.save(tmp_path / "source.keras")
    np.save(tmp_path / "data.npy", np.random.default_rng(2).normal(size=(20, 6, 6, 3)).astype(np.float32))
    report = bnfold.int8_report(tmp_path / "source.keras", tmp_path / "data.npy")
    by_form = {(row.model, row.weights): row.outputs[0].snr_db for row in report.rows}
    assert len(by_form) == 9
    assert 10 < by_form["equalized", "per tensor"] < 60
    assert by_form["folded", "float"] > 100
