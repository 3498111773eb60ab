"""Timing two models side by side."""

from __future__ import annotations

import json

import numpy as np
import pytest
from onnx import helper
from verification_models import cnn, folded, model

from bnfold.errors import UsageError
from bnfold.verification import VerifyOptions, latency


def work(count):
    nodes = [helper.make_node("MatMul", ["x" if i == 0 else f"h{i}", "w"], [f"h{i + 1}"]) for i in range(count)]
    nodes.append(helper.make_node("Identity", [f"h{count}"], ["y"]))
    return model(nodes, {"x": [256, 256]}, ["y"], {"w": np.eye(256, dtype=np.float32)})


def test_the_faster_model_is_faster(monkeypatch):
    def by_size(session, feed):
        """A run takes a millisecond for each node, whatever else the machine does."""
        session.run(feed)
        return len(session._model.skeleton.graph.node) * 1e-3

    monkeypatch.setattr("bnfold.verification.timing._timed", by_size)
    found = latency(work(11), work(2), runs=15)
    assert (found.first_ms, found.second_ms, found.runs) == (12.0, 3.0, 15)
    assert found.ratio == 4.0
    assert "4.00 times as fast" in found.sentence()
    assert json.loads(json.dumps(found.to_dict()))["ratio"] == found.ratio


def test_times_are_taken_of_both():
    found = latency(work(1), work(1), runs=3)
    assert found.first_ms > 0
    assert found.second_ms > 0


def test_a_folded_model_can_be_timed_with_own_inputs_and_other_names():
    image = np.ones((4, 3, 8, 8), np.float32)
    found = latency(cnn(), folded(cnn()), VerifyOptions(inputs={"x": image}, threads=1), runs=3)
    assert found.feed == "the given inputs"
    assert found.threads == 1


def test_the_number_of_runs_follows_the_cost(monkeypatch):
    monkeypatch.setattr("bnfold.verification.timing._BUDGET", 0.0)
    assert latency(cnn(), cnn()).runs == 10
    monkeypatch.setattr("bnfold.verification.timing._BUDGET", 1e9)
    monkeypatch.setattr("bnfold.verification.timing._MOST", 12)
    assert latency(cnn(), cnn()).runs == 12


def test_models_that_cannot_be_compared_are_an_error():
    custom = model([helper.make_node("Mystery", ["x"], ["y"], domain="my.own")], {"x": [1]}, ["y"])
    custom.opset_import.append(helper.make_opsetid("my.own", 1))
    with pytest.raises(UsageError, match="latency cannot be measured: onnxruntime cannot load the original"):
        latency(custom, cnn())
    with pytest.raises(UsageError, match="latency cannot be measured"):
        latency(cnn(), custom)
    with pytest.raises(UsageError, match="rank"):
        latency(cnn(), work(1))
