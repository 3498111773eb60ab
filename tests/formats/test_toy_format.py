"""A third format takes its own modules and one entry in a registry: the toy of CONTRIBUTING.md, in every command."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_format
from command_line import bnfold as run

import bnfold
from bnfold import formats


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """What entering ``toy`` in FORMATS does, were the module in ``bnfold/formats``."""
    monkeypatch.setitem(sys.modules, "bnfold.formats.toy", toy_format)
    monkeypatch.setattr(formats, "FORMATS", ("toy", *formats.FORMATS))


def layers() -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    dense = {"type": "dense", "kernel": rng.normal(size=(3, 4)).tolist(), "bias": rng.normal(size=4).tolist()}
    vectors = {key: rng.uniform(0.5, 1.5, 4).tolist() for key in ("gamma", "beta", "mean", "variance")}
    return [dense, {"type": "norm", **vectors}, {"type": "relu"}, {"type": "norm", **vectors}]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "model.toy"
    path.write_text(json.dumps({"inputs": 3, "layers": layers()}))
    return path


def test_what_the_folded_layer_computes(source: Path) -> None:
    """Against the formulas in numpy; and what cannot go stays."""
    out = source.with_name("folded.toy")
    assert run("fold", source, "-o", out).code == 0
    after = json.loads(out.read_text())["layers"]
    assert [layer["type"] for layer in after] == ["dense", "relu", "norm"]
    before, norm, *_ = layers()
    x = np.random.default_rng(1).normal(size=(5, 3))
    y = x @ before["kernel"] + before["bias"]
    y = (y - norm["mean"]) / np.sqrt(norm["variance"]) * norm["gamma"] + norm["beta"]
    np.testing.assert_allclose(x @ after[0]["kernel"] + after[0]["bias"], y, atol=1e-5)


def test_the_file_as_onnx(source: Path) -> None:
    out = source.with_name("folded.onnx")
    done = run("fold", source, "-o", out)
    assert done.code == 0
    assert "converted to ONNX" in done.out
    assert bnfold.verify(source, out).equivalent
    assert run("fold", source, "-o", source.with_name("folded.keras")).code == 2


def test_it_is_analyzed_and_fixed(source: Path) -> None:
    assert "dense → BN → relu" in run("analyze", source).out
    assert run("fix", source, "-o", source.with_name("fixed.toy")).code == 0


def test_a_damaged_file_is_one_sentence(source: Path) -> None:
    source.write_text('{"inputs": 3}')
    done = run("analyze", source)
    assert (done.code, done.out) == (2, "")
    assert "model.toy is damaged, or not a toy" in done.err
