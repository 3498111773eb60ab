"""A mutation fuzzer over the sample models: load, analyze, fold and save whatever comes.

    python tests/fuzz/fuzz_bytes.py --count 10000 --seed 1

Every case is damaged by a random source that seed and number decide, so that
``--seed 1 --start 4711 --count 1`` runs a case again. The cases run in a process of their own: one
that crashes, hangs or takes too much memory is a finding like an exception is. Findings are made
small and kept in ``findings/``, which test_fuzz_bytes.py runs for ever after.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import gzip
import hashlib
import random
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT)]

from mutators import mutate  # noqa: E402
from shrink import shrink  # noqa: E402
from survive import survive  # noqa: E402

FINDINGS = HERE / "findings"
#: What one case may take: processor seconds, and megabytes beyond what was in use before.
SECONDS, MEGABYTES = 5.0, 400
#: Where a process is ended: seconds by the clock for one case, and bytes of address space.
HANG_SECONDS, ADDRESS_SPACE = 120.0, 6 << 30


def sample_models() -> list[bytes]:
    """What is damaged: the shipped ONNX models."""
    return [path.read_bytes() for path in sorted((ROOT / "sample_models").glob("*.onnx"))]


def case(seed: int, number: int, models: list[bytes]) -> bytes:
    return mutate(random.Random(f"{seed}:{number}"), models)


def outcome(data: bytes, folder: Path) -> str:
    """``refused``, ``folded``, or where and how it went wrong: the name of a fault."""
    before, started = _peak(), time.process_time()
    try:
        answer = survive(data, folder)
    except Exception as error:  # noqa: BLE001  this is what a fuzzer looks for
        return _fault(error)
    if time.process_time() - started > SECONDS:
        return "FAULT slow"
    if _peak() - before > MEGABYTES:
        return "FAULT memory"
    return answer


def _fault(error: Exception) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/bnfold/" in frame.filename]
    where = f"{Path(frames[-1].filename).name}:{frames[-1].name}" if frames else "survive"
    return f"FAULT {type(error).__name__} in {where}"


def _peak() -> float:
    """The largest memory this process ever used, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# -- the process that runs the cases -----------------------------------------------------------------


def work(seed: int, start: int, stop: int, state: Path) -> None:
    """Run cases, and print one line for each: its number and its outcome."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    models = sample_models()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(start, stop):
            state.write_text(str(number))
            faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
            print(number, outcome(case(seed, number, models), Path(folder)), flush=True)
            faulthandler.cancel_dump_traceback_later()


def run(seed: int, start: int, count: int) -> tuple[Counter[str], dict[str, int]]:
    """The outcomes of ``count`` cases, and for each fault the number of its first case."""
    outcomes: Counter[str] = Counter()
    faults: dict[str, int] = {}
    stop, began = start + count, time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder, "case")
        while start < stop:
            command = [sys.executable, __file__, "--worker", str(state), "--seed", str(seed)]
            command += ["--start", str(start), "--count", str(stop - start)]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            assert process.stdout is not None
            for line in process.stdout:
                number, _, answer = line.strip().partition(" ")
                start = int(number) + 1
                outcomes[answer] += 1
                if answer.startswith("FAULT") and answer not in faults:
                    faults[answer] = int(number)
                    print(f"case {number}: {answer}", flush=True)
                if outcomes.total() % 1000 == 0:
                    print(f"{outcomes.total()} cases in {time.monotonic() - began:.0f} s", flush=True)
            if process.wait():
                start = int(state.read_text())
                answer = f"FAULT process ended with {process.returncode}"
                print(f"case {start}: {answer}", flush=True)
                outcomes[answer] += 1
                faults.setdefault(answer, start)
                start += 1
    return outcomes, faults


def keep(data: bytes, fault: str) -> None:
    """Write ``data`` to ``findings/``, as small as it still shows the fault."""
    with tempfile.TemporaryDirectory() as folder:
        if not fault.startswith("FAULT process"):
            data = shrink(data, lambda small: outcome(small, Path(folder)) == fault)
    FINDINGS.mkdir(exist_ok=True)
    path = FINDINGS / f"{hashlib.sha256(data).hexdigest()[:12]}.onnx.gz"
    path.write_bytes(gzip.compress(data, mtime=0))
    print(f"kept {path.name}, {path.stat().st_size} bytes: {fault}")


def keep_file(path: Path) -> int:
    """Keep a file that another fuzzer found."""
    with tempfile.TemporaryDirectory() as folder:
        fault = outcome(path.read_bytes(), Path(folder))
    if not fault.startswith("FAULT"):
        print(f"{path}: {fault}")
        return 0
    keep(path.read_bytes(), fault)
    return 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=1000, help="how many cases")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0, help="the number of the first case")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--keep", type=Path, metavar="FILE", help="keep this finding of another fuzzer, and stop")
    options = parser.parse_args()
    if options.keep:
        return keep_file(options.keep)
    if options.worker:
        with contextlib.suppress(KeyboardInterrupt):
            work(options.seed, options.start, options.start + options.count, options.worker)
        return 0
    outcomes, faults = run(options.seed, options.start, options.count)
    print(f"seed {options.seed}: " + ", ".join(f"{number} {answer}" for answer, number in outcomes.most_common()))
    models = sample_models()
    for fault, number in faults.items():
        keep(case(options.seed, number, models), fault)
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
