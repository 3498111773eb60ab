"""BN with measured statistics do nothing: how near to that they are written, and that what strays is noticed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import Input, Sequential, layers
from keras_models import randomised

import bnfold
from bnfold.formats import load
from bnfold.pipeline import restyle_file
from bnfold.restyling import style_of
from bnfold.restyling.measured import Rounding, roundings_apart

pytestmark = pytest.mark.slow


def model() -> keras.Model:
    stack = [layers.Dense(8, activation="relu", name="first"), layers.Dense(5, activation="relu", name="second")]
    return randomised(Sequential([Input((6,), name="x"), *stack, layers.Dense(3, name="last")]))


def data(mean: float) -> np.ndarray:
    return np.random.default_rng(2).normal(mean, 1.0, (300, 6)).astype(np.float32)


@pytest.mark.parametrize("mean", [0.0, 1000.0])
class TestNumbers:
    def test_the_scale_is_1_beyond_rounding(self, mean: float) -> None:
        """Rounded each by itself, gamma and variance leave 6e-8; times a mean of 1000 that is seen."""
        found = bnfold.restyle(model(), "after", data=data(mean), on_input=True)
        for name in ("x_bn", "first_bn", "second_bn"):
            layer = found.get_layer(name)
            gamma, beta, center, variance = (np.asarray(value, np.float64) for value in layer.get_weights())
            np.testing.assert_allclose(gamma / np.sqrt(variance + layer.epsilon), 1, rtol=1e-8)
            np.testing.assert_array_equal(beta, center)

    def test_inputs_that_are_small_beside_the_mean_pass_unchanged(self, mean: float) -> None:
        plain = model()
        x = np.random.default_rng(3).normal(size=(50, 6)).astype(np.float32)
        found = bnfold.restyle(plain, "after", data=data(mean), on_input=True)
        expected = plain.predict(x, verbose=0)
        np.testing.assert_allclose(found.predict(x, verbose=0), expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


class TestProof:
    @pytest.fixture(scope="class")
    def files(self, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, tuple[str, ...]]:
        """The model without and with measured statistics, and the names of its BN."""
        folder = tmp_path_factory.mktemp("measured")
        model().save(folder / "plain.keras")
        with_bias = style_of("before", on_input=True)
        found = restyle_file(folder / "plain.keras", folder / "out.keras", with_bias, data=data(30.0))
        assert found.path is not None
        assert found.rounding is not None
        assert 0 < found.rounding.roundings < 1
        assert found.unmeasured is not None
        found.unmeasured.save(folder / "unmeasured.keras")
        return folder / "unmeasured.keras", folder / "out.keras", found.norms

    def apart(self, files: tuple[Path, Path, tuple[str, ...]], folder: Path, layer: str, weight: str, add: Any) -> Any:
        """Roundings apart once something is added to a weight of the written model."""
        unmeasured, written, norms = files
        changed = keras.models.load_model(written)
        variable = getattr(changed.get_layer(layer), weight)
        variable.assign(variable + add)
        changed.save(folder / "changed.keras")
        return roundings_apart(load(unmeasured).graph, load(folder / "changed.keras").graph, norms)

    @pytest.mark.parametrize(
        ("weight", "add", "allowed"),
        [("gamma", 0.0, True), ("gamma", 1e-5, False), ("beta", 1e-4, False), ("moving_mean", 1e-4, False)],
    )
    def test_a_bn_that_does_something_is_noticed(
        self, files: Any, tmp_path: Path, weight: str, add: float, allowed: bool
    ) -> None:
        found = Rounding(self.apart(files, tmp_path, "first_bn", weight, add))
        assert found.equivalent == allowed
        assert found.sentence().startswith("with the measured" if allowed else "not equivalent: the measured")
        assert found.to_dict()["equivalent"] == allowed

    def test_any_other_weight_has_to_be_the_same(self, files: Any, tmp_path: Path) -> None:
        kernel = np.zeros((6, 8), np.float32)
        assert self.apart(files, tmp_path, "first", "kernel", kernel) < 1
        kernel[2, 3] = 1e-3
        assert self.apart(files, tmp_path, "first", "kernel", kernel) == np.inf
        assert Rounding(np.inf).to_dict()["roundings"] is None
