"""What equalisation is worth in int8, on networks like MobileNet, beside other ways to the same end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers import run
from onnx import numpy_helper

import bnfold
from bnfold.quantization import Int8Report, measure_int8

pytestmark = pytest.mark.slow

SAMPLES = Path(__file__).parents[2] / "sample_models"
DATA = SAMPLES / "digits_held_out.npz"
RELU = ["mobilenet_v1_relu", "mobilenet_v2_relu"]
RELU6 = ["mobilenet_v1_relu6", "mobilenet_v2_relu6"]


def pairwise(model: onnx.ModelProto, rounds: int = 30) -> onnx.ModelProto:
    """Cross-layer equalisation as arXiv 1906.04721 has it: equation 11, pair after pair of convolutions, in rounds.

    A pair is a convolution, perhaps a ReLU, and the one convolution that reads it. Streams that are added up stay.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    stored = {tensor.name: numpy_helper.to_array(tensor).copy() for tensor in made.graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in made.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    pairs = []
    for first in (node for node in made.graph.node if node.op_type == "Conv"):
        after = readers.get(first.output[0], [])
        if len(after) == 1 and after[0].op_type == "Relu":
            after = readers.get(after[0].output[0], [])
        if len(after) == 1 and after[0].op_type == "Conv":
            pairs.append((first, after[0]))
    for _ in range(rounds):
        for first, second in pairs:
            one, two = stored[first.input[1]], stored[second.input[1]]
            depthwise = two.shape[1] == 1 and one.shape[0] == two.shape[0]
            r1 = np.abs(one).max(axis=(1, 2, 3))
            r2 = np.abs(two).max(axis=(1, 2, 3) if depthwise else (0, 2, 3))
            s = np.sqrt(r1 * r2) / r2
            stored[first.input[1]] = one / s[:, None, None, None]
            if len(first.input) > 2:
                stored[first.input[2]] = stored[first.input[2]] / s
            stored[second.input[1]] = two * (s[:, None, None, None] if depthwise else s[None, :, None, None])
    for tensor in made.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(stored[tensor.name].astype(np.float32), tensor.name))
    return made


@pytest.fixture(scope="module", params=RELU)
def table(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Int8Report]:
    from onnxruntime.quantization.shape_inference import quant_pre_process

    folder = tmp_path_factory.mktemp("int8")
    source = SAMPLES / f"{request.param}.onnx"
    models = {"original": source}
    for name in ("folded", "equalized", "exact", "pairwise", "quant_pre_process"):
        models[name] = folder / f"{name}.onnx"
    folded = bnfold.fold(source).model
    folded.save(models["folded"])
    bnfold.equalize(source).model.save(models["equalized"])
    bnfold.equalize(source, exact=True).model.save(models["exact"])
    onnx.save(pairwise(folded.to_proto()), models["pairwise"])
    quant_pre_process(str(source), str(models["quant_pre_process"]), skip_symbolic_shape=True)
    return request.param, measure_int8(models, DATA, {})


def decibels(report: Int8Report, model: str, weights: str = "per tensor") -> float:
    (output,) = report.row(model, weights).outputs
    return output.snr_db


def test_equalisation_gains_six_decibels_and_more(table: tuple[str, Int8Report]) -> None:
    name, report = table
    print(name, {model: round(decibels(report, model), 1) for model in dict.fromkeys(row.model for row in report.rows)})
    gained = decibels(report, "equalized")
    assert gained >= decibels(report, "folded") + 6
    assert gained >= decibels(report, "quant_pre_process") + 6
    assert gained >= decibels(report, "original") + 6


def test_it_is_as_good_as_the_formula_for_pairs(table: tuple[str, Int8Report]) -> None:
    """Which does not know streams, and has no powers of two to keep to: these cost it a decibel or two."""
    _, report = table
    assert decibels(report, "exact") >= decibels(report, "pairwise") - 3
    assert decibels(report, "equalized") >= decibels(report, "pairwise") - 3


def test_int8_agrees_with_float_on_the_class_again(table: tuple[str, Int8Report]) -> None:
    _, report = table
    (before,), (after,) = (report.row(name, "per tensor").outputs for name in ("folded", "equalized"))
    assert before.agreement is not None
    assert after.agreement is not None
    assert after.agreement >= 0.97 > before.agreement


@pytest.mark.parametrize("name", RELU + RELU6)
def test_powers_of_two_keep_every_bit(name: str) -> None:
    source = SAMPLES / f"{name}.onnx"
    feeds = {"image": np.load(DATA)["image"]}
    folded = run(bnfold.fold(source).model.to_proto(), feeds)
    (equalized,) = run(bnfold.equalize(source).model.to_proto(), feeds)
    np.testing.assert_array_equal(folded[0], equalized)


@pytest.mark.parametrize("name", RELU6)
def test_relu6_keeps_most_scales_and_says_why(name: str) -> None:
    plan = bnfold.equalize(SAMPLES / f"{name}.onnx").plan
    reasons = [item.reason for item in plan.unscaled]
    assert len(reasons) >= 7
    assert all("(Clip) is nonlinear, and its bounds are the same for all channels" in reason for reason in reasons)
    # What MobileNetV2 adds up is linear: there are scales for it all the same.
    assert bool(plan.scaled) == (name == "mobilenet_v2_relu6")
