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
