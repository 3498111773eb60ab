"""ResNet50 as exporters write it, with random weights: 53 convolutions, 53 BN, 102 MB."""

from __future__ import annotations

import numpy as np
from helpers import Net
from onnx import ModelProto

#: Blocks, channels and stride of each stage.
STAGES = ((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2))


def resnet50(width: float = 1.0) -> ModelProto:
    """The model; ``width`` scales its channels."""
    draw = np.random.default_rng(0)
    net = Net()

    def conv(x: str, inputs: int, outputs: int, size: int, stride: int = 1, relu: bool = True) -> str:
        weight = draw.standard_normal((outputs, inputs, size, size)).astype(np.float32) * 0.02
        pads = [size // 2] * 4
        x = net.op("Conv", x, net.const(weight), strides=[stride, stride], pads=pads, kernel_shape=[size, size])
        vectors = [
            1 + 0.1 * draw.random(outputs),
            draw.random(outputs),
            draw.random(outputs),
            0.5 + draw.random(outputs),
        ]
        x = net.op("BatchNormalization", x, *(net.const(vector.astype(np.float32)) for vector in vectors))
        return net.op("Relu", x) if relu else x

    first = int(64 * width)
    x = conv(net.input(1, 3, 224, 224), 3, first, 7, 2)
    x = net.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    inputs = first
    for blocks, channels, stride in STAGES:
        inner = int(channels * width)
        for block in range(blocks):
            step = stride if block == 0 else 1
            side = conv(x, inputs, 4 * inner, 1, step, relu=False) if block == 0 else x
            y = conv(conv(x, inputs, inner, 1), inner, inner, 3, step)
            x = net.op("Relu", net.op("Add", conv(y, inner, 4 * inner, 1, relu=False), side))
            inputs = 4 * inner
    x = net.op("Flatten", net.op("GlobalAveragePool", x))
    head = draw.standard_normal((1000, inputs)).astype(np.float32) * 0.02
    return net.build(net.op("Gemm", x, net.const(head), net.const(np.zeros(1000, np.float32)), transB=1))
