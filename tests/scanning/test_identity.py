"""When a model is another one: what is read again, and what is not."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import fsspec
import onnx
import pytest
from onnx_models import conv_bn

from bnfold import scan
from bnfold.formats.remote import identity_of
from bnfold.scanning.discovery import find_targets

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="fork servers are Linux's")]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that has been as it is for long."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bnfold.scanning.discovery._SETTLED", 0.0)
    onnx.save(conv_bn(seed=1), "model.onnx")
    time.sleep(0.02)  # more than a step of the clock that files get their times from
    return tmp_path / "model.onnx"


def read() -> list[str]:
    return sorted(Path(row.path).name for row in scan(["."], store="s.sqlite"))


def another(model: Path) -> Path:
    """A model of the same size with the same times, elsewhere."""
    other = model.with_suffix(".other")
    onnx.save(conv_bn(seed=2), other)
    assert other.stat().st_size == model.stat().st_size
    assert other.read_bytes() != model.read_bytes()
    times = model.stat()
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    return other


def overwrite(other: Path, model: Path) -> None:
    times = model.stat()
    model.write_bytes(other.read_bytes())
    os.utime(model, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize("how", [shutil.copy2, os.replace, overwrite], ids=["cp -p", "mv", "in place, with its time"])
def test_another_model_of_the_same_size_and_time(model: Path, how: Callable[[Path, Path], object]) -> None:
    other = another(model)
    before = model.stat()
    assert read() == ["model.onnx"]
    assert read() == []
    how(other, model)
    assert (model.stat().st_size, model.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert read() == ["model.onnx"]
    assert read() == []


def test_what_has_just_been_written_is_read_once_more(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of a file system may not move between a model and the one that replaces it."""
    monkeypatch.setattr("bnfold.scanning.discovery._SETTLED", 3600.0)
    assert read() == ["model.onnx"]
    assert read() == ["model.onnx"]
    monkeypatch.setattr("bnfold.scanning.discovery._SETTLED", 0.0)
    assert read() == ["model.onnx"]
    assert read() == []


@pytest.mark.parametrize(("ago", "settled"), [(1.5, False), (2.5, True)])
def test_how_long_that_is(model: Path, monkeypatch: pytest.MonkeyPatch, ago: float, settled: bool) -> None:
    monkeypatch.undo()
    changed = model.stat().st_ctime_ns
    monkeypatch.setattr(time, "time_ns", lambda: changed + int(ago * 1e9))
    [target] = find_targets([model])
    assert ("unsettled" not in target.identity) is settled


def test_looking_at_a_model_does_not_change_it(model: Path) -> None:
    assert read() == ["model.onnx"]
    model.read_bytes()
    os.utime("s.sqlite")
    assert read() == []


@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_a_model_changes_with_its_external_data(model: Path, where: str) -> None:
    onnx.save(conv_bn(channels=64), model, save_as_external_data=True, location="w.data", size_threshold=0)
    data = Path("w.data").read_bytes()
    files = fsspec.filesystem("file")
    target = "." if where == "here" else Path().absolute().as_uri()
    found = []
    for change in (None, None, data[:-1] + b"\x01", None):
        if change is not None:
            files.pipe_file(str(Path("w.data").absolute()), change)
        time.sleep(2.1 if change or not found else 0)  # its time is looked at by the model's own process
        found.append(len(list(scan([target], store="s.sqlite"))))
    assert found == [1, 0, 1, 0]
    Path("w.data").unlink()
    [row] = scan([target], store="s.sqlite")
    assert row.status == "failed"
    assert "w.data" in row.sentence


@pytest.mark.parametrize(
    ("info", "same"),
    [
        ({"size": 3, "ETag": '"a"', "LastModified": 1}, True),
        ({"size": 3, "ETag": '"b"', "LastModified": 0}, False),
        ({"size": 4, "ETag": '"a"', "LastModified": 0}, False),
    ],
)
def test_a_services_word_for_the_version_decides(info: dict[str, object], same: bool) -> None:
    assert (identity_of(info) == identity_of({"size": 3, "ETag": '"a"', "LastModified": 0})) is same


def test_a_service_without_a_word_for_it_has_another_model_each_time() -> None:
    assert identity_of({"size": 3}) != identity_of({"size": 3})
    assert identity_of({"size": 3, "Last-Modified": "x"}) == identity_of({"size": 3, "Last-Modified": "x"})
