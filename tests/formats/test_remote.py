"""Models elsewhere: what is fetched is counted, and what is said of the model is what is said of the file here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import fsspec
import numpy as np
import onnx
import pytest
import s3
from command_line import SAMPLES
from command_line import bnfold as command
from fsspec.spec import AbstractBufferedFile
from onnx_models import conv_bn
from resnet import resnet50

import bnfold
from bnfold.errors import MissingExtraError, ModelFileError, UsageError
from bnfold.formats.onnx import wire
from bnfold.formats.onnx.ranges import Window
from bnfold.formats.onnx.wire import split
from bnfold.formats.remote import RemoteFile, beside, client_modules, name_of, of_one_process


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    files = fsspec.filesystem("memory")
    files.store.clear()
    yield files
    files.store.clear()


def put(files: fsspec.AbstractFileSystem, name: str, model: onnx.ModelProto | bytes) -> str:
    files.pipe_file(f"/{name}", model if isinstance(model, bytes) else model.SerializeToString())
    return f"memory://{name}"


@pytest.mark.parametrize("worth", [1, 100, 5000, 1 << 20])
def test_the_skeleton_is_that_of_the_whole_file(memory, monkeypatch: pytest.MonkeyPatch, worth: int) -> None:
    data = resnet50(0.125).SerializeToString()
    url = put(memory, "a.onnx", data)
    monkeypatch.setattr("bnfold.formats.onnx.ranges._LEAST", worth)
    monkeypatch.setattr(wire.os, "urandom", lambda count: bytes(count))
    file = RemoteFile(url, skip_from=8 * worth)
    window = Window(file)
    assert split(window, file.size) == split(data, len(data))
    draw = np.random.default_rng(worth)
    for _ in range(200):
        start, stop = sorted(draw.integers(0, len(data), 2))
        assert window[start:stop] == data[start:stop]
    assert window[:] == data
    assert file.bytes_read == len(data)  # nothing was fetched twice


@pytest.mark.parametrize("options", [{}, {"weights": False}, {"weights": False, "spare_bytes": True}])
def test_the_report_is_that_of_the_file_here(memory, tmp_path: Path, options: dict[str, bool]) -> None:
    proto = resnet50(0.25)
    url = put(memory, "a.onnx", proto)
    onnx.save(proto, tmp_path / "a.onnx")
    here = bnfold.analyze(tmp_path / "a.onnx")
    there = bnfold.analyze(RemoteFile(url, **options))
    assert len(here.batchnorms) == 53
    assert replace(there, model="") == replace(here, model="")


def test_small_files_take_one_request(memory) -> None:
    file = RemoteFile(put(memory, "a.onnx", conv_bn()), weights=False)
    bnfold.analyze(file)
    assert file.requests == 2  # its size, and all of it


def test_a_model_from_a_url_is_whole(memory, tmp_path: Path) -> None:
    proto = conv_bn(channels=64)
    model = bnfold.load(put(memory, "a.onnx", proto))
    model.save(tmp_path / "a.onnx")
    assert onnx.load(tmp_path / "a.onnx") == proto
    assert bnfold.fold(model, verify=True).verification.equivalent


def test_a_model_without_its_weights_is_not_written(memory, tmp_path: Path) -> None:
    proto = conv_bn(channels=256)
    model = bnfold.load(RemoteFile(put(memory, "a.onnx", proto), weights=False))
    with pytest.raises(UsageError, match=r"memory://a\.onnx was read without its weights"):
        model.save(tmp_path / "a.onnx")


def test_rules_about_weights_that_were_not_read_say_nothing(memory) -> None:
    """The scales of this BN spread any equal weights over 20 bits."""
    proto = conv_bn(channels=1024)
    for tensor in proto.graph.initializer:
        if len(tensor.dims) == 1 and "gamma" in tensor.name.lower():
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.geomspace(1e-3, 1e3, 1024).astype(np.float32), tensor.name))
    url = put(memory, "a.onnx", proto)
    codes = [{f.code for f in bnfold.analyze(RemoteFile(url, weights=weights)).findings} for weights in (True, False)]
    assert "BN305" in codes[0]
    assert "BN305" not in codes[1]


def test_external_data_stays_where_it_is_but_for_vectors(memory, tmp_path: Path) -> None:
    proto = conv_bn(channels=512)
    onnx.save(proto, tmp_path / "a.onnx", save_as_external_data=True, location="a.data", size_threshold=0)
    for name in ("a.onnx", "a.data"):
        put(memory, f"folder/{name}", (tmp_path / name).read_bytes())
    here, there = (
        bnfold.analyze(tmp_path / "a.onnx"),
        bnfold.analyze(RemoteFile("memory://folder/a.onnx", weights=False)),
    )
    assert replace(there, model="") == replace(here, model="")


def test_external_data_outside_of_the_folder_is_refused(memory, tmp_path: Path) -> None:
    onnx.save(conv_bn(), tmp_path / "a.onnx", save_as_external_data=True, location="a.data", size_threshold=0)
    data = (tmp_path / "a.onnx").read_bytes().replace(b"a.data", b"../a.d")
    with pytest.raises(ModelFileError, match="outside of the model's directory"):
        bnfold.load(put(memory, "folder/a.onnx", data))


def test_clients_are_known_before_they_are_needed() -> None:
    assert client_modules(["s3://a/b", "s3a://c", "nowhere://d", "folder", "memory://e"]) == ("s3fs",)


class _Buffered(fsspec.AbstractFileSystem):
    """A client that reads as Hugging Face's does: through files that fetch blocks ahead."""

    protocol = "buffered"
    data = b""
    fetched: ClassVar[list[int]] = []

    def info(self, path: str, **options: object) -> dict[str, object]:
        return {"name": path, "size": len(self.data), "type": "file"}

    def _open(self, path: str, mode: str = "rb", **options: object) -> AbstractBufferedFile:
        options = {name: options[name] for name in ("cache_type", "block_size") if options.get(name) is not None}
        file = AbstractBufferedFile(self, path, mode, size=len(self.data), **options)

        def fetch(start: int, stop: int) -> bytes:
            self.fetched.append(min(stop, len(self.data)) - start)
            return self.data[start:stop]

        file.cache.fetcher = file._fetch_range = fetch
        return file


