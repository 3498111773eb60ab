"""A wrong fold at every step of a plan in turn: verification sees each, and says where it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from helpers import Net
from mistaken_facts import mistaken_about
from onnx import ModelProto, numpy_helper
from process import SAMPLES

import bnfold
from bnfold.pipeline import fold_file
from bnfold.verification import VerifyOptions, verify

pytestmark = pytest.mark.slow

FAULTS = ("scale off by 1e-2", "scale off by 1e-3", "axis swapped", "shift lost", "sign of the shift")


def mixed() -> ModelProto:
    """BN folded backward, forward and through other operators, into each of the linear operators."""
    net = Net(seed=3)
    x = net.input("N", 4, 8, 8, name="x")
    t = net.op("Relu", net.bn(net.op("Conv", x, net.draw(6, 4, 3, 3), net.draw(6), name="conv"), 6, name="bn_1"))
    t = net.op(
        "Conv", net.bn(net.op("MaxPool", t, kernel_shape=[2, 2]), 6, name="bn_2"), net.draw(6, 6, 1, 1), name="point"
    )
    t = net.op("Tanh", net.bn(net.op("ConvTranspose", t, net.draw(6, 5, 2, 2), name="up"), 5, name="bn_3"))
    t = net.op("GlobalAveragePool", net.bn(t, 5, name="bn_4"))
    t = net.op("Gemm", net.op("Flatten", t), net.draw(5, 7), net.draw(7), name="dense")
    t = net.op("Tanh", net.bn(t, 7, name="bn_5"))
    net.output(net.bn(net.op("MatMul", t, net.draw(7, 3), name="last"), 3, name="bn_6"), shape=["N", 3])
    return net.build()


def source(name: str) -> ModelProto:
    return mixed() if name == "mixed" else onnx.load(SAMPLES / f"{name}.onnx")


def held_in(proto: ModelProto, result: Any) -> list[str]:
    """The names of the operators that took something in, in the folded model's order."""
    holders = {key.rsplit("/", 1)[-1] for step in result.plan.steps for key in step.holders}
    labels = {label for step in result.plan.steps for label in step.into} | holders
    return [node.name for node in proto.graph.node if node.name in labels and len(node.input) > 1]


def planted(proto: ModelProto, holder: str, fault: str) -> ModelProto | None:
    """The folded model with one operator's weights wrong; None where this fault changes nothing."""
    wrong = ModelProto()
    wrong.CopyFrom(proto)
    node = next(node for node in wrong.graph.node if node.name == holder)
    tensors = {tensor.name: tensor for tensor in wrong.graph.initializer}
    held = [tensors[name] for name in node.input if name in tensors]
    weight, bias = held[0], held[1] if len(held) > 1 else None
    target = bias if fault in ("shift lost", "sign of the shift") else weight
    if target is None:
        return None
    values = numpy_helper.to_array(target).copy()
    before = values.copy()
    if fault.startswith("scale"):
        largest = np.unravel_index(np.abs(values).argmax(), values.shape)
        channel = (slice(None),) * (values.ndim - 1) + largest[-1:] if values.ndim == 2 else largest[:1]
        values[channel] *= 1 + float(fault.split()[-1])
    elif fault == "axis swapped":
        values = values * np.linspace(0.5, 1.5, values.shape[1]).reshape(1, -1, *[1] * (values.ndim - 2)).astype("f")
        if values.shape[1] == 1:
            values = values[::-1].copy()
    else:
        values = np.zeros_like(values) if fault == "shift lost" else -values
    target.CopyFrom(numpy_helper.from_array(values, target.name))
    return None if np.array_equal(values, before) else wrong


def assert_localised(proto: ModelProto, holder: str, found: Any) -> None:
    """The first difference is what the faulty operator computes, or the next tensor that both models have."""
    assert found.verdict == "different", (holder, found.sentence())
    assert found.first_difference is not None
    order = [node.name for node in proto.graph.node]
    where = next(i for i, node in enumerate(proto.graph.node) if found.first_difference.tensor in node.output)
    assert where >= order.index(holder), found.sentence()
    reached = {output for node in proto.graph.node if node.name == holder for output in node.output}
    for node in proto.graph.node[order.index(holder) + 1 : where + 1]:
        if reached & set(node.input):
            reached.update(node.output)
    assert found.first_difference.tensor in reached, found.sentence()


@pytest.fixture(scope="module", params=["digits_cnn", "digits_repvgg", "mixed"])
def folding(request):
    """A model, what it is folded, and the names of the operators that took something in."""
    original = source(request.param)
    result = bnfold.fold(original)
    folded = result.model.to_proto()
    assert verify(original, folded, VerifyOptions(intermediates=True)).equivalent
    return original, folded, held_in(folded, result)


@pytest.mark.parametrize("fault", FAULTS)
def test_every_planted_fault_is_seen_and_found(folding, fault):
    original, folded, holders = folding
    tried = 0
    for holder in holders:
        wrong = planted(folded, holder, fault)
        if wrong is not None:
            assert_localised(wrong, holder, verify(original, wrong, VerifyOptions(intermediates=True)))
            tried += 1
    assert tried >= 2


@pytest.mark.parametrize("name", ["digits_cnn", "mixed"])
def test_keep_going_drops_the_faulty_steps_and_no_others(tmp_path, name):
    onnx.save(source(name), tmp_path / "in.onnx")
    steps = bnfold.fold(source(name)).plan.steps
    for number, holder in enumerate(
        dict.fromkeys(step.into[0] for step in steps if step.kind in ("backward", "forward"))
    ):
        faulty = {step.subject for step in steps if holder in step.into}
        with mistaken_about(holder):
            stopped = fold_file(tmp_path / "in.onnx", tmp_path / f"stopped_{number}.onnx")
            result = fold_file(tmp_path / "in.onnx", tmp_path / f"{number}.onnx", keep_going=True)
        assert stopped.path is None
        assert not (tmp_path / f"stopped_{number}.onnx").exists()
        assert {step.subject for step in stopped.culprits} <= faulty
        assert result.verification is not None
        assert result.verification.equivalent
        assert {step.subject for step in result.dropped} == faulty
        kept = {step.subject for step in result.plan.steps}
        assert {step.subject for step in steps} - kept == faulty
        assert verify(tmp_path / "in.onnx", tmp_path / f"{number}.onnx").equivalent
