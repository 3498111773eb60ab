"""Where `bnfold fold` may not write, and where several write at once."""

from __future__ import annotations

import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from process import SAMPLES, assert_one_sentence, bnfold, names, running, small_files, without_privileges

import bnfold as api

pytestmark = pytest.mark.slow

SOURCE = SAMPLES / "digits_repvgg.onnx"
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits and privileges of Linux")


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("command", ["fold", "fix"])
def test_a_full_disk(tmp_path, command, verify):
    (tmp_path / "out.onnx").write_bytes(b"old")
    arguments = [command, SOURCE, "-o", tmp_path / "out.onnx", *([] if verify else ["--no-verify"])]
    done = bnfold(*arguments, before=small_files(4096))
    assert_one_sentence(done, "out.onnx cannot be written: file too large")
    assert (tmp_path / "out.onnx").read_bytes() == b"old"
    assert names(tmp_path) == ["out.onnx"]


@linux
def test_a_protected_folder(tmp_path):
    tmp_path.chmod(0o555)
    done = bnfold("fold", SOURCE, "-o", tmp_path / "out.onnx", before=without_privileges)
    tmp_path.chmod(0o755)
    assert_one_sentence(done, "out.onnx cannot be written: the folder", "is write-protected")
    assert names(tmp_path) == []


@linux
def test_a_protected_file_and_an_unreadable_one(tmp_path):
    (tmp_path / "out.onnx").write_bytes(b"old")
    (tmp_path / "out.onnx").chmod(0o444)
    done = bnfold("fold", SOURCE, "-o", tmp_path / "out.onnx", before=without_privileges)
    assert_one_sentence(done, "out.onnx cannot be written: it is write-protected")
    assert (tmp_path / "out.onnx").read_bytes() == b"old"
    (tmp_path / "out.onnx").chmod(0)
    done = bnfold("analyze", tmp_path / "out.onnx", before=without_privileges)
    assert_one_sentence(done, "out.onnx cannot be read: permission denied")


@pytest.mark.parametrize("command", ["fold", "fix"])
def test_a_folder_as_output_and_a_folder_that_is_not_there(tmp_path, command):
    (tmp_path / "out.onnx").mkdir()
    done = bnfold(command, SOURCE, "-o", tmp_path / "out.onnx")
    assert_one_sentence(done, "out.onnx cannot be written: it is a directory")
    done = bnfold(command, SOURCE, "-o", tmp_path / "none" / "out.onnx")
    assert_one_sentence(done, "out.onnx cannot be written: there is no folder")
    assert names(tmp_path) == ["out.onnx"]


@pytest.mark.parametrize("command", ["fold", "fix"])
@pytest.mark.parametrize("kind", ["same", "relative", "symlink", "hardlink"])
def test_the_input_as_output(tmp_path, command, kind):
    source = tmp_path / "model.onnx"
    shutil.copy(SOURCE, source)
    target = tmp_path / ("model.onnx" if kind == "same" else "link.onnx")
    if kind == "symlink":
        target.symlink_to(source)
    elif kind == "hardlink":
        os.link(source, target)
    elif kind == "relative":
        target = tmp_path / ".." / tmp_path.name / "model.onnx"
    before = names(tmp_path)
    assert_one_sentence(bnfold(command, source, "-o", target), "is the input itself")
    assert source.read_bytes() == SOURCE.read_bytes()
    assert names(tmp_path) == before


def test_a_link_as_output_is_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link.onnx").symlink_to(tmp_path / "real" / "out.onnx")
    assert bnfold("fold", SOURCE, "-o", tmp_path / "link.onnx", "-q").returncode == 0
    assert (tmp_path / "link.onnx").is_symlink()
    assert api.load(tmp_path / "real" / "out.onnx").graph.inputs
    assert names(tmp_path) == ["link.onnx", "real", "real/out.onnx"]


def test_a_pipe_and_a_device_as_output(tmp_path):
    os.mkfifo(tmp_path / "out.onnx")
    assert_one_sentence(bnfold("fold", SOURCE, "-o", tmp_path / "out.onnx"), "is not a regular file")
    assert_one_sentence(bnfold("fold", SOURCE, "-o", os.devnull), "is not a regular file")


def test_several_processes_with_one_output(tmp_path):
    sources = [SAMPLES / name for name in ("digits_cnn.onnx", "digits_repvgg.onnx", "digits_mlp.onnx")]
    processes = [running(["fold", path, "-o", tmp_path / "out.onnx", "-q"]) for path in (*sources, *sources)]
    for process in processes:
        assert process.communicate(timeout=120) == ("", "")
        assert process.returncode == 0
    folded = [api.fold(path).model.to_proto() for path in sources]
    assert api.load(tmp_path / "out.onnx").to_proto() in folded
    assert names(tmp_path) == ["out.onnx"]


def test_threads_get_what_one_alone_gets(tmp_path):
    """Loading, analyzing, folding, saving and verifying at once, some on a model that all share."""
    paths = sorted(SAMPLES.glob("*.onnx")) * 3
    shared = {path: api.load(path) for path in paths}

    def work(job):
        number, path = job
        model = shared[path] if number % 2 else api.load(path)
        result = api.fold(model)
        result.model.save(tmp_path / f"{number}.onnx")
        verdict = api.verify(model, tmp_path / f"{number}.onnx").equivalent
        return verdict, len(api.analyze(model).findings), result.model.to_proto().SerializeToString(deterministic=True)

    alone = [work(job) for job in enumerate(paths)]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(work, enumerate(paths))) == alone
    assert all(verdict for verdict, _, _ in alone)
