"""Published networks as exported from training, and what each tool leaves of their BN and affines.

    python benchmarks/networks.py --folder build/networks --peers-python peers/bin/python

Builds the networks that are not in the folder yet (torch modules need torch, the Keras ones keras,
tensorflow and tf2onnx), runs bnfold and every peer once on each, and prints the counts.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Sequence
from pathlib import Path

from architectures import KERAS, TORCH
from compare import chosen_tools, progress, tool_arguments
from harness.build import build_onnx
from harness.comparison import Comparison, Row, Settings, compare
from harness.report import setting, write_json
from harness.tables import short_table

#: tf2onnx has no conversion for the exact GELU that Keras uses in it.
NOT_CONVERTIBLE = {"keras_convnext_tiny"}
NETWORKS = [*TORCH, *(name for name in KERAS if name not in NOT_CONVERTIBLE)]


def available(names: Sequence[str]) -> list[str]:
    """Those of the networks whose framework is installed; says which are left out."""
    kept = list(names)
    for group, modules in ((TORCH, ("torch",)), (KERAS, ("keras", "tensorflow", "tf2onnx"))):
        missing = [module for module in modules if importlib.util.find_spec(module) is None]
        if missing and any(name in group for name in kept):
            kept = [name for name in kept if name not in group]
            print(f"{', '.join(missing)} not installed: {', '.join(group)} are left out.")
    return kept


def left(row: Row) -> str:
    """``BN + per-channel affines, Convs, nodes``."""
    return f"{row.result['left']} · {row.result['convs']} · {row.result['nodes']}"


def tables(comparisons: Sequence[Comparison]) -> list[str]:
    """The counts, and the output differences, in Markdown; what failed is told below the first."""
    counts = short_table(comparisons, "BN + per-channel affines · Convs · nodes", left)
    differences = short_table(
        comparisons, "largest output difference relative to the range", lambda row: _difference(row)
    )
    differences.notes = []
    return [counts.markdown(), differences.markdown()]


def _difference(row: Row) -> str:
    value = row.result.get("difference")
    return "" if value is None else f"{value:.1e}"


def measure(names: Sequence[str], folder: Path, arguments: argparse.Namespace) -> tuple[str, list[Comparison]]:
    """Build what is missing and run every tool once on each network."""
    tools = [tool for tool in chosen_tools(arguments) if tool.key != "onnx"]
    where = setting(tool.release for tool in tools)
    settings = Settings(runs=0, timeout=arguments.timeout, size=arguments.size, latency_seconds=0)
    comparisons = []
    for name in available(names):
        progress(f"building {name}")
        path = build_onnx(name, folder)
        comparisons.append(compare(path, tools, settings, progress))
    progress("")
    return where, comparisons


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"of {', '.join(NETWORKS)} (default: all)")
    parser.add_argument("--folder", type=Path, default=Path("build/networks"), help="where the ONNX files are kept")
    parser.add_argument("--build-only", action="store_true", help="write the files and stop")
    tool_arguments(parser)
    arguments = parser.parse_args(argv)
    names = arguments.networks or NETWORKS
    if unknown := [name for name in names if name not in NETWORKS]:
        parser.error(f"unknown networks: {', '.join(unknown)}")
    if arguments.build_only:
        for name in available(names):
            print(build_onnx(name, arguments.folder))
        return
    where, comparisons = measure(names, arguments.folder, arguments)
    print(where)
    for table in tables(comparisons):
        print(f"\n{table}")
    if arguments.json:
        write_json(arguments.json, where, [comparison.to_dict() for comparison in comparisons])


if __name__ == "__main__":
    main()
