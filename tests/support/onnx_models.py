"""Small ONNX models for the tests of reading and writing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper


def value(name: str, shape: Sequence[int | str | None], dtype: int = TensorProto.FLOAT) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def graph(
    nodes: Sequence[NodeProto],
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto],
    params: Mapping[str, Any] | None = None,
) -> GraphProto:
    initializers = [numpy_helper.from_array(np.asarray(array), name) for name, array in (params or {}).items()]
    return helper.make_graph(nodes, "graph", inputs, outputs, initializers)


def model(
    nodes: Sequence[NodeProto],
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto],
    params: Mapping[str, Any] | None = None,
    *,
    opset: int = 17,
    ir_version: int = 8,
    **fields: Any,
) -> ModelProto:
    opsets = fields.pop("opset_imports", [helper.make_opsetid("", opset)])
    proto = helper.make_model(graph(nodes, inputs, outputs, params), opset_imports=opsets, **fields)
    proto.ir_version = ir_version
    return proto


def conv_bn(channels: int = 16, seed: int = 0, **fields: Any) -> ModelProto:
    """Conv → BatchNormalization → Relu; the Conv's weight is large enough to stay out of the skeleton."""
    rng = np.random.default_rng(seed)
    params = {
        "weight": rng.standard_normal((channels, 3, 3, 3), dtype=np.float32),
        "gamma": rng.random(channels, dtype=np.float32) + 0.5,
        "beta": rng.standard_normal(channels, dtype=np.float32),
        "mean": rng.standard_normal(channels, dtype=np.float32),
        "variance": rng.random(channels, dtype=np.float32) + 0.5,
    }
    nodes = [
        helper.make_node("Conv", ["image", "weight"], ["conv_out"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node(
            "BatchNormalization", ["conv_out", "gamma", "beta", "mean", "variance"], ["bn_out"], name="bn"
        ),
        helper.make_node("Relu", ["bn_out"], ["result"], name="relu"),
    ]
    inputs, outputs = [value("image", ["N", 3, 8, 8])], [value("result", ["N", channels, 8, 8])]
    return model(nodes, inputs, outputs, params, **fields)


def run(source: ModelProto | Path, feeds: Mapping[str, Any]) -> list[Any]:
    """The outputs that onnxruntime computes, with its optimisations off."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    serialised = source.SerializeToString() if isinstance(source, ModelProto) else str(source)
    session = onnxruntime.InferenceSession(serialised, options, providers=["CPUExecutionProvider"])
    return session.run(None, dict(feeds))


def backend_files() -> list[Path]:
    """The model files that the onnx package ships for testing backends."""
    return sorted((Path(onnx.__file__).parent / "backend/test/data").rglob("*.onnx"))
