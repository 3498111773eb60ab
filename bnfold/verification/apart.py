"""Work in a process of its own, so that a time limit holds and a crash of the runtime is survived."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np

from bnfold import errors
from bnfold.graph import Array
from bnfold.verification.feeds.values import Inputs
from bnfold.verification.runtime.onnx_file import OnnxFile


class EndedError(Exception):
    """The process was ended: by the time limit, by the memory limit or by a crash. The message says which."""


def run(
    task: str,
    models: Sequence[OnnxFile],
    inputs: Inputs | None,
    options: Mapping[str, Any],
    folder: Path,
    timeout: float | None,
    memory: int | None,
) -> dict[str, Any]:
    """The reply of :mod:`bnfold.verification.worker` to a task.

    ``folder`` is an empty directory for the exchange. Raises EndedError if the worker did not come
    to a reply, and whatever BnfoldError it met.
    """
    request = {
        "task": task,
        "models": [[str(model.path.resolve()), model.name] for model in models],
        "inputs": None if inputs is None else _stored(inputs, folder),
        "options": dict(options),
        "timeout": timeout,
        "memory": memory,
    }
    (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
    # A Python that starts with -m looks for modules in its working directory first: an empty one.
    search = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, search))}
    command = [sys.executable, "-m", "bnfold.verification.worker", str(folder)]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise EndedError(f"the time limit of {timeout:g} s was reached") from error
    return _reply(folder / "reply.json", done, timeout, memory)


def _reply(
    path: Path, done: subprocess.CompletedProcess[str], timeout: float | None, memory: int | None
) -> dict[str, Any]:
    if done.returncode < 0:
        if timeout is not None and -done.returncode == getattr(signal, "SIGALRM", None):
            raise EndedError(f"the time limit of {timeout:g} s was reached")
        if memory is None:
            name = signal.Signals(-done.returncode).name
            raise EndedError(f"onnxruntime crashed on these models ({name})")
    if done.returncode or not path.exists():
        if memory is not None:  # whatever happened, it is not known to happen without the limit
            raise EndedError(f"the process failed within the memory limit of {memory / 1e6:,.0f} MB")
        raise RuntimeError(f"the verification process failed:\n{done.stderr}")
    reply: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if "error" in reply:
        raise getattr(errors, reply["error"])(reply["message"])
    return reply


def _stored(inputs: Inputs, folder: Path) -> list[str]:
    """The caller's inputs as files: those that are files already by their full path."""
    if isinstance(inputs, (str, PathLike)):
        return [str(Path(fspath(inputs)).resolve())]
    stem = folder / f"inputs-{len(list(folder.glob('inputs-*')))}"
    if isinstance(inputs, np.ndarray):
        path = stem.with_suffix(".npy")
        np.save(path, _storable(inputs))
        return [str(path)]
    if isinstance(inputs, Mapping):
        path = stem.with_suffix(".npz")
        arrays: dict[str, Any] = {name: _storable(value) for name, value in inputs.items()}
        np.savez(path, **arrays)
        return [str(path)]
    return [path for item in inputs for path in _stored(item, folder)]


def _storable(value: Any) -> Array:
    """A plain array; objects are strings here and would need pickle to be stored."""
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise errors.UsageError("inputs that are not plain arrays cannot be given with a time limit") from error
    return array.astype(str) if array.dtype == object else array
