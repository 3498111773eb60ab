"""How many small mistakes in the operators' facts would the tests notice?

    python tests/mutation/mutate.py --sample 100 --seed 1
    python tests/mutation/mutate.py --module pooling --module affine --jobs 2
    python tests/mutation/mutate.py --module rearrange --own

Changes one condition, constant or operator at a time in ``bnfold/operators`` and
``bnfold/affine.py``, as they are imported (no file changes), and runs the tests of operators and folding
until one fails: each mutant in a fork of one process that has imported everything else. Prints
every mutant that no test noticed, and the share that was. Those that cannot be noticed, because
they compute the same, are listed with the reason in ``equivalent-MODULE.txt`` and are not counted.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import random
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT)]

from mutants import Mutant, mutants  # noqa: E402

#: The tests that are to notice what those of the module itself did not.
OTHERS = ("tests/operators", "tests/test_affine.py", "tests/folding", "tests/analysis")
#: Modules whose own tests have another name.
OWN = {
    "batchnorm": ("test_batchnorm", "test_arithmetic"),
    "__init__": ("test_base", "test_arithmetic"),
    "base": ("test_base", "test_batchnorm", "test_arithmetic"),
    "axes": ("test_rearrange",),
    "dialect": ("test_dialect", "test_batchnorm"),
    "joins": ("test_arithmetic",),
    "layer": ("test_linear_layers", "test_plain_layers"),
    "linear": ("test_linear", "test_conv", "test_matmul"),
    "normalization": ("test_normalization", "test_batchnorm"),
    "pointwise": ("test_pointwise", "test_convolution"),
    "passing": ("test_elementwise",),
}
#: What the tests import beside bnfold: once, before the forks.
IMPORTED = (
    "numpy", "ml_dtypes", "networkx", "hypothesis", "onnx", "onnx.checker", "onnx.inliner", "onnx.reference",
    "onnx.reference.ops", "onnx.shape_inference", "onnxruntime",
)  # fmt: skip
IMPORTED_FOR_KERAS = ("h5py", "tensorflow", "keras")
#: Processor time for the tests of one mutant, in seconds: more is an endless loop, which somebody would notice.
CPU_LIMIT = 300


class Case(NamedTuple):
    """A mutant of a file of the project."""

    file: str
    mutant: Mutant

    @property
    def stem(self) -> str:
        return Path(self.file).stem

    def key(self) -> str:
        """What names it in ``equivalent-MODULE.txt``: the file and the lines as they are in the mutant."""
        return f"{self.file} | {' '.join(line[1:].strip() for line in self.diff() if line[0] == '+')}"

    def diff(self) -> list[str]:
        before = (ROOT / self.file).read_text(encoding="utf-8").splitlines()
        lines = difflib.unified_diff(before, self.mutant.source.splitlines(), n=0, lineterm="")
        return [line for line in lines if line[0] in "+-" and line[:3] not in ("+++", "---")]


def cases(modules: Sequence[str]) -> list[Case]:
    """All mutants of the modules, by default of all of them."""
    operators = sorted((ROOT / "bnfold" / "operators").rglob("*.py"))
    files = ["bnfold/affine.py", *(path.relative_to(ROOT).as_posix() for path in operators)]
    wanted = [file for file in files if not modules or Path(file).stem in modules]
    return [Case(file, mutant) for file in wanted for mutant in mutants((ROOT / file).read_text(encoding="utf-8"))]


def equivalent() -> set[str]:
    """The keys of mutants that compute the same as the original; the reason follows each on its own line."""
    lines = (line for file in HERE.glob("equivalent-*.txt") for line in file.read_text("utf-8").splitlines())
    return {line for line in lines if line.startswith("bnfold/")}


class Mutation:
    """Finds the mutant in place of the module."""

    def __init__(self, file: str, source: str) -> None:
        self.name = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        self.source = source

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name == self.name else None
        if spec is not None and spec.origin is not None:
            spec.loader = _Loader(name, spec.origin, self.source)
        return spec


class _Loader(SourceFileLoader):
    def __init__(self, name: str, path: str, mutated: str) -> None:
        super().__init__(name, path)
        self.mutated = mutated

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = compile(self.mutated, self.path, "exec")
        return code


def own_tests(case: Case) -> list[str]:
    """The tests of the module itself: they are the likeliest to notice."""
    stems = OWN.get(case.stem, (f"test_{case.stem}",))
    return [str(path.relative_to(ROOT)) for stem in stems for path in sorted((ROOT / "tests").glob(f"**/{stem}*.py"))]


def fork(case: Case, folder: Path, own: bool) -> int:
    """Start the tests in a process of their own, which exits with 0 if all of them pass; its number."""
    child = os.fork()
    if child:
        return child
    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(quiet, stream)
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_LIMIT, CPU_LIMIT))
    try:
        os._exit(_test(case, folder, own))
    except BaseException:  # noqa: BLE001 - whatever it is, the mutant was noticed
        os._exit(1)


def _test(case: Case, folder: Path, own: bool) -> int:
    sys.dont_write_bytecode = True
    sys.meta_path.insert(0, Mutation(case.file, case.mutant.source))
    options = ["-x", "-q", "-p", "no:cacheprovider", "--basetemp", str(folder)]
    if "keras" not in case.file:
        options.append("--ignore-glob=*keras*")
    rounds = (own_tests(case), () if own else OTHERS)
    codes = (int(pytest.main([*options, *tests])) for tests in rounds if tests)
    return next((code for code in codes if code), 0)


def run(chosen: list[Case], jobs: int, own: bool) -> Iterator[tuple[Case, bool]]:
    """Each case and whether it survived, as they end."""
    waiting, running = list(reversed(chosen)), dict[int, tuple[Case, Path]]()
    with tempfile.TemporaryDirectory() as base:
        while waiting or running:
            while waiting and len(running) < jobs:
                case, folder = waiting.pop(), Path(base, str(len(waiting)))
                running[fork(case, folder, own)] = (case, folder)
            child, status = os.wait()
            case, folder = running.pop(child)
            shutil.rmtree(folder, ignore_errors=True)
            yield case, status == 0


def prepare(chosen: list[Case], own: bool) -> None:
    """Import what the forks need, and see that the tests pass without any mutant."""
    os.chdir(ROOT)
    keras = any("keras" in case.file for case in chosen)
    for name in IMPORTED + IMPORTED_FOR_KERAS * keras:
        importlib.import_module(name)
    first = {"keras" in case.file: case for case in chosen}
    unchanged = [case._replace(mutant=Mutant(0, "", (ROOT / case.file).read_text("utf-8"))) for case in first.values()]
    wrong = [case.file for case, passed in run(unchanged, 1, own) if not passed]
    if wrong:
        sys.exit(f"the tests of {', '.join(wrong)} fail without any mutant")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sample", type=int, help="how many mutants, drawn at random; all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--module", action="append", default=[], help="only this module, by its name without .py")
    parser.add_argument("--match", default="", help="only mutants in whose key this text stands")
    parser.add_argument("--own", action="store_true", help="run the module's own tests alone: a quick first look")
    parser.add_argument("--jobs", type=int, default=1, help="how many at once")
    options = parser.parse_args()
    known = equivalent()
    found = [case for case in cases(options.module) if case.key() not in known and options.match in case.key()]
    chosen = found
    if options.sample is not None and options.sample < len(found):
        chosen = random.Random(options.seed).sample(found, options.sample)
    print(
        f"{len(chosen)} of {len(found)} mutants, seed {options.seed}; {len(known)} known to be equivalent", flush=True
    )
    started = time.perf_counter()
    prepare(chosen, options.own)
    killed: Counter[bool] = Counter()
    for number, (case, survived) in enumerate(run(chosen, options.jobs, options.own), 1):
        killed[not survived] += 1
        if survived:
            print(f"survived: {case.file}:{case.mutant.line} ({case.mutant.change})")
            print(*(f"    {line}" for line in case.diff()), sep="\n", flush=True)
        if number % 50 == 0:
            print(f"{number} done, {killed[True] / number:.1%} killed", flush=True)
    share = killed[True] / max(1, killed.total())
    seconds = time.perf_counter() - started
    print(f"{killed[True]} of {killed.total()} mutants killed: {share:.1%} ({seconds:.0f} s)")
    return int(share < 0.95)


if __name__ == "__main__":
    sys.exit(main())
