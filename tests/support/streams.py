"""Residual streams of BN, as pre-activation networks have them, built from the operators of a :class:`Net`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from helpers import Folded, Net, fold
from onnx import ModelProto, numpy_helper
from onnx.reference import ReferenceEvaluator

#: The channels of a stream.
C = 6
SAME = [1] * 4


def conv(net: Net, x: str, channels: int = C, *, kernel: int = 1, width: int = C, **attrs: Any) -> str:
    """A convolution with small weights: what a block adds to its stream is small too."""
    weight = 0.3 * net.draw(channels, width, kernel, kernel)
    return str(net.op("Conv", x, weight, net.draw(channels), **attrs))


def activated(net: Net, x: str, bn: str, act: str = "Relu", gamma: Any = None, beta: Any = None) -> str:
    """BN and an activation; of ``gamma`` and ``beta`` the entries that are not NaN."""
    drawn = [net.positive(C), net.draw(C)]
    for vector, given in zip(drawn, (gamma, beta), strict=True):
        if given is not None:
            kept = np.isnan(np.asarray(given, np.float32))
            vector[~kept] = np.broadcast_to(np.asarray(given, np.float32), C)[~kept]
    norm = net.op("BatchNormalization", x, *drawn, net.draw(C), net.positive(C), name=bn)
    return str(net.op(act, norm))


def stem(net: Net) -> str:
    """The convolution that writes the stream first."""
    return conv(net, net.input("N", 3, 8, 8), width=3, kernel=3, pads=SAME)


def block(net: Net, x: str, bn: str, *, kernel: int = 3, **parameters: Any) -> str:
    """What is added to the stream: ``conv(relu(BN(x)))``."""
    return conv(net, activated(net, x, bn, **parameters), kernel=kernel, pads=[kernel // 2] * 4)


def head(net: Net, x: str, bn: str = "last") -> ModelProto:
    """The last BN, an average over the picture, and a classifier."""
    pooled = net.op("GlobalAveragePool", activated(net, x, bn))
    return net.build(net.op("Gemm", net.op("Flatten", pooled), net.draw(C, 4), net.draw(4)))


def stream(*blocks: Callable[[Net, str], str] | dict[str, Any], seed: int = 0) -> ModelProto:
    """A stream with these blocks: functions of it, or parameters of the BN in ``x + conv(relu(BN(x)))``."""
    net = Net(seed=seed)
    x = stem(net)
    for number, made in enumerate(blocks):
        x = net.op("Add", x, block(net, x, f"bn{number}", **made)) if isinstance(made, dict) else made(net, x)
    return head(net, x)


def together(folded: Folded) -> dict[str, str]:
    """For each affine that stays why it cannot go with its stream."""
    return {item.label: item.together.sentence for item in folded.plan.remaining if item.together is not None}


def in_float64(model: ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The outputs, every float32 constant and input widened and every operator computed in float64."""
    wide = ModelProto()
    wide.CopyFrom(model)
    for tensor in wide.graph.initializer:
        value = numpy_helper.to_array(tensor)
        if value.dtype == np.float32:
            tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float64), tensor.name))
    for value in (*wide.graph.input, *wide.graph.output):
        value.type.tensor_type.elem_type = 11
    del wide.graph.value_info[:]
    given = {name: value.astype(np.float64) for name, value in feeds.items()}
    return list(ReferenceEvaluator(wide).run(None, given))


def gone(model: ModelProto, *kinds: str, **options: Any) -> Folded:
    """Fold, and assert that none of these operators (BatchNormalization by default) is left."""
    folded = fold(model, **options)
    assert folded.count(*(kinds or ("BatchNormalization",))) == 0, folded.sentences
    return folded


def deviations(before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> float:
    """The largest difference relative to the range of its output."""
    return max(float(np.abs(a - b).max() / np.abs(a).max()) for a, b in zip(before, after, strict=True))
