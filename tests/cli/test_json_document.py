"""docs/json.md names every key that is printed, and no key of a table that is not."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import SAMPLES, bnfold

DOCUMENT = (Path(__file__).parents[2] / "docs/json.md").read_text(encoding="utf-8")
CNN, REPVGG = SAMPLES / "digits_cnn.onnx", SAMPLES / "digits_repvgg.onnx"
#: Whose keys are names of the model, of a rule or of a level, or numbers that the rule chooses.
FREE = frozenset({"changed", "levels", "placements", "sections", "statuses", "values"})
CALLS = {
    "analyze": ["analyze", REPVGG, "nothing.onnx", "--stats", "--count"],
    "fold": ["fold", REPVGG, "-o", "out.onnx", "--latency"],
    "fix": ["fix", CNN, "-o", "out.onnx"],
    "equalize": ["equalize", CNN, "-o", "out.onnx", "--int8", "data.npz"],
    "verify": ["verify", CNN, REPVGG],
    "verify one": ["verify", CNN],
    "different": ["verify", CNN, "other.onnx"],
    "scan": ["scan", CNN, "--store", "s.sqlite"],
    "rules": ["rules", "BN101"],
}


def section(name: str) -> str:
    """What the document says of a command, and of all of them."""
    return next(part for part in DOCUMENT.split("\n## ") if re.match(rf"(?:[\w ]+ and )?{name}\b", part))


def keys(data: Any) -> Iterator[str]:
    if isinstance(data, dict):
        for key, value in data.items():
            yield key
            yield from keys(list(value.values()) if key in FREE and isinstance(value, dict) else value)
    elif isinstance(data, list):
        for each in data:
            yield from keys(each)


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnx

    model = onnx.load(CNN)
    first = next(each for each in model.graph.initializer if len(each.dims) == 4)
    first.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(first) * 1.01, first.name))
    onnx.save(model, tmp_path / "other.onnx")
    [entry] = model.graph.input
    shape = [dim.dim_value or 8 for dim in entry.type.tensor_type.shape.dim][1:]
    np.savez(tmp_path / "data.npz", **{entry.name: np.random.default_rng(0).random((20, *shape), np.float32)})
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("call", CALLS)
def test_every_key_is_documented(call: str) -> None:
    data = json.loads(bnfold(*CALLS[call], "--format", "json").out)
    missing = {key for key in keys(data) if not re.search(rf"[`.\"]{key}[`.\"]", DOCUMENT)}
    assert missing == set()


@pytest.mark.parametrize("call", ["analyze", "fold", "fix", "equalize", "verify", "scan"])
def test_every_documented_key_is_there(call: str) -> None:
    """Those in the first column of the command's tables."""
    data = json.loads(bnfold(*CALLS[call], "--format", "json").out)
    other = {"fold": "(fix)", "fix": "(fold)"}.get(call, "(none)")
    rows = [line.split("|")[1] for line in section(call).splitlines() if line.startswith("| `")]
    told = {
        name for row in rows if other not in row for path in re.findall(r"`([\w.]+)`", row) for name in path.split(".")
    }
    assert len(told) > 3
    assert told <= set(keys(data))


def test_files_have_their_sizes() -> None:
    for command in ("fold", "fix", "equalize"):
        summary = json.loads(bnfold(command, CNN, "-o", f"{command}.onnx", "--format", "json").out)["summary"]
        assert summary["before"]["file"] == CNN.stat().st_size
        assert summary["after"]["file"] == Path(f"{command}.onnx").stat().st_size
