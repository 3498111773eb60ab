"""How the cost of loading, analysing and folding grows with a model, in nodes and in bytes.

    python benchmarks/scaling.py

Makes each synthetic model in a temporary folder, runs every step on it as a whole process, and removes
it. Prints wall time, peak memory, and the exponent: how the time grew from one size to the next, 1.00
being in proportion. ``cp`` is what copying the files costs.
"""

from __future__ import annotations

import argparse
import math
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from compare import progress
from harness.processes import run
from harness.report import setting, write_json
from harness.tables import MISSING, Table
from harness.tools import ROOT, own_version

SYNTHETIC = Path(__file__).parent / "harness" / "synthetic.py"
NODES = (1_000, 10_000, 100_000)
AFFINES = (1_000, 10_000, 100_000)
BYTES = (10_000_000, 100_000_000, 1_000_000_000, 4_000_000_000)
_BNFOLD = [sys.executable, "-m", "bnfold"]
_LOAD = "import sys, bnfold; bnfold.load(sys.argv[1])"

#: Step → the command for a model and an output path.
STEPS: dict[str, Callable[[Path, Path], list[str]]] = {
    "load": lambda model, out: [sys.executable, "-c", _LOAD, str(model)],
    "analyze": lambda model, out: [*_BNFOLD, "analyze", str(model), "--fail-on", "never", "--quiet"],
    "fold": lambda model, out: [*_BNFOLD, "fold", str(model), "-o", str(out), "--no-verify", "--quiet"],
    "cp": lambda model, out: ["cp", *map(str, model.parent.glob(f"{model.name}*")), str(out.parent)],
}


def measure(kind: str, size: int, runs: int, timeout: float) -> dict[str, Any]:
    """Medians of wall time and the highest peak for each step on one model. Raises RuntimeError on failure."""
    with tempfile.TemporaryDirectory(prefix="bnfold-bench-") as folder:
        model, output = Path(folder, "in", "model.onnx"), Path(folder, "out", "folded.onnx")
        model.parent.mkdir()
        progress(f"{size:.0e} {kind}: making the model")
        _succeed(run([sys.executable, str(SYNTHETIC), kind, str(size), str(model)], timeout=timeout), "synthetic")
        row: dict[str, Any] = {
            "kind": kind,
            "size": size,
            "file": sum(f.stat().st_size for f in model.parent.iterdir()),
        }
        for step, command in STEPS.items():
            walls, peaks = [], []
            for turn in range(runs):
                progress(f"{size:.0e} {kind}: {step}, run {turn + 1} of {runs}")
                shutil.rmtree(output.parent, ignore_errors=True)
                output.parent.mkdir()
                done = run(command(model, output), timeout=timeout, environment={"PYTHONPATH": str(ROOT)})
                _succeed(done, step)
                walls.append(done.wall)
                peaks.append(done.peak)
            row[step] = {"wall": statistics.median(walls), "peak": max(peaks)}
    return row


def _succeed(done: Any, step: str) -> None:
    if done.fault:
        raise RuntimeError(f"{step}: {done.fault}")


def table(title: str, rows: Sequence[dict[str, Any]]) -> Table:
    made = Table(title, ["size", *(f"{step} {unit}" for step in STEPS for unit in _units(step))])
    for before, row in zip([None, *rows], rows, strict=False):
        cells = [f"{row['size']:,}"]
        for step in STEPS:
            now = row[step]
            cells.append(f"{now['wall']:.2f}")
            if step != "cp":
                cells += [f"{now['peak'] / 1e6:.0f}", _exponent(before, row, step)]
        made.add(*cells)
    return made


def _units(step: str) -> list[str]:
    return ["s"] if step == "cp" else ["s", "MB", "exp."]


def _exponent(before: dict[str, Any] | None, row: dict[str, Any], step: str) -> str:
    if before is None:
        return MISSING
    return f"{math.log(row[step]['wall'] / before[step]['wall']) / math.log(row['size'] / before['size']):.2f}"


def tables(results: Sequence[dict[str, Any]]) -> list[Table]:
    titles = {"nodes": "nodes", "affines": "affines in a row", "bytes": "bytes of weights"}
    groups = [(kind, [row for row in results if row["kind"] == kind]) for kind in titles]
    return [table(titles[kind], rows) for kind, rows in groups if rows]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--nodes", type=float, nargs="*", default=NODES, help="sizes in nodes")
    parser.add_argument("--affines", type=float, nargs="*", default=AFFINES, help="sizes in Mul by a vector, in a row")
    parser.add_argument("--bytes", type=float, nargs="*", default=BYTES, help="sizes in bytes of weights")
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="of each step (3)")
    parser.add_argument("--timeout", type=float, default=600, metavar="S", help="seconds for one process (600)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers here")
    arguments = parser.parse_args(argv)
    kinds = {"nodes": arguments.nodes, "affines": arguments.affines, "bytes": arguments.bytes}
    sizes = [(kind, int(size)) for kind, given in kinds.items() for size in given]
    results = [measure(kind, size, arguments.runs, arguments.timeout) for kind, size in sizes]
    progress("")
    print(where())
    for made in tables(results):
        made.print()
    if arguments.json:
        write_json(arguments.json, where(), results)


def where() -> str:
    return setting([f"bnfold {own_version()}"])


if __name__ == "__main__":
    main()
