"""Models behind HTTP, from servers of all kinds: what they cannot do is done without, or said in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from command_line import bnfold
from http_server import Server, http_server
from onnx_models import conv_bn
from resnet import resnet50

from bnfold import analyze, fold_file, scan
from bnfold.errors import ModelFileError, UnavailableError
from bnfold.formats.fetching import fetched
from bnfold.formats.remote import RemoteFile, name_of

pytestmark = pytest.mark.slow
LARGE = resnet50(0.125).SerializeToString()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("external")
    onnx.save(conv_bn(channels=64), folder / "e.onnx", save_as_external_data=True, location="e.data", size_threshold=0)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    with http_server({"small.onnx": conv_bn().SerializeToString(), "large.onnx": LARGE, **files}) as found:
        yield found


@pytest.fixture(autouse=True)
def _here(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    server.requests.clear()
    server.sent = 0


WORKING = ("ranges", "whole", "redirect", "gzip", "unsized")


@pytest.mark.parametrize("kind", WORKING)
@pytest.mark.parametrize("name", ["small.onnx", "large.onnx"])
def test_the_report_is_that_of_the_file_here(server: Server, kind: str, name: str) -> None:
    here = analyze(server.files[name])
    there = analyze(RemoteFile(f"{server.address}/{kind}/{name}", weights=False, skip_from=100_000))
    assert replace(there, model="") == replace(here, model="")


def test_what_is_read_of_a_file_from_a_server_with_ranges_and_one_without(server: Server) -> None:
    for kind, most in (("ranges", 0.5), ("redirect", 0.5), ("whole", 1.0), ("unsized", 2.0)):
        server.sent = 0
        analyze(RemoteFile(f"{server.address}/{kind}/large.onnx", weights=False, skip_from=20_000))
        assert server.sent <= most * len(LARGE), kind


def test_ranges_are_of_what_was_not_compressed(server: Server) -> None:
    """A server that compresses where it may gets no leave to."""
    file = RemoteFile(f"{server.address}/gzip/large.onnx", size=len(LARGE))
    assert file.fetch(1000, 2000) == LARGE[1000:2000]
    assert file.fetch_many([(10, 20), (30, 50)]) == [LARGE[10:20], LARGE[30:50]]
    assert len(server.requests) == 3


def test_many_ranges_of_a_server_without_are_one_download(server: Server) -> None:
    file = RemoteFile(f"{server.address}/whole/large.onnx", size=len(LARGE))
    assert file.fetch_many([(10, 20), (30, 50), (5, 6)]) == [LARGE[10:20], LARGE[30:50], LARGE[5:6]]
    assert server.sent == file.bytes_read == len(LARGE)


@pytest.mark.parametrize("kind", WORKING)
def test_folding_from_a_url(server: Server, kind: str) -> None:
    result = fold_file(f"{server.address}/{kind}/small.onnx", "folded.onnx")
    assert result.verification.equivalent
    assert [node.op_type for node in onnx.load("folded.onnx").graph.node] == ["Conv", "Relu"]
    assert server.sent <= 3 * len(server.files["small.onnx"])
    done = bnfold("fold", f"{server.address}/{kind}/small.onnx", "-o", "again.onnx")
    assert (done.code, done.err) == (0, "")
    assert Path("again.onnx").read_bytes() == Path("folded.onnx").read_bytes()


def test_external_data_is_fetched_with_the_model(server: Server) -> None:
    with fetched(f"{server.address}/ranges/e.onnx") as (path, traffic):
        assert sorted(each.name for each in path.parent.iterdir()) == ["e.data", "e.onnx"]
        assert all(each.read_bytes() == server.files[each.name] for each in path.parent.iterdir())
        assert traffic["bytes"] == len(server.files["e.onnx"]) + len(server.files["e.data"])
        assert traffic["requests"] == 2
    assert not path.exists()
    [row] = scan([f"{server.address}/ranges/e.onnx"], store="s.sqlite", fold_to="out")
    assert row.status == "folded"
    assert bnfold("verify", "out/e.onnx", *_saved()).code == 0


def _saved() -> list[str]:
    onnx.save(conv_bn(channels=64), "original.onnx")
    return ["original.onnx"]


def test_external_data_that_is_missing(server: Server) -> None:
    server.files["alone.onnx"] = server.files["e.onnx"].replace(b"e.data", b"f.data")
    url = f"{server.address}/ranges/alone.onnx"
    with pytest.raises(ModelFileError) as raised:
        fold_file(url, "folded.onnx")
    assert str(raised.value) == f"{url} has its data in 'f.data', which does not exist"
    assert not Path("folded.onnx").exists()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("short", "was cut short while it was being read"),
        ("dies", "cannot be read: the connection broke off"),
        ("loop", "cannot be read: it leads from one address to another without end"),
        ("403", "cannot be read: permission denied (HTTP 403)"),
        ("500", "cannot be read: the server answers 500 Internal Server Error"),
        ("404", "does not exist"),
    ],
)
@pytest.mark.parametrize("name", ["small.onnx", "large.onnx"])
def test_one_sentence(server: Server, kind: str, words: str, name: str) -> None:
    url = f"{server.address}/{kind}/{name}"
    for command in (["analyze", url], ["fold", url, "-o", "folded.onnx"]):
        done = bnfold(*command)
        assert (done.code, done.err) == (2, f"bnfold: {url} {words}\n")
    assert not Path("folded.onnx").exists()


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "https://nowhere.invalid"])
def test_a_server_that_is_not_there(address: str) -> None:
    done = bnfold("analyze", f"{address}/a.onnx")
    assert done.code == 2
    assert done.err.startswith(f"bnfold: {address}/a.onnx cannot be read: ClientConnector")
    assert done.err.count("\n") == 1


def test_a_damaged_model_has_the_name_of_its_url(server: Server) -> None:
    server.files["damaged.onnx"] = server.files["small.onnx"][:300]
    url = f"{server.address}/ranges/damaged.onnx"
    done = bnfold("fold", url, "-o", "folded.onnx")
    assert done.code == 2
    assert done.err.startswith(f"bnfold: {url} is damaged")
    [row] = scan([url], store="s.sqlite", fold_to="out")
    assert row.status == "failed"
    assert row.sentence.startswith(f"{url} is damaged")


def test_what_broke_off_is_read_by_the_next_scan_and_what_is_damaged_is_not(server: Server) -> None:
    server.files["cut.onnx"] = server.files["small.onnx"][:300]
    urls = [f"{server.address}/dies-once/small.onnx", f"{server.address}/ranges/cut.onnx"]
    ends = [[(row.path, row.status) for row in scan(urls, store="s.sqlite", workers=1)] for _ in range(3)]
    assert ends == [[(urls[0], "unavailable"), (urls[1], "failed")], [(urls[0], "ok")], []]


def test_what_has_no_version_is_read_every_time(server: Server) -> None:
    for kind, counts in (("ranges", [1, 0]), ("unsized", [1, 1])):
        url = f"{server.address}/{kind}/small.onnx"
        assert [len(list(scan([url], store=f"{kind}.sqlite"))) for _ in counts] == counts


def test_a_query_is_no_part_of_a_name(server: Server) -> None:
    assert name_of("https://host/a/m.onnx?signature=/x.y") == "m.onnx"
    assert name_of("s3://bucket/a/m.onnx?x") == "m.onnx?x"
    server.files["small.onnx?signature=1"] = server.files["small.onnx"]
    [row] = scan([f"{server.address}/ranges/small.onnx?signature=1"], store="s.sqlite", fold_to="out")
    assert row.status == "folded"
    assert Path("out/small.onnx").is_file()


def test_what_was_cut_short_may_be_whole_another_time(server: Server) -> None:
    with pytest.raises(UnavailableError):
        analyze(f"{server.address}/short/small.onnx")
    with pytest.raises(ModelFileError) as raised:
        analyze(f"{server.address}/404/small.onnx")
    assert not isinstance(raised.value, UnavailableError)
