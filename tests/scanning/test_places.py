"""Where folded models are put: whole or not at all, under names of their own, and never scanned themselves."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import fsspec
import onnx
import pytest
import s3
from onnx_models import conv_bn
from process import command, environment, names

from bnfold import fold_file, scan
from bnfold.errors import UsageError

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="fork servers are Linux's")]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bnfold.scanning.discovery._SETTLED", 0.0)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    onnx.save(conv_bn(), tmp_path / "models" / "a.onnx")
    onnx.save(conv_bn(channels=8), tmp_path / "models" / "b.onnx")
    return tmp_path / "models"


def found(*targets: str | Path, fold_to: str) -> list[str]:
    return sorted(Path(row.path).name for row in scan(targets, store="s.sqlite", fold_to=fold_to, refresh=True))


@pytest.mark.parametrize("target", ["models", "models/**/*.onnx", "./models/*"])
def test_results_below_a_target_are_not_scanned(models: Path, target: str) -> None:
    for _ in range(2):
        assert found(target, fold_to="models/folded") == ["a.onnx", "b.onnx"]
    assert names(models) == ["a.onnx", "b.onnx", "folded", "folded/a.onnx", "folded/b.onnx"]


def test_results_below_a_url_are_not_scanned(models: Path) -> None:
    url = models.as_uri()
    for target in (url, f"{url}/**/*.onnx"):
        for _ in range(2):
            assert found(target, fold_to=f"{url}/folded") == ["a.onnx", "b.onnx"]
    assert names(models) == ["a.onnx", "b.onnx", "folded", "folded/a.onnx", "folded/b.onnx"]


def test_what_lies_among_results_is_scanned_where_it_is_named(models: Path) -> None:
    assert found("models", fold_to="models/folded") == ["a.onnx", "b.onnx"]
    assert found("models/folded/a.onnx", fold_to="models/folded") == ["a.onnx"]
    with pytest.raises(
        UsageError, match="models/folded is what is scanned, so that results need a folder of their own"
    ):
        found("models/folded", fold_to="models/folded")


@contextmanager
def relay(address: str, limit: int) -> Iterator[tuple[str, threading.Event]]:
    """A way to a server on which nothing more goes there after so many bytes; the event says when that is."""
    host, _, port = address.removeprefix("http://").partition(":")
    stopped = threading.Event()
    left = [limit]

    def pump(source: socket.socket, target: socket.socket, counts: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if counts:
                    left[0] -= len(data)
                    if left[0] < 0:
                        stopped.set()
                        return
                target.sendall(data)

    def accept() -> None:
        with suppress(OSError):
            while True:
                client, _ = listening.accept()
                server = socket.create_connection((host, int(port)))
                for pair in ((client, server, True), (server, client, False)):
                    threading.Thread(target=pump, args=pair, daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", stopped


def test_a_reader_of_a_bucket_never_sees_half_an_object(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """kill -9 in the middle of an upload, and once more from the beginning."""
    onnx.save(conv_bn(channels=30_000), models / "a.onnx")
    with s3.s3_server() as address:
        for name, value in s3.environment(address).items():
            monkeypatch.setenv(name, value)
        files = fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False, endpoint_url=address)
        files.mkdir("bucket")
        arguments = ["scan", "models/a.onnx", "--fold-to", "s3://bucket/folded"]
        with relay(address, 500_000) as (slow, stopped):
            process = subprocess.Popen(
                command(*arguments), env=environment(**s3.environment(slow)), stderr=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )  # fmt: skip
            assert stopped.wait(60)
            assert files.find("bucket") == []
            process.kill()
            process.wait()
            time.sleep(0.5)
            assert files.find("bucket") == []
        assert subprocess.run(command(*arguments), env=environment(), capture_output=True, check=False).returncode == 0
        assert files.find("bucket") == ["bucket/folded/a.onnx"]
        fold_file("models/a.onnx", "here.onnx")
        assert files.cat_file("bucket/folded/a.onnx") == Path("here.onnx").read_bytes()
        assert len(Path("here.onnx").read_bytes()) > 1_000_000


def test_external_data_is_put_beside_a_folded_model(models: Path) -> None:
    onnx.save(conv_bn(channels=64), models / "a.onnx", save_as_external_data=True, location="w.data", size_threshold=0)
    (models / "b.onnx").unlink()
    url = Path("folded").absolute().as_uri()
    assert found("models", fold_to=url) == ["a.onnx"]
    assert names(Path("folded")) == ["a.onnx", "a.onnx.data"]
    assert {node.op_type for node in onnx.load("folded/a.onnx").graph.node} == {"Conv", "Relu"}
