"""Files are written whole or not at all, whatever happens and whenever."""

from __future__ import annotations

import errno
import multiprocessing
import os
import resource
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx_models import conv_bn, model, value

from bnfold.errors import OutputError
from bnfold.formats import atomic, load
from bnfold.formats.atomic import Output, new_file, staged_file

ROOT = Path(__file__).parents[2]
posix = pytest.mark.skipif(os.name == "nt", reason="POSIX permissions and signals")


@contextmanager
def atomic_write(path: object) -> Iterator[Output]:
    """A file that is staged and committed at once."""
    with staged_file(path) as staged:
        with staged.writing() as out:
            yield out
        staged.commit()


def names(folder: Path) -> list[str]:
    return sorted(item.name for item in folder.iterdir())


def refusal(path: object) -> str:
    with pytest.raises(OutputError) as caught, atomic_write(path) as out:
        out.write(b"x")
    return str(caught.value)


def test_small_and_large_pieces_in_order(tmp_path):
    buffer = atomic._BUFFER_BYTES
    sizes = [1, 0, 70, buffer + 9, 5, buffer, buffer + 1, 9, buffer - 1, 1, 2, 3 * buffer]
    pieces = [bytes([number]) * size for number, size in enumerate(sizes)]
    with atomic_write(tmp_path / "file") as out:
        for piece in pieces:
            out.write(memoryview(piece))
        assert out.position == sum(map(len, pieces))
        assert not (tmp_path / "file").exists()
    assert (tmp_path / "file").read_bytes() == b"".join(pieces)
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("available", [True, False])
def test_copying_from_another_file(tmp_path, monkeypatch, available):
    if not available:
        monkeypatch.delattr(os, "copy_file_range", raising=False)
    content = np.random.default_rng(0).bytes(3_000_000)
    (tmp_path / "source").write_bytes(content)
    with (tmp_path / "source").open("rb") as source, atomic_write(tmp_path / "copy") as out:
        out.write(b"before ")
        done = out.copy_from(source.fileno(), 1000, 2_000_000)
        out.write(content[1000 + done : 2_001_000])
        out.write(b" after")
        assert out.position == 2_000_013
    assert (tmp_path / "copy").read_bytes() == b"before " + content[1000:2_001_000] + b" after"


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EXDEV, errno.EINVAL])
def test_a_kernel_that_cannot_copy(tmp_path, monkeypatch, number):
    def fail(*_):
        raise OSError(number, "no")

    monkeypatch.setattr(os, "copy_file_range", fail, raising=False)
    proto = wide()
    onnx.save(proto, tmp_path / "in.onnx")
    load(tmp_path / "in.onnx").save(tmp_path / "out.onnx")
    assert onnx.load(tmp_path / "out.onnx") == proto


@posix
def test_permissions_of_the_target_are_kept_and_new_files_follow_the_umask(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o640)
    with atomic_write(path) as out:
        out.write(b"new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    previous = os.umask(0o027)
    try:
        with atomic_write(tmp_path / "other") as out:
            out.write(b"new")
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "other").stat().st_mode) == 0o640


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real/file").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real/file")
    with atomic_write(tmp_path / "link") as out:
        out.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real/file").read_bytes() == b"new"
    assert names(tmp_path / "real") == ["file"]


