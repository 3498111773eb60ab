"""ONNX models with named layers: what the tests of the rules say is a name and a few numbers."""

from __future__ import annotations

from typing import Any

import helpers
import numpy as np
from onnx import ModelProto


class Net(helpers.Net):
    """Every method takes the layer's name and its input, and returns its output."""

    def start(self, *shape: int | str) -> str:
        """The model's input, ``[1, 3, 8, 8]`` by default."""
        return self.input(*(shape or (1, 3, 8, 8)), name="x")

    def conv(self, name: str, x: str, cin: int, cout: int, k: int = 3, *, bias: bool = False, **attrs: Any) -> str:
        weight = self.draw(cout, cin // attrs.get("group", 1), k, k)
        return str(self.op("Conv", x, weight, *([self.draw(cout)] if bias else []), name=name, **attrs))

    def gemm(self, name: str, x: str, cin: int, cout: int, *, bias: bool = False, **attrs: Any) -> str:
        return str(self.op("Gemm", x, self.draw(cin, cout), *([self.draw(cout)] if bias else []), name=name, **attrs))

    def matmul(self, name: str, x: str, cin: int, cout: int) -> str:
        return str(self.op("MatMul", x, self.draw(cin, cout), name=name))

    def norm(self, name: str, x: str, channels: int, **parts: Any) -> str:
        """A BN; ``gamma``, ``beta``, ``mean`` and ``variance`` replace what is drawn, the rest are attributes."""
        drawn = {
            "gamma": self.positive(channels),
            "beta": self.draw(channels),
            "mean": self.draw(channels),
            "variance": self.positive(channels),
        }
        values = [self.const(np.broadcast_to(parts.pop(key, value), channels)) for key, value in drawn.items()]
        return str(self.op("BatchNormalization", x, *values, name=name, **parts))

    def act(self, name: str, x: str, kind: str = "Relu", **attrs: Any) -> str:
        return str(self.op(kind, x, name=name, **attrs))

    def block(self, number: int, x: str, cin: int, cout: int, **attrs: Any) -> str:
        """``conv → bn → relu`` of that number, the convolution without a bias."""
        x = self.conv(f"conv_{number}", x, cin, cout, **attrs)
        return self.act(f"relu_{number}", self.norm(f"bn_{number}", x, cout))


def usual() -> ModelProto:
    """Two blocks in the usual order and a classifier with a bias: nothing to find but BN203."""
    net = Net()
    x = net.block(2, net.block(1, net.start(), 3, 8), 8, 8)
    x = net.op("Flatten", net.op("GlobalAveragePool", x))
    return net.build(net.gemm("classes", x, 8, 4, bias=True))
