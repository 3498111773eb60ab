"""The networks of keras.applications: placements counted, and every finding at warning or above defended."""

from __future__ import annotations

from collections import Counter
from typing import Any

import keras
import numpy as np
import pytest

import bnfold
from bnfold.analysis import Report, Severity

#: Placements, how many BN fold, and findings at warning or above: (code, count).
#:
#: The only such findings are ResNet50's. Its 53 convolutions were built with ``use_bias=True``, each
#: directly before its BN, so all of their 26,560 bias parameters are cancelled: a true finding.
EXPECTED: dict[str, tuple[dict[str, int], int, dict[str, int]]] = {
    "InceptionV3": ({"before activation": 94}, 94, {}),
    "ResNet50": ({"before activation": 53}, 53, {"BN201": 53}),
    "ResNet50V2": ({"before activation": 33, "pre-activation residual": 16}, 33, {}),
    "MobileNetV2": ({"before activation": 35, "between linear layers": 17}, 52, {}),
    "DenseNet121": ({"before activation": 62, "pre-activation residual": 59}, 62, {}),
    "EfficientNetB0": ({"before activation": 33, "between linear layers": 16}, 49, {}),
    "Xception": ({"before activation": 38, "between linear layers": 2}, 40, {}),
    "NASNetMobile": ({"before activation": 192}, 192, {}),
}


def with_statistics(model: keras.Model) -> keras.Model:
    """Random but plausible BN parameters, one gamma in ten negative."""
    rng = np.random.default_rng(0)
    for layer in model._flatten_layers(include_self=False):
        if isinstance(layer, keras.layers.BatchNormalization):
            for variable in layer.weights:
                variable.assign(_drawn(rng, variable.path.rsplit("/", 1)[-1], variable.shape))
    return model


def _drawn(rng: np.random.Generator, name: str, shape: Any) -> np.ndarray:
    if name == "gamma":
        return rng.uniform(0.5, 1.5, shape) * np.where(rng.random(shape) < 0.1, -1, 1)
    return rng.uniform(0.3, 2.0, shape) if name == "moving_variance" else rng.normal(0, 0.4, shape)


@pytest.fixture(scope="module", params=list(EXPECTED))
def network(request: pytest.FixtureRequest) -> tuple[str, keras.Model, Report]:
    model = with_statistics(getattr(keras.applications, request.param)(weights=None))
    return request.param, model, bnfold.analyze(model)


def test_findings_placements_and_account(network: tuple[str, keras.Model, Report]) -> None:
    name, model, report = network
    placements, foldable, warnings = EXPECTED[name]
    serious = Counter(f.code for f in report.findings if f.severity is not Severity.INFO)
    assert dict(serious) == warnings
    assert dict(report.summary.placements) == placements
    assert report.summary.foldable == foldable
    assert report.summary.parameters == model.count_params()
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert report.summary.parameters_in_batchnorm == sum(layer.count_params() for layer in norms)
    if name == "ResNet50":
        biased = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D) and layer.use_bias]
        assert len(biased) == 53
        found = [finding.values["parameters"] for finding in report.findings if finding.code == "BN201"]
        assert sum(found) == sum(layer.filters for layer in biased)
    if name == "DenseNet121":
        stays = next(f for f in report.findings if f.code == "BN402" and f.layer == "conv2_block2_0_bn")
        assert "the output of conv2_block1_concat (Concatenate) is also seen by conv2_block2_concat" in stays.message
        assert "conv2_block2_0_relu (Activation) is nonlinear" in stays.message
