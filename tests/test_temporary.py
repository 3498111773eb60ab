"""Temporary files: gone when the block ends, and when the process does, but only in the process that made them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bnfold.temporary import removed_in_the_end, temporary_folder, temporary_name

#: Removes nothing at the end of the block, as if a signal had arrived in that very moment.
INTERRUPTED = """
import atexit, os, shutil, sys
from pathlib import Path
from bnfold.temporary import removed_in_the_end
def interrupted(*arguments, **options):
    raise KeyboardInterrupt
folder, mark = Path(sys.argv[1]), Path(sys.argv[2])
rmtree, shutil.rmtree = shutil.rmtree, interrupted
try:
    with removed_in_the_end(folder):
        folder.mkdir()
        if hasattr(os, "fork") and not os.fork():
            shutil.rmtree = rmtree
            atexit._run_exitfuncs()  # as a fork does at its own end
            os._exit(0)
        if hasattr(os, "wait"):
            os.wait()
        mark.write_text(str(folder.exists()))
except KeyboardInterrupt:
    shutil.rmtree = rmtree
"""


def test_a_folder_with_files_in_it_is_removed() -> None:
    with temporary_folder() as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "file").write_text("x")
    assert not folder.exists()


def test_a_file_is_removed_when_the_block_fails(tmp_path: Path) -> None:
    def spoil() -> None:
        with removed_in_the_end(tmp_path / temporary_name(".onnx")) as file:
            file.write_text("x")
            raise LookupError

    with pytest.raises(LookupError):
        spoil()
    assert not os.listdir(tmp_path)


def test_a_file_that_was_renamed_stays(tmp_path: Path) -> None:
    with removed_in_the_end(tmp_path / temporary_name()) as file:
        file.write_text("x")
        file.rename(tmp_path / "kept")
    assert os.listdir(tmp_path) == ["kept"]


def test_what_a_signal_leaves_is_removed_at_exit(tmp_path: Path) -> None:
    folder, mark = tmp_path / temporary_name(), tmp_path / "mark"
    subprocess.run([sys.executable, "-c", INTERRUPTED, folder, mark], check=True, timeout=60)
    assert mark.read_text() == "True"  # the fork left its parent's folder alone
    assert not folder.exists()


#: Makes a folder with a file in it, and is killed or waits.
STAYS = """
import sys, time
from pathlib import Path
from bnfold.temporary import removed_in_the_end, temporary_name
with removed_in_the_end(Path(sys.argv[1]) / temporary_name(".onnx")) as folder:
    folder.mkdir()
    (folder / "weights").write_text("x")
    print("ready", flush=True)
    time.sleep(600)
"""
SWEEPS = """
import sys
from pathlib import Path
from bnfold.temporary import removed_in_the_end, temporary_name
with removed_in_the_end(Path(sys.argv[1]) / temporary_name()) as file:
    file.write_text("x")
"""


def sweep(folder: Path) -> list[str]:
    """What is left when another process has put something into the folder."""
    subprocess.run([sys.executable, "-c", SWEEPS, folder], check=True, timeout=60)
    return sorted(os.listdir(folder))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system does not say when a process began")
def test_what_a_killed_process_left_is_swept_and_what_a_living_one_uses_is_not(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", STAYS, tmp_path], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        (used,) = os.listdir(tmp_path)
        assert sweep(tmp_path) == [used]
    finally:
        child.kill()
        child.communicate()
    assert sweep(tmp_path) == []


def test_what_another_machine_left_is_swept_after_a_week(tmp_path: Path) -> None:
    young, old = (tmp_path / f".bnfold-00000000-1-1-{digit * 16}.onnx" for digit in "ab")
    for file in (young, old):
        file.write_text("x")
    os.utime(old, (0, 0))
    assert sweep(tmp_path) == [young.name]


def test_nothing_else_is_swept(tmp_path: Path) -> None:
    mine, link = tmp_path / "kept", tmp_path / f".bnfold-00000000-1-1-{'c' * 16}"
    mine.write_text("x")
    link.symlink_to(mine)
    for name in (".bnfold-cache", ".bnfold-0123456789abcdef.onnx", f"x.bnfold-00000000-1-1-{'d' * 16}"):
        (tmp_path / name).write_text("x")
        os.utime(tmp_path / name, (0, 0))
    before = sorted(os.listdir(tmp_path))
    assert sweep(tmp_path) == before
