"""The tools that are compared: what they are called, which package they come in, how they are started."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PEER = Path(__file__).with_name("peer.py")
BNFOLD = "bnfold"

#: Key → what tables call it, and the package it comes in. The key is a function of peer.py.
TOOLS = {
    BNFOLD: ("bnfold", "bnfold"),
    "onnxruntime_basic": ("onnxruntime, basic", "onnxruntime"),
    "onnxruntime_extended": ("onnxruntime, extended", "onnxruntime"),
    "onnxsim": ("onnxsim", "onnxsim"),
    "onnxslim": ("onnxslim", "onnxslim"),
    "onnxoptimizer": ("onnxoptimizer", "onnxoptimizer"),
    "onnxscript": ("onnxscript", "onnxscript"),
    "olive": ("olive", "olive-ai"),
    "onnx": ("(onnx load + save)", "onnx"),
}

_VERSIONS = """
import importlib.metadata, json, sys
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


class Tool(NamedTuple):
    """A tool that is installed: its key, name and version, and the interpreter that has it."""

    key: str
    name: str
    version: str
    python: str

    def command(self, source: Path, target: Path) -> list[str]:
        """The process that reads ``source`` and writes ``target``."""
        if self.key == BNFOLD:
            return [self.python, "-m", "bnfold", "fold", str(source), "-o", str(target), "--no-verify"]
        return [self.python, str(PEER), self.key, str(source), str(target)]

    @property
    def release(self) -> str:
        """``package version``."""
        return f"{TOOLS[self.key][1]} {self.version}"

    @property
    def environment(self) -> dict[str, str]:
        """bnfold is measured as it lies in this checkout, installed or not."""
        return {"PYTHONPATH": str(ROOT)} if self.key == BNFOLD else {}


def find_tools(pythons: Sequence[str], wanted: Sequence[str] | None = None) -> tuple[list[Tool], list[str]]:
    """The tools that are installed, each in the first of the interpreters that has it, and the names of
    those that are not. bnfold runs in the interpreter of this process.
    """
    packages = sorted({package for key, (_, package) in TOOLS.items() if key != BNFOLD})
    versions = {python: versions_of(python, packages) for python in dict.fromkeys(pythons)}
    found, missing = [], []
    for key, (name, package) in TOOLS.items():
        if wanted is not None and key not in wanted:
            continue
        if key == BNFOLD:
            found.append(Tool(key, name, own_version(), sys.executable))
            continue
        python = next((python for python, known in versions.items() if package in known), None)
        if python is None:
            missing.append(name)
        else:
            found.append(Tool(key, name, versions[python][package], python))
    return found, missing


def versions_of(python: str, packages: Sequence[str]) -> dict[str, str]:
    """The versions of those of the packages that an interpreter has."""
    answer = subprocess.run(
        [python, "-c", _VERSIONS, *packages], stdout=subprocess.PIPE, check=True, text=True, timeout=60
    )
    versions: dict[str, str] = json.loads(answer.stdout)
    return versions


def own_version() -> str:
    sys.path.insert(0, str(ROOT))
    try:
        import bnfold
    finally:
        sys.path.remove(str(ROOT))
    return str(bnfold.__version__)
