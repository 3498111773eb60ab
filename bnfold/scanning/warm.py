"""Imported by the fork server: a small model is analyzed and folded, so that every module is there that jobs need.

Most of bnfold imports what it needs when it needs it; in a process for each model that would be every time.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

import bnfold.scanning.work  # noqa: F401  what jobs call
from bnfold import api


def _small() -> bytes:
    """Conv, BN and ReLU."""
    value = helper.make_tensor_value_info
    tensors = [numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in _PARAMETERS.items()]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv"),
        helper.make_node("BatchNormalization", ["c", "gamma", "beta", "mean", "variance"], ["b"], name="bn"),
        helper.make_node("Relu", ["b"], ["y"], name="relu"),
    ]
    shape = [1, 2, 4, 4]
    graph = helper.make_graph(
        nodes, "warm", [value("x", TensorProto.FLOAT, shape)], [value("y", TensorProto.FLOAT, shape)], tensors
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


_PARAMETERS = {"w": (2, 2, 1, 1), **dict.fromkeys(("gamma", "beta", "mean", "variance"), (2,))}

_data = _small()
api.analyze(_data).to_dict()
api.fold(_data)
