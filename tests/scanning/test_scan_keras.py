"""Scans of Keras files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import bnfold

LAYER = """
import keras


class Halving(keras.layers.Layer):
    def call(self, inputs):
        return inputs / 2


if __name__ == "__main__":
    dense = keras.layers.Dense(3), keras.layers.BatchNormalization(), Halving()
    keras.Sequential([keras.Input((4,)), *dense]).save("custom.keras")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model that has a custom layer, and the module that defines that."""
    (tmp_path / "halving.py").write_text(LAYER)
    monkeypatch.chdir(tmp_path)
    subprocess.run([sys.executable, "halving.py"], check=True, capture_output=True)
    return tmp_path


def test_custom_layers_are_imported_by_each_job(folder: Path) -> None:
    (row,) = bnfold.scan(["custom.keras"], store="without.sqlite")
    assert "custom class Halving" in row.sentence
    (row,) = bnfold.scan(["custom.keras"], store="with.sqlite", custom=["halving"], fold_to="folded")
    assert row.status == "folded"
    assert row.fold["written"]
    (row,) = bnfold.scan(["custom.keras"], store="wrong.sqlite", custom=["nothing_here"])
    assert row.sentence.startswith("--custom nothing_here cannot be imported: ")
