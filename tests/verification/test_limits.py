"""Time limits, memory limits and crashes: a verdict, never a hang."""

from __future__ import annotations

import os
import stat
import time

import numpy as np
import pytest
from onnx import TensorProto, helper
from verification_models import cnn, folded, model, verify, weight, with_weight

from bnfold import isolation
from bnfold.errors import ModelFileError, UsageError

pytestmark = pytest.mark.slow


def endless():
    """Runs for ever: a Loop whose condition stays true."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["still"]), helper.make_node("Identity", ["v"], ["w"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, [2]),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, [2]),
        ],
    )
    return model(
        [helper.make_node("Loop", ["", "yes", "x"], ["y"], body=body)], {"x": [2]}, ["y"], {"yes": np.array(True)}
    )


def test_a_comparison_within_its_time_is_the_same_as_without_limit():
    wrong = with_weight(folded(cnn()), "bias1", weight(folded(cnn()), "bias1") + np.float32(0.1))
    for second in (cnn(), folded(cnn()), wrong):
        free, limited = (verify(cnn(), second, threads=1, feeds=4, timeout=timeout) for timeout in (None, 60))
        assert limited.verdict == free.verdict
        assert limited.outputs == free.outputs
        assert limited.feeds == free.feeds
        assert limited.first_difference == free.first_difference


def test_a_model_that_never_ends_is_not_verified_when_the_time_is_over():
    started = time.perf_counter()
    check = verify(endless(), endless(), timeout=2.5)
    assert check.verdict == "not verified"
    assert not check.equivalent
    assert check.reason == "the time limit of 2.5 s was reached"
    assert time.perf_counter() - started < 10


def test_own_inputs_reach_the_other_process(tmp_path):
    image = np.random.default_rng(0).random((1, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "image.npz", x=image)
    check = verify(cnn(), folded(cnn()), inputs=[{"x": image}, tmp_path / "image.npz", image], timeout=60)
    assert check.equivalent
    assert check.feeds.descriptions == ("the given inputs", str(tmp_path / "image.npz"), "the given inputs (2)")


def test_strings_reach_the_other_process():
    nodes = [
        helper.make_node(
            "LabelEncoder", ["x"], ["y"], domain="ai.onnx.ml", keys_strings=["a", "b"], values_floats=[1.0, 2.0]
        )
    ]
    proto = model(nodes, {"x": ["N"]}, ["y"], types={"x": TensorProto.STRING})
    proto.opset_import.append(helper.make_opsetid("ai.onnx.ml", 2))
    words = {"x": np.array(["a", "b", "c"], object)}
    assert verify(proto, proto, inputs=words, timeout=60).verdict == "equal"
    assert verify(proto, proto, timeout=60).verdict == "equal"


def test_errors_come_back_as_they_are(tmp_path):
    with pytest.raises(UsageError, match="the given inputs: the model has no input 'image'"):
        verify(cnn(), cnn(), inputs={"image": np.ones(3)}, timeout=60)
    text = tmp_path / "text.onnx"
    text.write_text("this is not a model, whatever its name says")
    with pytest.raises(ModelFileError, match="not an ONNX model"):
        verify(text, cnn(), timeout=60)


@pytest.mark.parametrize("timeout", [None, 60])
def test_ragged_inputs_are_an_error(timeout):
    with pytest.raises(UsageError, match="'x' is not a plain array"):
        verify(cnn(), cnn(), inputs={"x": [np.ones(2), np.ones(3)]}, timeout=timeout)


@pytest.mark.skipif(os.name != "posix", reason="address space is limited on POSIX systems")
@pytest.mark.parametrize("memory", [1, 10**6, 10**8])
def test_too_little_memory_to_begin_with_is_not_verified(memory):
    check = verify(cnn(), cnn(), memory=memory, feeds=1)
    assert check.verdict == "not verified"
    assert "memory" in check.reason


def test_too_little_memory_is_not_verified():
    large = model([helper.make_node("Expand", ["x", "s"], ["y"])], {"x": [1]}, ["y"], {"s": np.array([1 << 30])})
    check = verify(large, large, memory=2 << 30, timeout=60, feeds=1)
    assert check.verdict == "not verified"
    assert "memory" in check.reason
    assert verify(cnn(), cnn(), memory=8 << 30).equivalent


def fake_python(folder, script):
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@pytest.mark.skipif(os.name != "posix", reason="a shell script stands in for Python")
@pytest.mark.parametrize("name", ["SEGV", "ABRT", "KILL"])
def test_a_crash_of_the_runtime_is_not_verified(tmp_path, monkeypatch, name):
    monkeypatch.setattr(isolation.sys, "executable", fake_python(tmp_path, f"kill -{name} $$"))
    check = verify(cnn(), cnn(), timeout=60)
    assert check.verdict == "not verified"
    assert f"SIG{name}" in check.reason


@pytest.mark.skipif(os.name != "posix", reason="a shell script stands in for Python")
def test_a_mistake_of_our_own_is_not_passed_off_as_a_verdict(tmp_path, monkeypatch):
    monkeypatch.setattr(isolation.sys, "executable", fake_python(tmp_path, "echo it broke >&2; exit 1"))
    with pytest.raises(RuntimeError, match="it broke"):
        verify(cnn(), cnn(), timeout=60)


def test_modules_in_the_working_directory_are_not_imported(tmp_path, monkeypatch):
    (tmp_path / "onnx.py").write_text("raise SystemExit('imported from the working directory')")
    monkeypatch.chdir(tmp_path)
    assert verify(cnn(), cnn(), timeout=60).equivalent
