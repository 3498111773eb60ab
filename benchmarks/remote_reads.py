"""What an analysis of a remote model fetches: a ResNet50 of 102 MB on an S3 server (moto's), in three ways.

    python benchmarks/remote_reads.py

Bytes and requests hold for any server. Seconds are those of moto's, which copies the whole object for every range;
what they would be elsewhere is latency × requests + bytes / bandwidth, for the two that are printed for common links.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

import fsspec  # noqa: E402
import s3  # noqa: E402
from resnet import resnet50  # noqa: E402

import bnfold  # noqa: E402
from bnfold.formats.remote import RemoteFile  # noqa: E402

#: Latency in seconds and bandwidth in bytes a second: within a data centre, and from one to another.
LINKS = {"20 ms, 100 MB/s": (0.02, 100e6), "100 ms, 10 MB/s": (0.1, 10e6)}
URL = "s3://models/resnet50.onnx"


def ways(link: tuple[float, float]) -> dict[str, dict[str, Any]]:
    """Options of a remote read, for a link whose round trip is worth latency × bandwidth."""
    return {"worth of a round trip": {"skip_from": int(link[0] * link[1])}, "spare bytes": {"spare_bytes": True}}


def main() -> None:
    data = resnet50().SerializeToString()
    found: dict[str, Any] = {"file": len(data)}
    with s3.s3_server() as address:
        os.environ.update(s3.environment(address))
        files = fsspec.filesystem("s3", skip_instance_cache=True, endpoint_url=address)
        files.mkdir("models")
        files.pipe_file("models/resnet50.onnx", data)
        start = time.monotonic()
        assert len(files.cat_file("models/resnet50.onnx")) == len(data)
        found["download"] = {"bytes": len(data), "requests": 1, "seconds": time.monotonic() - start}
        for name, link in LINKS.items():
            for way, options in ways(link).items():
                file = RemoteFile(URL, size=len(data), weights=False, **options)
                bnfold.analyze(file)
                traffic = file.traffic()
                sequential = link[0] * traffic["requests"] + traffic["bytes"] / link[1]
                share = traffic["bytes"] / len(data)
                found[f"{way}, {name}"] = {**traffic, "share": share, "seconds there": sequential}
            found[f"download, {name}"] = {"seconds there": link[0] + len(data) / link[1]}
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
