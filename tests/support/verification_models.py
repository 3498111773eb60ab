"""Small ONNX models for the tests of verification, built by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from helpers import constant
from onnx import TensorProto, helper, numpy_helper

from bnfold import verification
from bnfold.verification import RuntimeCheck, Verification, VerifyOptions

FLOAT = TensorProto.FLOAT


def verify(a: Any, b: Any, **settings: Any) -> Verification:
    """The verdict under the options of these names."""
    return verification.verify(a, b, VerifyOptions(**settings))


def check_runtime(model: Any, **settings: Any) -> RuntimeCheck:
    return verification.check_runtime(model, VerifyOptions(**settings))


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[Any] | None],
    outputs: Sequence[str],
    weights: Mapping[str, Any] | None = None,
    *,
    types: Mapping[str, int] | None = None,
    value_info: Mapping[str, Sequence[Any]] | None = None,
    opset: int = 17,
) -> onnx.ModelProto:
    """A model; tensors are float32 unless ``types`` says otherwise. Outputs carry no shape."""
    kinds = dict(types or {})

    def info(name: str, shape: Sequence[Any] | None) -> onnx.ValueInfoProto:
        # None: of unknown rank.
        return helper.make_tensor_value_info(name, kinds.get(name, FLOAT), shape)

    graph = helper.make_graph(
        list(nodes),
        "g",
        [info(name, shape) for name, shape in inputs.items()],
        [info(name, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (weights or {}).items()],
        value_info=[info(name, shape) for name, shape in (value_info or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def cnn(seed: int = 0, *, channels: int = 6, batch: Any = "N") -> onnx.ModelProto:
    """Conv, BN, Relu, Conv, BN, Relu, GlobalAveragePool, Flatten, Gemm: every tensor and node is named."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    weights: dict[str, np.ndarray] = {}
    nodes = []
    source, width = "x", 3
    for index in (1, 2):
        weights[f"w{index}"] = draw(channels, width, 3, 3)
        nodes.append(helper.make_node("Conv", [source, f"w{index}"], [f"c{index}"], name=f"conv{index}", pads=[1] * 4))
        for part in ("gamma", "beta", "mean"):
            weights[f"{part}{index}"] = draw(channels, 1)[:, 0] + np.float32(part == "gamma")
        weights[f"var{index}"] = (rng.random(channels) + 0.5).astype(np.float32)
        names = [f"{part}{index}" for part in ("gamma", "beta", "mean", "var")]
        nodes.append(helper.make_node("BatchNormalization", [f"c{index}", *names], [f"b{index}"], name=f"bn{index}"))
        nodes.append(helper.make_node("Relu", [f"b{index}"], [f"r{index}"], name=f"relu{index}"))
        source, width = f"r{index}", channels
    nodes.append(helper.make_node("GlobalAveragePool", [source], ["p"], name="pool"))
    nodes.append(helper.make_node("Flatten", ["p"], ["f"], name="flatten"))
    weights["w3"], weights["bias3"] = draw(channels, 5), draw(5, 1)[:, 0]
    nodes.append(helper.make_node("Gemm", ["f", "w3", "bias3"], ["y"], name="head"))
    return model(nodes, {"x": [batch, 3, 8, 8]}, ["y"], weights)


def weight(proto: onnx.ModelProto, name: str) -> np.ndarray:
    return constant(proto, name).copy()


def with_weight(proto: onnx.ModelProto, name: str, values: np.ndarray) -> onnx.ModelProto:
    """A copy with one initializer replaced (or added)."""
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    kept = [tensor for tensor in changed.graph.initializer if tensor.name != name]
    del changed.graph.initializer[:]
    changed.graph.initializer.extend([*kept, numpy_helper.from_array(values, name)])
    return changed


def folded(proto: onnx.ModelProto) -> onnx.ModelProto:
    """``cnn`` with each BN in the Conv before it, in float64, rounded once: the Conv produces the BN's output."""
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    nodes = []
    for node in proto.graph.node:
        if node.op_type == "BatchNormalization":
            index = node.name[-1]
            gamma, beta, mean, var = (weight(proto, f"{part}{index}").astype(np.float64) for part in _PARTS)
            scale = gamma / np.sqrt(var + 1e-5)
            kernel = weight(proto, f"w{index}").astype(np.float64) * scale[:, None, None, None]
            result = with_weight(result, f"w{index}", kernel.astype(np.float32))
            result = with_weight(result, f"bias{index}", (beta - mean * scale).astype(np.float32))
            conv = nodes[-1]
            conv.input.append(f"bias{index}")
            conv.output[0] = node.output[0]
            continue
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        nodes.append(copy)
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    return result


_PARTS = ("gamma", "beta", "mean", "var")
