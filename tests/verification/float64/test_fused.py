"""What onnxruntime's optimiser writes, evaluated as onnxruntime itself does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import Net, random_feeds, run

from bnfold.verification.float64 import Evaluator, NotEvaluatedError

FUSED: dict[str, tuple[str, list[list[int]], dict[str, Any]]] = {
    "Conv": ("FusedConv", [[2, 3, 5, 5], [4, 3, 3, 3], [4]], {"pads": [1, 0, 0, 1], "strides": [2, 1]}),
    "Conv, Relu": ("FusedConv", [[2, 3, 5, 5], [4, 3, 2, 2], [4]], {"activation": "Relu"}),
    "Conv, Add, Relu": ("FusedConv", [[2, 3, 5, 5], [4, 3, 1, 1], [4], [2, 4, 5, 5]], {"activation": "Relu"}),
    "Conv, LeakyRelu": (
        "FusedConv", [[2, 3, 5, 5], [4, 3, 2, 2]], {"activation": "LeakyRelu", "activation_params": [0.3]}
    ),
    "Conv, Clip": (
        "FusedConv", [[2, 3, 5, 5], [4, 3, 2, 2]], {"activation": "Clip", "activation_params": [-0.5, 1.5]}
    ),
    "Conv, HardSigmoid": (
        "FusedConv", [[2, 3, 5, 5], [4, 3, 2, 2]], {"activation": "HardSigmoid", "activation_params": [0.1, 0.4]}
    ),
    "Gemm, Relu": ("FusedGemm", [[2, 3], [5, 3], [5]], {"activation": "Relu", "transB": 1, "alpha": 0.5}),
    "Gemm, LeakyRelu": ("FusedGemm", [[2, 3], [3, 5]], {"activation": "LeakyRelu", "activation_alpha": 0.3}),
    "MatMul": ("FusedMatMul", [[2, 3, 4], [4, 5]], {"alpha": 0.25}),
    "MatMul, the left one turned": ("FusedMatMul", [[2, 4, 3], [4, 5]], {"transA": 1}),
    "MatMul, the right one turned": ("FusedMatMul", [[2, 3, 4], [2, 5, 4]], {"transB": 1, "alpha": -2.0}),
    "Gelu": ("Gelu", [[2, 3, 4]], {}),
    "BiasGelu": ("BiasGelu", [[2, 3, 4], [4]], {}),
    "FastGelu": ("FastGelu", [[2, 3, 4]], {}),
    "FastGelu, bias": ("FastGelu", [[2, 3, 4], [4]], {}),
    "QuickGelu": ("QuickGelu", [[2, 3, 4]], {}),
    "QuickGelu, alpha": ("QuickGelu", [[2, 3, 4]], {"alpha": 1.2}),
    "SkipLayerNormalization": ("SkipLayerNormalization", [[2, 3, 4], [2, 3, 4], [4]], {"epsilon": 1e-3}),
    "SkipLayerNormalization, all": ("SkipLayerNormalization", [[2, 3, 4], [2, 3, 4], [4], [4], [4]], {}),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "shapes", "attributes"), FUSED.values(), ids=FUSED)
def test_the_value_is_onnxruntimes(kind, shapes, attributes):
    net = Net(opset=17)
    net.domains["com.microsoft"] = 1
    inputs = [net.input(*shape) for shape in shapes]
    net.output(net.op(kind, *inputs, domain="com.microsoft", **attributes), shape=list("abcd")[: len(shapes[0])])
    proto = net.build()
    feeds = random_feeds(proto, seed=3)
    (expected,), (found,) = run(proto, feeds), Evaluator(proto).run(feeds).values()
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_the_sum_of_a_skip_is_its_fourth_output():
    net = Net(opset=17)
    net.domains["com.microsoft"] = 1
    inputs = [net.input(*shape) for shape in ([2, 3, 4], [2, 3, 4], [4])]
    outputs = ["y", "", "", "total"]
    net.op("SkipLayerNormalization", *inputs, outputs=outputs, domain="com.microsoft")
    net.output("y", "total", shape=[2, 3, 4])
    proto = net.build()
    feeds = random_feeds(proto, seed=3)
    for expected, found in zip(run(proto, feeds), Evaluator(proto).run(feeds).values(), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "attributes", "words"),
    [("FusedMatMul", {"transBatchA": 1}, "transposed batches"), ("FusedGemm", {"activation": "Nothing"}, "Nothing")],
)
def test_what_is_not_known_is_named(kind, attributes, words):
    net = Net(opset=17)
    net.domains["com.microsoft"] = 1
    net.output(net.op(kind, net.input(3, 3), net.input(3, 3), domain="com.microsoft", **attributes), shape=[3, 3])
    proto = net.build()
    with pytest.raises(NotEvaluatedError, match=words):
        Evaluator(proto).run(random_feeds(proto))
