"""Nets with unlevel weights, and who writes and reads each of their channels, told without any of bnfold's words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from helpers import Net, run
from onnx import ModelProto, numpy_helper

import bnfold
from bnfold.results import EqualizeResult

C = 4
SAME = [1, 1, 1, 1]


def unlevel(net: Net, *shape: int, bits: float = 4.0) -> np.ndarray:
    """Weights whose output channels, along the first axis, differ by up to that many bits either way."""
    factors = np.exp2(net.rng.uniform(-bits, bits, shape[0])).reshape(-1, *[1] * (len(shape) - 1))
    return (net.rng.normal(size=shape) * factors).astype(np.float32)


@dataclass
class LevelNet:
    """A net of convolutions on ``C`` channels whose tensors fall into classes: those of one share their scales."""

    net: Net
    classes: dict[str, str] = field(default_factory=dict)
    #: Convolution by name → the tensors it reads and writes.
    layers: dict[str, tuple[str, str]] = field(default_factory=dict)

    def input(self) -> str:
        return self.net.input(2, C, 6, 6, name="x")

    def conv(self, x: str, *, groups: int = 1, kernel: int = 1, bias: float = 0.0, bits: float = 4.0) -> str:
        weight = unlevel(self.net, C, C // groups, kernel, kernel, bits=bits)
        name = self.net.name("conv")
        pads = [kernel // 2] * 4
        extra = [self.net.draw(C) * np.float32(bias)] if bias else []
        y = str(self.net.op("Conv", x, self.net.const(weight, f"{name}_w"), *extra, name=name, group=groups, pads=pads))
        self.layers[name] = (x, y)
        return y

    def same(self, kind: str, *inputs: str, **attrs: Any) -> str:
        """An operator whose inputs and output have one scale."""
        y = str(self.net.op(kind, *inputs, **attrs))
        for tensor in inputs:
            if self.root(tensor) != y:
                self.classes[self.root(tensor)] = y
        return y

    def root(self, tensor: str) -> str:
        while tensor in self.classes:
            tensor = self.classes[tensor]
        return tensor


def imbalances(made: LevelNet, model: ModelProto, outputs: set[str]) -> dict[str, np.ndarray]:
    """By class of tensors, for each channel the bits by which what reads it exceeds what writes it.

    Classes of inputs and outputs, and weights from a class to itself, say nothing; nor do channels that nobody writes.
    """
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    held = {node.name: weights[node.input[1]] for node in model.graph.node if node.op_type == "Conv"}
    written, read = {}, {}
    for name, (x, y) in made.layers.items():
        weight = np.abs(held[name]).max(axis=(2, 3))
        groups = C // weight.shape[1]
        full = np.kron(np.eye(groups), np.ones((C // groups, weight.shape[1]))).astype(bool)
        table = np.zeros((C, C))
        table[full] = weight.reshape(-1)
        if made.root(x) == made.root(y):
            np.fill_diagonal(table, 0.0)
        written.setdefault(made.root(y), []).append(table.max(axis=1))
        read.setdefault(made.root(x), []).append(table.max(axis=0))
    ends = {made.root(tensor) for tensor in outputs}
    with np.errstate(divide="ignore"):
        return {
            key: np.log2(np.max(read[key], axis=0)) - np.log2(np.max(written[key], axis=0))
            for key in written
            if key in read and key not in ends
        }


def equalized(model: ModelProto, **options: Any) -> tuple[EqualizeResult, ModelProto]:
    result = bnfold.equalize(model, **options)
    return result, result.model.to_proto()


def same_bits(first: ModelProto, second: ModelProto, feeds: Mapping[str, np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(run(first, feeds), run(second, feeds), strict=True))
