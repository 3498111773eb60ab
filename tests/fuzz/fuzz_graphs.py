"""Fold random graphs, as many as one likes: ``python tests/fuzz/fuzz_graphs.py --count 100000 --seed 7``.

Graph ``i`` of seed ``s`` is always the same one; a failure prints both, and ``--only i`` repeats it.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections import Counter
from functools import partial
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / "support"), str(TESTS.parent)]

import onnx  # noqa: E402
from graph_checks import check, check_in_float64  # noqa: E402
from graph_choices import Replayed, Seeded  # noqa: E402
from helpers import Net  # noqa: E402
from random_graphs import grow  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000, help="how many graphs (default: 1000)")
    parser.add_argument("--seed", type=int, default=None, help="the seed (default: from the clock)")
    parser.add_argument("--size", type=int, default=14, help="the largest number of decisions a graph is made of")
    parser.add_argument("--only", type=int, default=None, metavar="INDEX", help="repeat one graph")
    parser.add_argument("--float64", action="store_true", help="compare every graph in float64 too, which takes longer")
    parser.add_argument("--save", type=Path, default=None, metavar="DIR", help="write the graphs that fail here")
    options = parser.parse_args()
    seed = int(time.time()) if options.seed is None else options.seed
    print(f"seed {seed}")
    indices = range(options.count) if options.only is None else [options.only]
    kinds: Counter[str] = Counter()
    failures = [index for index in indices if not _try(seed, index, options, kinds)]
    print(f"{len(indices)} graphs, {len(failures)} failures {failures[:20] or ''}")
    print(", ".join(f"{kind} {count}" for kind, count in kinds.most_common()))
    return 1 if failures else 0


def _try(seed: int, index: int, options: argparse.Namespace, kinds: Counter[str]) -> bool:
    choices, build = Seeded(seed, index), partial(grow, size=options.size)
    try:
        folded = check(build, choices)
        kinds.update(step.kind.value for step in folded.plan.steps)
        if options.float64:
            check_in_float64(build, Replayed(choices.record))
    except Exception:  # noqa: BLE001 - whatever a fold raises is a finding
        print(f"--- seed {seed}, graph {index}")
        traceback.print_exc()
        if options.save is not None:
            options.save.mkdir(parents=True, exist_ok=True)
            onnx.save(build(Net(seed=1), Replayed(choices.record)), options.save / f"{seed}_{index}.onnx")
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
