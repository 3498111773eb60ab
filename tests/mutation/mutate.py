"""How many small mistakes in the operators' facts would the tests notice?

    python tests/mutation/mutate.py --sample 100 --seed 1
    python tests/mutation/mutate.py --module pooling

Changes one condition at a time in ``bnfold/operators/*.py`` and ``bnfold/affine.py``, in a copy of the
project, and runs the tests of operators and folding until one fails. Prints every mutant that no
test noticed, and the share that was. Those that cannot be noticed, because they compute the same, are
listed with the reason in ``equivalent.txt`` and are not counted.
"""

from __future__ import annotations

import argparse
import difflib
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE))

from mutants import Mutant, mutants  # noqa: E402

#: The tests that are to notice; the modules' own come first.
TESTS = ("tests/operators", "tests/folding")
#: What one mutant may take, in seconds: more than this is an endless loop, which somebody would notice.
TIMEOUT = 240


class Case(NamedTuple):
    """A mutant of a file of the project."""

    file: str
    mutant: Mutant

    def key(self) -> str:
        """What names it in ``equivalent.txt``: the file, the new line of source and the change."""
        return f"{self.file} | {self.changed()} | {self.mutant.change}"

    def changed(self) -> str:
        return " ".join(line[1:].strip() for line in self.diff() if line.startswith("-"))

    def diff(self) -> list[str]:
        before = (ROOT / self.file).read_text(encoding="utf-8").splitlines()
        lines = difflib.unified_diff(before, self.mutant.source.splitlines(), n=0, lineterm="")
        return [line for line in lines if line[0] in "+-" and line[:3] not in ("+++", "---")]


def cases(modules: list[str]) -> list[Case]:
    files = ["bnfold/affine.py", *(f"bnfold/operators/{path.name}" for path in _operators())]
    wanted = [file for file in files if not modules or Path(file).stem in modules]
    return [Case(file, mutant) for file in wanted for mutant in mutants((ROOT / file).read_text(encoding="utf-8"))]


def _operators() -> list[Path]:
    return sorted((ROOT / "bnfold" / "operators").glob("*.py"))


def equivalent() -> set[str]:
    """The keys of mutants that compute the same as the original; the reason follows each on its own line."""
    file = HERE / "equivalent.txt"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return {line for line in lines if line.startswith("bnfold/")}


def tests_for(file: str) -> list[str]:
    """The tests named like the module first: they are the likeliest to notice."""
    stem = Path(file).stem
    own = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests").glob(f"*/test_{stem}*.py"))
    return [*own, *(test for test in TESTS if (ROOT / test).is_dir())]


def survives(case: Case, copy: Path) -> bool:
    """Do the tests pass in spite of the mutant?"""
    file = copy / case.file
    original = file.read_text(encoding="utf-8")
    file.write_text(case.mutant.source, encoding="utf-8")
    try:
        return passes(case.file, copy)
    finally:
        file.write_text(original, encoding="utf-8")


def passes(file: str, copy: Path) -> bool:
    """Do the tests of a module pass?"""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests_for(file)]
    if "keras" not in file:  # TensorFlow takes seconds to import
        command.append("--ignore-glob=*keras*")
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command, cwd=copy, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            timeout=TIMEOUT, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def run(chosen: list[Case], jobs: int) -> Iterator[tuple[Case, bool]]:
    """Each case and whether it survived, in order."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as pool:
        copies = [Path(folder, str(number)) for number in range(jobs)]
        for copy in copies:
            _copy(copy)
        for file in {
            "bnfold/operators/keras_linear.py" if "keras" in case.file else "bnfold/affine.py" for case in chosen
        }:
            if not passes(file, copies[0]):
                sys.exit("the tests fail without any mutant")
        free = list(copies)

        def one(case: Case) -> tuple[Case, bool]:
            copy = free.pop()
            try:
                return case, survives(case, copy)
            finally:
                free.append(copy)

        yield from pool.map(one, chosen)


def _copy(target: Path) -> None:
    """What the tests need: the package, the tests and the sample models."""
    for part in ("bnfold", "tests", "sample_models"):
        shutil.copytree(ROOT / part, target / part, ignore=shutil.ignore_patterns("__pycache__", "mutation", "fuzz"))
    shutil.copy(ROOT / "pyproject.toml", target)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sample", type=int, help="how many mutants, drawn at random; all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--module", action="append", default=[], help="only this module, by its name without .py")
    parser.add_argument("--jobs", type=int, default=1, help="how many at once")
    options = parser.parse_args()
    known = equivalent()
    found = [case for case in cases(options.module) if case.key() not in known]
    chosen = found
    if options.sample is not None and options.sample < len(found):
        chosen = random.Random(options.seed).sample(found, options.sample)
    print(f"{len(chosen)} of {len(found)} mutants, {len(known)} known to be equivalent", flush=True)
    killed: Counter[bool] = Counter()
    for number, (case, survived) in enumerate(run(chosen, options.jobs), 1):
        killed[not survived] += 1
        if survived:
            print(f"survived: {case.file}:{case.mutant.line} ({case.mutant.change})")
            print("\n".join(f"    {line}" for line in case.diff()), flush=True)
        if number % 20 == 0:
            print(f"{number} done, {killed[True] / number:.1%} killed", flush=True)
    share = killed[True] / max(1, killed.total())
    print(f"{killed[True]} of {killed.total()} mutants killed: {share:.1%}")
    return int(share < 0.95)


if __name__ == "__main__":
    sys.exit(main())
