"""A model on which onnxruntime never comes to an end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from helpers import Net
from onnx import TensorProto


def endless(path: Path) -> Path:
    """A model that runs for ever: Conv, BN and a Loop whose condition stays true."""
    net = Net()
    x = net.bn(net.op("Conv", net.input(1, 3, 8, 8), net.draw(4, 3, 3, 3), name="conv"), 4)
    make, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    scalars = [
        value("i", TensorProto.INT64, []),
        value("go", TensorProto.BOOL, []),
        value("still", TensorProto.BOOL, []),
    ]
    tensors = [value(name, TensorProto.FLOAT, [1, 4, 6, 6]) for name in ("v", "w", "forever")]
    nodes = [make("Identity", ["go"], ["still"]), make("Identity", ["v"], ["w"])]
    body = onnx.helper.make_graph(nodes, "body", [*scalars[:2], tensors[0]], [scalars[2], tensors[1]])
    proto = net.build(x)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "yes"))
    proto.graph.node.append(make("Loop", ["", "yes", x], ["forever"], body=body))
    del proto.graph.output[:]
    proto.graph.output.append(tensors[2])
    onnx.save(proto, path)
    return path
