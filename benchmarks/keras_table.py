"""keras.applications with random BN statistics, folded from Keras to Keras.

    python benchmarks/keras_table.py

Prints parameters before and after beside those that KITO (2018), the best-known folder for Keras,
published for the same networks; BN left; seconds for loading, folding and saving beside those of
Keras's own load and save; and the largest output difference relative to the output's range.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from architectures import KERAS
from compare import progress
from harness.build import build_keras
from harness.processes import run
from harness.report import setting, write_json
from harness.tables import MISSING, Table
from harness.tools import ROOT, own_version, versions_of

JOB = Path(__file__).parent / "harness" / "keras_job.py"
#: Parameters after folding, as KITO's README gives them.
KITO = {
    "keras_mobilenet": 4_221_032,
    "keras_resnet50": 25_530_472,
    "keras_inception_v3": 23_817_352,
    "keras_xception": 22_828_688,
    "keras_densenet121": 8_040_040,
}
HEADERS = (
    *("network", "parameters", "folded", "KITO", "BN", "left"),
    *("load s", "fold s", "save s", "Keras load s", "Keras save s", "difference"),
)
NETWORKS = [*KITO, *(name for name in KERAS if name not in KITO)]


def measure(names: Sequence[str], folder: Path, timeout: float) -> list[dict[str, Any]]:
    """Fold each network in a process of its own. Raises RuntimeError if one fails."""
    results = []
    for name in names:
        progress(f"building {name}")
        path = build_keras(name, folder)
        progress(f"folding {name}")
        done = run([sys.executable, str(JOB), str(path)], timeout=timeout, environment={"PYTHONPATH": str(ROOT)})
        if done.fault:
            raise RuntimeError(f"{name}: {done.fault}")
        results.append({"network": name, "kito": KITO.get(name), **json.loads(done.output.splitlines()[-1])})
    progress("")
    return results


def table(results: Sequence[dict[str, Any]]) -> Table:
    made = Table(
        "Keras → Keras",
        HEADERS,
    )
    for row in results:
        seconds = (f"{row[key]:.2f}" for key in ("load", "fold", "save", "keras_load", "keras_save"))
        made.add(
            row["network"].removeprefix("keras_"),
            f"{row['parameters_before']:,}",
            f"{row['parameters_after']:,}",
            f"{row['kito']:,}" if row["kito"] else MISSING,
            str(row["batchnorms_before"]),
            str(row["batchnorms_after"]),
            *seconds,
            f"{row['difference']:.1e}",
        )
    return made


def where() -> str:
    versions = versions_of(sys.executable, ("keras", "tensorflow", "tensorflow-cpu"))
    return setting([f"bnfold {own_version()}", *(f"{name} {version}" for name, version in versions.items())])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"of {', '.join(NETWORKS)} (default: all)")
    parser.add_argument("--folder", type=Path, help="keep the .keras files here (default: a temporary folder)")
    parser.add_argument("--timeout", type=float, default=600, metavar="S", help="seconds for one network (600)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers here")
    arguments = parser.parse_args(argv)
    names = arguments.networks or NETWORKS
    if unknown := [name for name in names if name not in NETWORKS]:
        parser.error(f"unknown networks: {', '.join(unknown)}")
    with tempfile.TemporaryDirectory(prefix="bnfold-bench-") as temporary:
        results = measure(names, arguments.folder or Path(temporary), arguments.timeout)
    print(where())
    table(results).print()
    if arguments.json:
        write_json(arguments.json, where(), results)


if __name__ == "__main__":
    main()
