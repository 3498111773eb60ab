"""Measure everything in README.md again and put the new tables into it: one command.

    python benchmarks/measure_all.py --peers-python peers/bin/python --models RFB-320.onnx mobileone_s0.onnx

Needs torch, keras, tensorflow, tf2onnx and matplotlib beside bnfold. Takes most of an hour on two
cores, which should have nothing else to do. The numbers behind the tables go to results/*.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import keras_table
import networks
import scaling
from compare import chosen_tools, progress, tool_arguments
from harness.build import build_onnx
from harness.comparison import Comparison, Settings, compare
from harness.plot import plot
from harness.report import replace_section, setting, write_json
from harness.tables import full_table

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PLOT = HERE / "plots" / "compare.png"
#: What the whole processes are measured on, beside the files named with --models.
COMPARED = ("resnet50", "keras_resnet50", "keras_inception_v3", "repvgg_a0", "levit_128s", "keras_mobilenet_v2")


def measure_compare(arguments: argparse.Namespace) -> None:
    tools = chosen_tools(arguments)
    settings = Settings(arguments.runs, arguments.timeout, arguments.size)
    models = [*(build_onnx(name, arguments.folder) for name in COMPARED), *arguments.models]
    comparisons = [compare(model, tools, settings, progress) for model in models]
    where = setting(tool.release for tool in tools)
    write_json(RESULTS / "compare.json", where, [comparison.to_dict() for comparison in comparisons])
    replace_section("compare", f"{where}.\n\n" + "\n\n".join(map(_titled, comparisons)))
    PLOT.parent.mkdir(exist_ok=True)
    if not plot(comparisons, PLOT):
        print("No plot: matplotlib is not installed.")


def _titled(comparison: Comparison) -> str:
    table = full_table(comparison)
    return f"**{table.title}**\n\n{table.markdown()}"


def measure_networks(arguments: argparse.Namespace) -> None:
    where, comparisons = networks.measure(networks.NETWORKS, arguments.folder, arguments)
    write_json(RESULTS / "networks.json", where, [comparison.to_dict() for comparison in comparisons])
    counts, differences = networks.tables(comparisons)
    replace_section("networks", f"{where}.\n\n{counts}")
    replace_section("differences", differences)


def measure_keras(arguments: argparse.Namespace) -> None:
    results = keras_table.measure(keras_table.NETWORKS, arguments.folder, arguments.timeout)
    write_json(RESULTS / "keras.json", keras_table.where(), results)
    replace_section("keras", f"{keras_table.where()}.\n\n{keras_table.table(results).markdown()}")


def measure_scaling(arguments: argparse.Namespace) -> None:
    kinds = {"nodes": scaling.NODES, "affines": scaling.AFFINES, "bytes": scaling.BYTES}
    sizes = [(kind, size) for kind, given in kinds.items() for size in given]
    results = [scaling.measure(kind, size, 3, arguments.timeout) for kind, size in sizes]
    write_json(RESULTS / "scaling.json", scaling.where(), results)
    tables = "\n\n".join(table.markdown() for table in scaling.tables(results))
    replace_section("scaling", f"{scaling.where()}.\n\n{tables}")


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "compare": measure_compare,
    "networks": measure_networks,
    "keras": measure_keras,
    "scaling": measure_scaling,
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    tool_arguments(parser)
    parser.add_argument("--models", nargs="*", type=Path, default=[], help="more ONNX files for the comparison")
    parser.add_argument("--folder", type=Path, default=Path("build/networks"), help="where built networks are kept")
    parser.add_argument("--runs", type=int, default=7, metavar="N", help="timed runs of each tool (7)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="not all of it")
    arguments = parser.parse_args(argv)
    RESULTS.mkdir(exist_ok=True)
    for name in arguments.only:
        PARTS[name](arguments)
        progress("")
        print(f"{name}: done")


if __name__ == "__main__":
    main()
