"""How long the walk over a remote model takes, against the shortest that it could: real layouts, several links.

    python benchmarks/remote_windows.py          # Keras's networks have the layouts, their weights are zeros

Requests and bytes are counted as the walk makes them; seconds are latency × requests + bytes / bandwidth. The shortest
time is that of who knows all sizes before, and reads through a payload exactly where that takes less than a request.
"""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

import fsspec  # noqa: E402
import keras  # noqa: E402
from onnx import TensorProto, helper  # noqa: E402
from resnet import resnet50  # noqa: E402

from bnfold.formats.onnx.ranges import Window  # noqa: E402
from bnfold.formats.onnx.wire import split  # noqa: E402
from bnfold.formats.remote import RemoteFile  # noqa: E402

#: Latency in seconds, bandwidth in bytes a second.
LINKS = {
    "1 ms, 1 GB/s": (0.001, 1e9), "5 ms, 200 MB/s": (0.005, 200e6), "20 ms, 100 MB/s": (0.02, 100e6),
    "20 ms, 20 MB/s": (0.02, 20e6), "100 ms, 10 MB/s": (0.1, 10e6), "200 ms, 2 MB/s": (0.2, 2e6),
}  # fmt: skip
NETWORKS = ("MobileNetV2", "EfficientNetB0", "NASNetMobile", "DenseNet121", "InceptionV3", "ConvNeXtTiny", "ResNet101")


def file_of(shapes: list[tuple[int, ...]], nodes: int) -> bytes:
    """An ONNX file with weights of these shapes in this order, and so many nodes before them."""
    tensors = [
        helper.make_tensor(f"weight_{number}", TensorProto.FLOAT, shape, bytes(4 * math.prod(shape)), raw=True)
        for number, shape in enumerate(shapes)
    ]
    chain = [helper.make_node("Relu", [f"layer_{n}/input"], [f"layer_{n}/output"], name=f"l{n}") for n in range(nodes)]
    return helper.make_model(helper.make_graph(chain, "g", [], [], tensors)).SerializeToString()


def models() -> dict[str, bytes]:
    found = {"ResNet50": resnet50().SerializeToString(), "ResNet50, a quarter": resnet50(0.25).SerializeToString()}
    for name in NETWORKS:
        model = getattr(keras.applications, name)(weights=None)
        found[name] = file_of([tuple(weight.shape) for weight in model.weights], len(model.layers))
        keras.backend.clear_session()
    wide, four = (768, 768), (768, 3072)
    block = [shape for _ in range(4) for shape in (wide, (768,))] + [(768,), (768,), four, (3072,), four, (768,)]
    found["BERT"] = file_of([(30522, 768), (512, 768), *block * 12], 500)
    return found


def walk(url: str, size: int, worth: int) -> tuple[int, int]:
    """Requests and bytes."""
    file = RemoteFile(url, size=size, weights=False, skip_from=worth)
    split(Window(file), size)
    return file.requests, file.bytes_read


def shortest(data: bytes, link: tuple[float, float]) -> float:
    """Seconds of who knows where everything lies."""
    latency, bandwidth = link
    end, seconds = 0, latency
    for entry in split(data, len(data)).ranges:
        seconds += (entry.offset - end) / bandwidth + min(latency, entry.length / bandwidth)
        end = entry.offset + entry.length
    return seconds + (len(data) - end) / bandwidth


def main() -> None:
    files = fsspec.filesystem("memory")
    found: dict[str, dict[str, list[float]]] = {}
    ratios, shares = [], []
    for name, data in models().items():
        files.pipe_file("/model.onnx", data)
        found[name] = {}
        for words, (latency, bandwidth) in LINKS.items():
            requests, size = walk("memory://model.onnx", len(data), int(latency * bandwidth))
            best = shortest(data, (latency, bandwidth))
            ratios.append((latency * requests + size / bandwidth) / best)
            shares.append(size / len(data))
            download = (latency + len(data) / bandwidth) / best
            found[name][words] = [round(value, 2) for value in (ratios[-1], shares[-1], download)]
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    print(json.dumps({"times the shortest, part of the bytes, times of a download": found}, indent=1))
    print(json.dumps({"mean": mean, "worst": max(ratios), "part of the bytes": sum(shares) / len(shares)}))


if __name__ == "__main__":
    main()
