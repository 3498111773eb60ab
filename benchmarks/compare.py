"""Compare bnfold with other tools on ONNX models, every tool as a whole process.

    python benchmarks/compare.py model.onnx --peers-python peers/bin/python --plot compare.png

For each model and tool: median wall and CPU time, peak memory, what is left of BN and affines, the
largest output difference relative to the output's range (onnxruntime, its optimisations off), and
the latency in onnxruntime with all its optimisations on. Without models, the shipped samples.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.comparison import Comparison, Settings, compare
from harness.plot import plot
from harness.report import setting, write_json
from harness.tables import full_table
from harness.tools import TOOLS, Tool, find_tools

SAMPLES = Path(__file__).parents[1] / "sample_models"


def tool_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that every script with peers has."""
    parser.add_argument(
        "--peers-python",
        action="append",
        metavar="PYTHON",
        help="an interpreter that has the other tools installed (repeatable; default: this one)",
    )
    parser.add_argument("--tools", metavar="NAMES", help=f"only these, by comma: {', '.join(TOOLS)}")
    parser.add_argument("--timeout", type=float, default=600, metavar="S", help="seconds for one process (600)")
    parser.add_argument("--size", type=int, default=224, metavar="N", help="stands in for open dimensions (224)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers here")


def chosen_tools(arguments: argparse.Namespace) -> list[Tool]:
    """The tools that are asked for and installed; those that are not are named."""
    wanted = arguments.tools.split(",") if arguments.tools else None
    if wanted and (unknown := set(wanted) - set(TOOLS)):
        sys.exit(f"unknown tools: {', '.join(sorted(unknown))}; there are {', '.join(TOOLS)}")
    tools, missing = find_tools(arguments.peers_python or [sys.executable], wanted)
    if missing:
        print(f"Not installed, left out: {', '.join(missing)}.")
    return tools


def progress(text: str) -> None:
    """Say on a terminal what is being done, on one line."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="*", type=Path, help="ONNX files (default: the shipped samples)")
    tool_arguments(parser)
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="timed runs of each tool (5)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="for the latency, 0: all cores (1)")
    parser.add_argument("--latency", type=float, default=10, metavar="S", help="seconds to spend on it (10); 0: none")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw the numbers here (needs matplotlib)")
    parser.add_argument("--markdown", action="store_true", help="print Markdown instead of a drawn table")
    arguments = parser.parse_args(argv)
    if missing := [str(model) for model in arguments.models if not model.is_file()]:
        parser.error(f"no such file: {', '.join(missing)}")
    return arguments


def main(argv: Sequence[str] | None = None) -> list[Comparison]:
    arguments = parse(argv)
    tools = chosen_tools(arguments)
    settings = Settings(
        arguments.runs, arguments.timeout, arguments.size, arguments.threads, latency_seconds=arguments.latency
    )
    where = setting(tool.release for tool in tools)
    print(where)
    comparisons = []
    for model in arguments.models or sorted(SAMPLES.glob("*.onnx")):
        comparisons.append(compare(model, tools, settings, progress))
        progress("")
        table = full_table(comparisons[-1])
        print(f"\n{table.title}\n\n{table.markdown()}") if arguments.markdown else table.print()
    if arguments.json:
        write_json(arguments.json, where, [comparison.to_dict() for comparison in comparisons])
    if arguments.plot and not plot(comparisons, arguments.plot):
        print("No plot: matplotlib is not installed.")
    return comparisons


if __name__ == "__main__":
    main()
