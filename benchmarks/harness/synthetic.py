"""Made-up models of any size: deep ones with tiny weights, and heavy ones with large weights.

    python synthetic.py nodes 100000 OUT.onnx
    python synthetic.py affines 100000 OUT.onnx
    python synthetic.py bytes 4000000000 OUT.onnx

``nodes`` and ``bytes`` are blocks of ``Conv → BN → Relu``, every third with a shortcut; ``affines`` is a row of Mul,
each by a vector of its own. Above one gigabyte the weights go into a file of their own beside the model. Run as a
process of its own, whose memory goes with it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import BinaryIO

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, save

_CHANNELS = 4
_EXTERNAL_FROM = 1 << 30
_LARGEST_WEIGHT = 1 << 26
_CHUNK = 1 << 22


class _Net:
    """Blocks in a row; ``channels`` stays the same."""

    def __init__(self, channels: int) -> None:
        self.channels = channels
        self.rng = np.random.default_rng(0)
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self._tensor = self._shortcut = "x"

    def block(self, weight: TensorProto) -> None:
        index = len(self.constants)
        statistics = [f"{kind}_{index}" for kind in ("gamma", "beta", "mean", "variance")]
        values = self.rng.uniform(0.5, 1.5, (4, self.channels)).astype(np.float32)
        self.constants += [weight, *map(numpy_helper.from_array, values, statistics)]
        self._add("Conv", weight.name)
        self._add("BatchNormalization", *statistics)
        self._add("Relu")
        if index % 15 == 10:  # every third block: five constants each
            self._add("Add", self._shortcut)
            self._shortcut = self._tensor

    def _add(self, kind: str, *more: str) -> None:
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, [self._tensor, *more], [f"{name}_out"], name=name))
        self._tensor = f"{name}_out"

    def multiply(self) -> None:
        factor = self.rng.uniform(0.999, 1.001, (self.channels, 1, 1)).astype(np.float32)
        self.constants.append(numpy_helper.from_array(factor, f"factor_{len(self.nodes)}"))
        self._add("Mul", self.constants[-1].name)

    def model(self) -> ModelProto:
        shape: list[str | int | None] = ["N", self.channels, 8, 8]
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", self._tensor)]
        graph = helper.make_graph(self.nodes, "synthetic", ends[:1], ends[1:], self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        model.ir_version = 8
        return model


def with_nodes(count: int, path: Path) -> None:
    """A model of about ``count`` nodes."""
    net = _Net(_CHANNELS)
    shape = (_CHANNELS, _CHANNELS, 1, 1)
    while len(net.nodes) < count:
        weight = net.rng.standard_normal(shape).astype(np.float32)
        net.block(numpy_helper.from_array(weight, f"weight_{len(net.nodes)}"))
    save(net.model(), path)


def with_affines(count: int, path: Path) -> None:
    """A model of ``count`` affines in a row."""
    net = _Net(_CHANNELS)
    for _ in range(count):
        net.multiply()
    save(net.model(), path)


def with_bytes(size: int, path: Path) -> None:
    """A model with about ``size`` bytes of float32 weights, at most 64 MB in one."""
    channels = int((min(size // 4, _LARGEST_WEIGHT) // 4) ** 0.5)
    net = _Net(channels)
    length = channels * channels * 4
    payload = np.resize(net.rng.standard_normal(_CHUNK // 4).astype(np.float32) / channels**0.5, length // 4).tobytes()
    external = size > _EXTERNAL_FROM
    data = path.with_name(f"{path.name}.data")
    with data.open("wb") as file:
        for index in range(max(1, round(size / length))):
            weight = TensorProto(name=f"weight_{index}", data_type=TensorProto.FLOAT, dims=[channels, channels, 1, 1])
            if external:
                _write_external(weight, payload, file)
            else:
                weight.raw_data = payload
            net.block(weight)
    if not external:
        data.unlink()
    path.write_bytes(net.model().SerializeToString())


def _write_external(weight: TensorProto, payload: bytes, file: BinaryIO) -> None:
    weight.data_location = TensorProto.EXTERNAL
    entries = {"location": Path(file.name).name, "offset": str(file.tell()), "length": str(len(payload))}
    for key, value in entries.items():
        weight.external_data.add(key=key, value=value)
    file.write(payload)


if __name__ == "__main__":
    make = {"nodes": with_nodes, "affines": with_affines, "bytes": with_bytes}[sys.argv[1]]
    make(int(float(sys.argv[2])), Path(sys.argv[3]))