def test_an_error_leaves_the_target_alone(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(error):
        with atomic_write(path) as out:
            out.write(b"n" * 1_000_000)
            raise error

    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error):
            fail(error)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_targets_that_cannot_be_written(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    assert refusal(tmp_path / "folder") == f"{tmp_path / 'folder'} cannot be written: it is a directory"
    assert refusal(tmp_path / "pipe") == f"{tmp_path / 'pipe'} cannot be written: it is not a regular file"
    assert refusal(os.devnull) == f"{os.devnull} cannot be written: it is not a regular file"
    assert (
        refusal(tmp_path / "no/file")
        == f"{tmp_path / 'no/file'} cannot be written: there is no folder {tmp_path / 'no'}"
    )
    assert "cannot be written: too many levels of symbolic links" in refusal(tmp_path / "loop")
    assert "cannot be written: file name too long" in refusal(tmp_path / ("n" * 300))
    assert "cannot be written: " in refusal("zero\0byte")
    (tmp_path / "file").write_bytes(b"not a folder")
    assert "cannot be written: " in refusal(tmp_path / "file/below")
    assert names(tmp_path) == ["file", "folder", "loop", "pipe"]


@posix
def test_write_protection_is_respected(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o444)
    # Root may write anywhere: ask as somebody else would.
    monkeypatch.setattr(os, "access", lambda target, mode: os.stat(target).st_mode & 0o222 != 0)
    assert refusal(path) == f"{path} cannot be written: it is write-protected"
    assert path.read_bytes() == b"old"


UNPRIVILEGED = """
import os, sys
sys.path.insert(0, {root!r})
from bnfold.errors import OutputError
from bnfold.formats.atomic import staged_file
if os.geteuid() == 0:
    os.setuid(65534)
try:
    with staged_file(sys.argv[1]) as staged, staged.writing() as out:
        out.write(b"new")
except OutputError as error:
    print(error)
"""


@posix
def test_a_folder_that_cannot_be_written(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o555)
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    code = UNPRIVILEGED.format(root=str(ROOT))
    done = subprocess.run([sys.executable, "-c", code, str(folder / "f")], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == f"{folder / 'f'} cannot be written: permission denied", done.stderr
    assert names(folder) == []


def test_a_name_that_is_taken_is_passed_over(tmp_path):
    (tmp_path / "a").write_bytes(b"mine")
    with new_file("model", [tmp_path / "a", tmp_path / "b"]) as (path, out):
        out.write(b"yours")
    assert path == tmp_path / "b"
    assert (tmp_path / "a").read_bytes() == b"mine"
    with pytest.raises(RuntimeError), new_file("model", [tmp_path / "c"]) as (path, out):
        raise RuntimeError
    assert names(tmp_path) == ["a", "b"]


def wide(fill: float = 1.0) -> onnx.ModelProto:
    """Eight weights of 1 MB."""
    params = {f"w{i}": np.full((512, 512), fill, np.float32) for i in range(8)}
    nodes = [helper.make_node("MatMul", [f"t{i}" if i else "x", f"w{i}"], [f"t{i + 1}"]) for i in range(8)]
    return model(nodes, [value("x", ["N", 512])], [value("t8", ["N", 512])], params)


def scaled(source: onnx.ModelProto, factor: float):
    """The model with every weight scaled: nothing but the skeleton is copied."""
    loaded = load(source)
    changed = loaded.graph.copy()
    for name, param in changed.params.items():
        changed.params[name] = param.scaled(np.full((1, 1), factor))
    return loaded.with_graph(changed)


@pytest.mark.parametrize("external_data", [True, False])
@pytest.mark.parametrize("allowed", [0, 1, 3, 5])
def test_a_full_disk(tmp_path, monkeypatch, external_data, allowed):
    path = tmp_path / "model.onnx"
    old = conv_bn(channels=64)
    load(old).save(path, external_data=external_data)
    before = names(tmp_path)
    write, calls = os.write, 0

    def limited(descriptor, data):
        nonlocal calls
        calls += 1
        if calls > allowed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data[:200_000])  # in parts, as the system may

    monkeypatch.setattr(os, "write", limited)
    with pytest.raises(OutputError, match=r"model\.onnx cannot be written: no space left on device"):
        scaled(wide(), 2.0).save(path, external_data=external_data)
    monkeypatch.undo()
    assert load(path).to_proto() == old
    assert names(tmp_path) == before


LIMITED = """
import resource, sys
sys.path.insert(0, {root!r})
from bnfold.errors import OutputError
from bnfold.formats import load
model = load(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))
try:
    model.save(sys.argv[2], external_data=sys.argv[3] == "True")
except OutputError as error:
    print(error)
"""


@posix
@pytest.mark.parametrize("external_data", [True, False])
def test_a_file_size_limit_of_the_system(tmp_path, external_data):
    source, target = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(wide(), source)
    target.write_bytes(b"old")
    command = [sys.executable, "-c", LIMITED.format(root=str(ROOT)), str(source), str(target), str(external_data)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == f"{target} cannot be written: file too large", done.stderr
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["in.onnx", "out.onnx"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 3_000_000


KILLED_AT_EVERY_CALL = """
import os, sys
sys.path.insert(0, {root!r})
from bnfold.formats import load
old, new = (load(path) for path in sys.argv[1:3])
external_data = sys.argv[3] == "True"

def killing(function):
    def call(*arguments, **keywords):
        global left
        left -= 1
        if not left:
            os.kill(os.getpid(), 9)
        return function(*arguments, **keywords)
    return call

stop, status = 0, 9
while status:
    stop += 1
    os.mkdir(str(stop))
    target = os.path.join(str(stop), "model.onnx")
    old.save(target, external_data=external_data)
    child = os.fork()
    if not child:
        left = stop
        for name in ("open", "write", "copy_file_range", "fsync", "replace", "close", "unlink"):
            setattr(os, name, killing(getattr(os, name)))
        new.save(target, external_data=external_data)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status in (0, 9), status
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts the system calls made on Linux")
@pytest.mark.parametrize("external_data", [True, False])
def test_killed_before_every_single_system_call(tmp_path, external_data):
    """The target is the old model or the new one, whole, whichever call the process does not come to."""
    old, new = conv_bn(channels=64), wide()
    onnx.save(old, tmp_path / "old.onnx")
    onnx.save(new, tmp_path / "new.onnx")
    code = KILLED_AT_EVERY_CALL.format(root=str(ROOT))
    command = [sys.executable, "-c", code, "old.onnx", "new.onnx", str(external_data)]
    subprocess.run(command, cwd=tmp_path, check=True)
    folders = sorted((path for path in tmp_path.iterdir() if path.is_dir()), key=lambda path: int(path.name))
    assert len(folders) > 10
    found = [load(folder / "model.onnx").to_proto() for folder in folders]
    renamed = found.index(new)
    assert all(proto == old for proto in found[:renamed])
    assert all(proto == new for proto in found[renamed:])
    assert 5 < renamed < len(folders) - 1
    for folder in folders:  # what was left behind is in nobody's way
        load(old).save(folder / "model.onnx", external_data=external_data)
        assert load(folder / "model.onnx").to_proto() == old


SAVE_FOREVER = """
import sys
sys.path.insert(0, {root!r})
from bnfold.formats import load
models = [load(path) for path in sys.argv[1:3]]
print("ready", flush=True)
while True:
    for model in models:
        model.save(sys.argv[3], external_data=sys.argv[4] == "True")
"""


@posix
@pytest.mark.slow
@pytest.mark.parametrize("external_data", [True, False])
def test_killed_at_any_time(tmp_path, external_data):
    first, second = wide(1.0), wide(2.0)
    onnx.save(first, tmp_path / "first.onnx")
    onnx.save(second, tmp_path / "second.onnx")
    target = tmp_path / "out" / "model.onnx"
    target.parent.mkdir()
    load(first).save(target, external_data=external_data)
    files = [str(tmp_path / "first.onnx"), str(tmp_path / "second.onnx"), str(target), str(external_data)]
    for attempt in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", SAVE_FOREVER.format(root=str(ROOT)), *files], stdout=subprocess.PIPE
        )
        assert process.stdout.readline() == b"ready\n"
        time.sleep(0.013 * attempt)
        process.kill()
        process.wait()
        process.stdout.close()
        assert load(target).to_proto() in (first, second)


def save_many(source: str, target: str, external_data: bool) -> None:
    loaded = load(source)
    for _ in range(10):
        loaded.save(target, external_data=external_data)


@pytest.mark.slow
@pytest.mark.parametrize("external_data", [True, False])
def test_several_processes_writing_the_same_file(tmp_path, external_data):
    target = tmp_path / "out" / "model.onnx"
    target.parent.mkdir()
    protos = [wide(float(number)) for number in range(3)]
    context = multiprocessing.get_context("spawn")
    processes = []
    for number, proto in enumerate(protos):
        onnx.save(proto, tmp_path / f"{number}.onnx")
        arguments = (str(tmp_path / f"{number}.onnx"), str(target), external_data)
        processes.append(context.Process(target=save_many, args=arguments))
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert load(target).to_proto() in protos
    assert external_data or names(target.parent) == ["model.onnx"]


class TestStaging:
    def test_the_complete_file_lies_beside_its_target_until_it_is_committed(self, tmp_path):
        target = tmp_path / "out.onnx"
        target.write_bytes(b"old")
        with staged_file(target) as staged:
            with staged.writing() as out:
                out.write(b"new")
            assert (staged.path.read_bytes(), staged.path.suffix, staged.path.parent) == (b"new", ".onnx", tmp_path)
            assert target.read_bytes() == b"old"
            assert not staged.committed
            staged.commit()
            assert staged.committed
            assert names(tmp_path) == ["out.onnx"]
        assert target.read_bytes() == b"new"

    @pytest.mark.parametrize("external_data", [False, True])
    @pytest.mark.parametrize("error", [None, LookupError, KeyboardInterrupt, FileNotFoundError])
    def test_what_is_not_committed_leaves_nothing(self, tmp_path, external_data, error):
        def stage():
            with load(conv_bn()).stage(tmp_path / "out.onnx", external_data=external_data) as staged:
                onnx.checker.check_model(staged.path)
                assert len(names(tmp_path)) == 1 + external_data
                if error is not None:
                    raise error("something else")

        if error is None:
            stage()
        else:  # an error of who looks at the file is not one of the file
            with pytest.raises(error, match="something else"):
                stage()
        assert names(tmp_path) == []

    @pytest.mark.parametrize("external_data", [False, True])
    def test_what_is_committed_stays_whatever_comes_after(self, tmp_path, external_data):
        path = tmp_path / "out.onnx"

        def commit_and_stop():
            with load(wide()).stage(path, external_data=external_data) as staged:
                staged.commit()
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            commit_and_stop()
        assert load(path).to_proto() == wide()
        assert names(tmp_path) == (["out.onnx", "out.onnx.data"] if external_data else ["out.onnx"])

    def test_a_signal_right_after_the_renaming_does_not_cost_the_external_data(self, tmp_path, monkeypatch):
        def interrupted(directory: Path) -> None:
            raise KeyboardInterrupt

        replace = Path.replace

        def replace_and_stop(self: Path, target: Path) -> None:
            replace(self, target)
            raise KeyboardInterrupt

        path = tmp_path / "out.onnx"
        for where, function in (((atomic, "_sync_directory"), interrupted), ((Path, "replace"), replace_and_stop)):
            with monkeypatch.context() as patch:
                patch.setattr(*where, function)
                with pytest.raises(KeyboardInterrupt):
                    load(wide()).save(path, external_data=True)
            assert load(path).to_proto() == wide()

    def test_the_replaced_models_data_file_goes_with_it(self, tmp_path):
        path = tmp_path / "out.onnx"
        for fill in (1.0, 2.0, 3.0):
            load(wide(fill)).save(path, external_data=True)
            assert load(path).to_proto() == wide(fill)
            assert len(names(tmp_path)) == 2
        with load(wide(4.0)).stage(path, external_data=True):
            assert len(names(tmp_path)) == 4
        assert load(path).to_proto() == wide(3.0)