def test_no_client_reads_more_than_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.register_implementation("buffered", _Buffered, clobber=True)
    monkeypatch.setattr(_Buffered, "data", resnet50(0.125).SerializeToString())
    file = RemoteFile("buffered://a.onnx", weights=False, skip_from=20_000)
    report = bnfold.analyze(file)
    assert replace(report, model="") == replace(bnfold.analyze(_Buffered.data), model="")
    assert sum(_Buffered.fetched) == file.bytes_read < 0.5 * len(_Buffered.data)


class TestWindows:
    """What is read from where on: the requests of a walk that is given the places it goes to."""

    @staticmethod
    def requests(monkeypatch: pytest.MonkeyPatch, files, places: list[int], **options: bool) -> list[tuple[int, int]]:
        file = RemoteFile(put(files, "a.onnx", bytes(1 << 20)), skip_from=64_000, **options)
        found: list[tuple[int, int]] = []
        real = file.fetch
        monkeypatch.setattr(file, "fetch", lambda start, stop: found.append((start, stop - start)) or real(start, stop))
        window = Window(file)
        for place in places:
            assert window[place] == 0
        return found

    def test_payloads_worth_less_than_a_round_trip_make_windows_grow_up_to_that(self, memory, monkeypatch) -> None:
        places = [0, 7_999, 8_000, 40_000, 103_999, 104_000 + 63_999]
        assert self.requests(monkeypatch, memory, places) == [
            (0, 8_000), (8_000, 32_000), (40_000, 64_000), (167_999, 64_000),
        ]  # fmt: skip

    def test_after_one_worth_as_much_it_is_small_again(self, memory, monkeypatch) -> None:
        places = [0, 8_000, 40_000 + 64_000, 112_000 + 63_999]
        assert self.requests(monkeypatch, memory, places) == [
            (0, 8_000), (8_000, 32_000), (104_000, 8_000), (175_999, 32_000),
        ]  # fmt: skip

    def test_who_spares_bytes_reads_little_wherever(self, memory, monkeypatch) -> None:
        found = self.requests(monkeypatch, memory, [0, 4_096, 500_000], spare_bytes=True)
        assert found == [(0, 4_096), (4_096, 4_096), (500_000, 4_096)]


class TestWorth:
    def test_a_round_trip_is_worth_what_is_read_in_its_time(self, memory) -> None:
        file = RemoteFile(put(memory, "a.onnx", b"x"))
        file._measured += [(1000, 0.02), (2_000_000, 0.12)]
        assert file.worth == pytest.approx(0.02 * 2_000_000 / 0.1)

    @pytest.mark.parametrize(("size", "worth"), [(100, 1 << 14), (100_000_000, 1 << 23)])
    def test_it_is_bounded(self, memory, size: int, worth: int) -> None:
        file = RemoteFile(put(memory, "a.onnx", b"x"))
        file._measured += [(10, 0.1), (size, 0.2)]
        assert file.worth == worth

    def test_it_may_be_given(self, memory) -> None:
        assert RemoteFile(put(memory, "a.onnx", b"x"), skip_from=77_777).worth == 77_777


