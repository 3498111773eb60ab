"""Inspection in a process of its own: on some damaged files HDF5's C library never returns, or crashes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from bnfold import errors
from bnfold.errors import ModelFileError
from bnfold.formats.keras import inspection
from bnfold.formats.keras.backend import require_keras
from bnfold.formats.keras.inspection import Inspected

#: How long the inspection of any file may take, and how fast a large one is read at the least.
_SECONDS = 30.0
_BYTES_PER_SECOND = 5e6
_CHILD = (
    "import json, sys\n"
    "sys.path[:] = json.loads(sys.argv[1])\n"
    "from bnfold.formats.keras.apart import answer\n"
    "answer(sys.argv[2])\n"
)


def inspect(path: Path) -> Inspected:
    """:func:`bnfold.formats.keras.inspection.inspect`, which may neither hang nor crash the caller.

    Raises ModelFileError, and MissingExtraError where Keras is not installed.
    """
    require_keras()
    seconds = _SECONDS + path.stat().st_size / _BYTES_PER_SECOND
    command = [sys.executable, "-I", "-c", _CHILD, json.dumps(sys.path), str(path)]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ModelFileError(f"{path} is damaged: reading it does not come to an end") from error
    if done.returncode < 0:
        raise ModelFileError(f"{path} is damaged: reading it crashes the HDF5 library (signal {-done.returncode})")
    if done.returncode:
        raise RuntimeError(f"the inspection of {path} failed: {done.stderr}")
    kind, content = json.loads(done.stdout)
    if kind != Inspected.__name__:
        raise getattr(errors, kind)(content)
    return Inspected(*content)


def answer(path: str) -> None:
    """In the other process: print what inspection found, or the error it ended with, as JSON."""
    kind = Inspected.__name__
    content: Inspected | str
    try:
        content = inspection.inspect(Path(path))
    except errors.BnfoldError as error:
        kind, content = type(error).__name__, str(error)
    except MemoryError:
        kind, content = "ModelFileError", f"{path} does not fit into memory"
    sys.stdout.write(json.dumps([kind, content]))
