"""The process behind a time limit: ``python -m bnfold.verification.worker FOLDER``.

Reads ``request.json`` in the folder, does the task, and writes ``reply.json`` there.
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np

from bnfold.errors import BnfoldError
from bnfold.verification.runtime.onnx_file import OnnxFile


def main(folder: Path) -> None:
    """Answer the request in ``folder``."""
    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    _limit(request["timeout"], request["memory"])
    try:
        reply = _answer(request, folder)
    except BnfoldError as error:
        reply = {"error": type(error).__name__, "message": str(error)}
    (folder / "reply.json").write_text(json.dumps(reply), encoding="utf-8")


def _answer(request: dict[str, Any], folder: Path) -> dict[str, Any]:
    inputs = request["inputs"] and [_loaded(Path(path), folder) for path in request["inputs"]]
    models = [OnnxFile(Path(path), name) for path, name in request["models"]]
    if request["task"] == "verify":
        from bnfold.verification.verifier import Options, verify_files

        return verify_files(models[0], models[1], inputs, Options(**request["options"])).to_dict()
    if request["task"] == "runtime":
        from bnfold.verification.optimizers import check_file
        from bnfold.verification.verifier import Options

        return check_file(models[0], inputs, Options(**request["options"])).to_dict()
    raise ValueError(f"unknown task {request['task']!r}")


def _loaded(path: Path, folder: Path) -> Path | np.ndarray[Any, Any] | dict[str, Any]:
    """What the caller gave: a file of his own, or arrays that were put into the exchange folder."""
    if path.parent != folder:
        return path
    content = np.load(path)
    if isinstance(content, np.ndarray):
        return content
    with content:
        return dict(content)


def _limit(timeout: float | None, memory: int | None) -> None:
    """End this process at the deadline even if nobody is left to do it, and bound its address space."""
    if timeout is not None and hasattr(signal, "setitimer"):
        # The default action ends the process, in the middle of C++ code too.
        signal.setitimer(signal.ITIMER_REAL, timeout)
    if memory is not None:
        try:
            import resource
        except ImportError:
            return  # Windows has no such limit.
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