class TestNames:
    def test_a_report_is_called_by_the_url(self, memory) -> None:
        url = put(memory, "a.onnx", conv_bn())
        assert bnfold.analyze(url).model == url
        assert json.loads(command("analyze", url, "--format", "json").out)["models"][0]["model"] == url

    def test_parts_of_chains(self) -> None:
        assert name_of("zip://folder/a.onnx::s3://bucket/b.zip") == "a.onnx"
        assert beside("zip://folder/a.onnx::s3://bucket/b.zip", "a.data") == "zip://folder/a.data::s3://bucket/b.zip"
        assert beside("s3://bucket/a.onnx", "deep/a.data") == "s3://bucket/deep/a.data"
        assert of_one_process("zip://a.onnx::memory://b.zip")
        assert not of_one_process("zip://a.onnx::b.zip")
        assert client_modules(["zip://a.onnx::s3://bucket/b.zip"]) == ("s3fs",)

    @pytest.mark.keras
    def test_keras(self) -> None:
        """Not read in parts: a copy is."""
        url = (SAMPLES / "mlp_bn_before.keras").as_uri()
        assert (found := bnfold.analyze(url)).model == url
        assert found == replace(bnfold.analyze(SAMPLES / "mlp_bn_before.keras"), model=url)

    @pytest.mark.parametrize("report", [False, True])
    def test_nothing_is_written_to_one(self, memory, report: bool) -> None:
        url = put(memory, "a.onnx", conv_bn())
        out = ["--dry-run", "--report", "memory://b.html"] if report else ["-o", "memory://b.onnx"]
        outcome = command("fold", url, *out)
        assert (outcome.code, outcome.err.split(": ")[1:]) == (
            2,
            [f"{out[-1]} cannot be written", "it is a URL, and only what `bnfold scan --fold-to` folds goes to one\n"],
        )


class TestRefusals:
    def test_no_such_file(self, memory) -> None:
        with pytest.raises(ModelFileError, match=r"^memory://nothing\.onnx does not exist$"):
            bnfold.load("memory://nothing.onnx")

    def test_no_such_protocol(self) -> None:
        with pytest.raises(UsageError, match="there is no protocol nowhere://"):
            bnfold.load("nowhere://a.onnx")

    def test_a_missing_client(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "gcsfs", None)
        with pytest.raises(MissingExtraError, match=r"the client for gs:// is not installed: pip install gcsfs"):
            bnfold.load("gs://bucket/a.onnx")

    def test_a_damaged_file(self, memory) -> None:
        data = conv_bn(channels=64).SerializeToString()
        with pytest.raises(ModelFileError, match=r"^memory://a\.onnx is damaged"):
            bnfold.load(put(memory, "a.onnx", data[: len(data) // 2]))
        with pytest.raises(ModelFileError, match="is a text file"):
            bnfold.load(put(memory, "a.onnx", b"no model"))
        with pytest.raises(ModelFileError, match="is empty"):
            bnfold.load(put(memory, "a.onnx", b""))

    def test_one_that_grows_shorter(self, memory) -> None:
        url = put(memory, "a.onnx", conv_bn())
        with pytest.raises(ModelFileError, match="was cut short"):
            bnfold.load(RemoteFile(url, size=10**6))


@pytest.mark.slow
def test_a_resnet50_of_100_mb_on_s3(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through a real client from a server in a process of its own: what is read of 102 MB."""
    data = resnet50().SerializeToString()
    assert len(data) > 100e6
    with s3.s3_server() as address:
        for name, value in s3.environment(address).items():
            monkeypatch.setenv(name, value)
        files = fsspec.filesystem("s3", skip_instance_cache=True, endpoint_url=address)
        files.mkdir("models")
        files.pipe_file("models/resnet50.onnx", data)
        local = bnfold.analyze(data)
        for options, share, most in (({"spare_bytes": True}, 0.03, 1000), ({"skip_from": 2_000_000}, 0.35, 30)):
            file = RemoteFile("s3://models/resnet50.onnx", weights=False, **options)
            report = bnfold.analyze(file)
            print(options, file.traffic())
            assert replace(report, model="") == replace(local, model="")
            assert file.bytes_read < share * len(data)
            assert file.requests < most
        with pytest.raises(ModelFileError, match=r"^s3://nowhere/a\.onnx does not exist$"):
            bnfold.load("s3://nowhere/a.onnx")
