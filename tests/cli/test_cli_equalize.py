"""``bnfold equalize``, and ``--int8`` of the commands that have it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from command_line import bnfold as run
from helpers import Net, random_feeds
from level_nets import C, same_bits, unlevel
from onnx import ModelProto, load

import bnfold

SAMPLES = Path(__file__).parents[2] / "sample_models"


def model(*, quantized: bool = False) -> ModelProto:
    net = Net(seed=1)
    x = net.op("Conv", net.input("N", C, 4, 4, name="x"), unlevel(net, C, C, 3, 3), name="first")
    x = net.op("Relu", net.exact_bn(x, [1.0, 16.0, 0.5, 4.0], np.ones(C), name="bn"), name="relu")
    weight = net.draw(2, C, 1, 1)
    if quantized:
        weight = net.op(
            "DequantizeLinear", net.const((weight * 30).round(), dtype=np.int8), np.float32(1 / 30), name="dq"
        )
    return net.build(net.op("Conv", x, weight, name="second"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(model().SerializeToString())
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.npz"
    np.savez(path, x=np.random.default_rng(0).normal(size=(12, C, 4, 4)).astype(np.float32))
    return path


def test_the_model_is_written_and_verified(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    found = run("equalize", source, "-o", out)
    assert found.code == 0
    for words in (
        "folded first: 4 → 3 nodes, 1 → 0 BN",
        "by powers of two",
        "range spread in bits",
        "verified",
        "written to",
    ):
        assert words in found.out
    folded = bnfold.fold(source).model.to_proto()
    assert same_bits(folded, load(out), random_feeds(folded))


def test_twice_is_once(source: Path, tmp_path: Path) -> None:
    once, twice = tmp_path / "once.onnx", tmp_path / "twice.onnx"
    assert run("equalize", source, "-o", once, "-q").out == ""
    found = run("equalize", once, "-o", twice)
    assert "nothing to equalise" in found.out
    assert once.read_bytes() == twice.read_bytes()


def test_json_has_the_plan(source: Path) -> None:
    data = json.loads(run("equalize", source, "--dry-run", "--exact-scale", "--format", "json").out)
    assert data["output"] is None
    assert data["plan"]["scales"] == "exact"
    first, second = data["plan"]["layers"]
    assert (first["layer"], second["layer"]) == ("first", "second")
    assert first["spread_bits"]["after"] < first["spread_bits"]["before"]
    assert {tensor["channels"] for tensor in data["plan"]["scaled"]} == {C}
    assert [step["label"] for step in data["folding"]["steps"]] == ["bn"]


def test_somewhere_to_write_is_needed(source: Path) -> None:
    found = run("equalize", source)
    assert found.code == 2
    assert "-o OUT" in found.err


def test_the_input_is_never_replaced(source: Path) -> None:
    found = run("equalize", source, "-o", source)
    assert found.code == 2
    assert "is the input itself" in found.err


def test_a_quantised_model_stays_and_says_so(tmp_path: Path, data: Path) -> None:
    source = tmp_path / "quantized.onnx"
    source.write_bytes(model(quantized=True).SerializeToString())
    found = run("equalize", source, "--dry-run", "--int8", data)
    assert found.code == 0
    assert found.out.count("the model is quantised already (dq)") == 2


@pytest.mark.slow
def test_int8_of_every_command(source: Path, data: Path, tmp_path: Path) -> None:
    calls = [("fold", "-o", tmp_path / "a.onnx"), ("equalize", "-o", tmp_path / "b.onnx"), ("analyze",)]
    for command, *rest in calls:
        found = run(command, source, *rest, "--int8", data)
        assert found.code == 0, found.err
        for words in (
            "6 samples to calibrate, 6 held out",
            "per channel",
            "equalized",
            "layers that lose most",
            "first",
        ):
            assert words in found.out, command


@pytest.mark.slow
def test_int8_in_json(source: Path, data: Path) -> None:
    report = json.loads(run("analyze", source, "--int8", data, "--format", "json").out)["int8"]
    rows = {(row["model"], row["weights"]): row for row in report["rows"]}
    assert len(rows) == 9
    assert all(row["error"] is None and row["size"] > 0 and row["latency_ms"] > 0 for row in rows.values())
    assert rows["original", "float"]["outputs"][0]["snr_db"] is None  # equal, which JSON has no number for
    floats = rows["folded", "float"]["outputs"][0]["snr_db"]
    assert floats is None or floats > 100
    assert 0 < rows["folded", "per tensor"]["outputs"][0]["snr_db"] < 60
    assert [loss["layer"] for loss in report["losses"]]
    assert set(report["losses"][0]["spread_bits"]) == {"folded", "equalized"}


def test_data_that_do_not_fit_are_an_error(source: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", np.zeros((8, 3, 4, 4), np.float32))
    for command in ("analyze", "fold", "equalize"):
        out = [] if command == "analyze" else ["-o", tmp_path / "out.onnx"]
        found = run(command, source, *out, "--int8", tmp_path / "data.npy")
        assert found.code == 2
        assert "data.npy: x is float32 [8, 3, 4, 4], the model takes" in found.err
        assert not (tmp_path / "out.onnx").exists()


def test_int8_of_several_models_at_once_is_refused(source: Path, data: Path) -> None:
    found = run("analyze", source, source, "--int8", data)
    assert found.code == 2
    assert "--int8 takes one model" in found.err


def test_bn305_says_what_equalisation_leaves() -> None:
    found = run("analyze", SAMPLES / "mobilenet_v1_relu.onnx", "--select", "BN305", "-q")
    assert re.search(r"over 5\.8 bits .* or `bnfold equalize` leaves [0-4]\.\d bits", found.out)
    clipped = run("analyze", SAMPLES / "mobilenet_v1_relu6.onnx", "--select", "BN305", "-q")
    assert "BN305" in clipped.out
    assert "bnfold equalize" not in clipped.out
