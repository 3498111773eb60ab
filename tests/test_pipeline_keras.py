"""Keras models folded into files within limits of time and memory, which hold for their conversion too."""

from __future__ import annotations

from pathlib import Path

import pytest

from bnfold.formats.keras import model as keras_model
from bnfold.pipeline import fix_file, fold_file
from bnfold.verification import VerifyOptions

SAMPLE = Path(__file__).parents[1] / "sample_models" / "mlp_bn_before.keras"


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
