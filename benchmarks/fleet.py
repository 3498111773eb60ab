"""Scan a fleet: what `bnfold scan` is to be judged by, measured.

    python benchmarks/fleet.py                       # 2,000 models, as docs/scale.md has it
    python benchmarks/fleet.py --models 200 --kills 3 --shell 20 --jobs 2000

It generates models (1 KB to 5 MB, 2 % damaged, 5 each that hang, exhaust memory and kill their process), scans them
whole, in spite of kill -9, and on a Dask cluster of which a worker is killed, and compares the rows; a shell loop of
`bnfold analyze` over some of the sound ones is timed in the same run. The faults are planted by a module that the
processes of the jobs import. Results are printed as JSON; the exit code is 1 where something does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

import onnx  # noqa: E402
from dask_cluster import cluster  # noqa: E402
from onnx_models import conv_bn  # noqa: E402

FAULTS = ("hang", "exhaust", "kill")
EACH = 5
MEMORY = 1_500_000_000
SCAN = (
    "import json, resource, sys, time, bnfold\n"
    "start = time.monotonic()\n"
    "rows = sum(1 for row in bnfold.scan([sys.argv[1]], store=sys.argv[2], workers=2, timeout=float(sys.argv[3]), "
    f"memory={MEMORY}, preload=('planted_faults',)))\n"
    "peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
    "print(json.dumps({'rows': rows, 'seconds': time.monotonic() - start, 'coordinator_peak': peak}))\n"
)


def generate(folder: Path, count: int) -> dict[str, set[str]]:
    """Models of sizes that are spread evenly by their logarithm, and which of them are meant to fail how."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    damaged = set(draw.choice(count, count // 50, replace=False).tolist())
    for number in range(count):
        channels = int(np.exp(draw.uniform(np.log(4), np.log(36_000))))
        data = conv_bn(channels=channels, seed=number).SerializeToString()
        if number in damaged:
            data = data[: len(data) // 2]
        (folder / f"{'damaged' if number in damaged else 'model'}-{number:05}.onnx").write_bytes(data)
    for fault in FAULTS:
        for number in range(EACH):
            onnx.save(conv_bn(), folder / f"{fault}-{number}.onnx")
    time.sleep(2.5)  # what has just been written is read once more by the next scan
    return {kind: {path.name for path in folder.glob(f"{kind}-*")} for kind in ("damaged", *FAULTS)}


def cpu() -> float:
    """Seconds of processor, user and system, of everything that was started here and has ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def empty_forks(count: int = 200) -> dict[str, float]:
    """What a process of its own costs a job that does nothing: medians in seconds, without and with onnxruntime."""
    from bnfold.jobs import JobLimits
    from bnfold.jobs.forkserver import attempt, close_all
    from bnfold.scanning.work import PRELOAD, PRELOAD_FOLDING

    found = {}
    for name, modules in (("analysis", PRELOAD), ("folding", (*PRELOAD, *PRELOAD_FOLDING))):
        attempt(os.getpid, JobLimits(), preload=modules)
        seconds, before = [], cpu()
        for _ in range(count):
            start = time.monotonic()
            attempt(os.getpid, JobLimits(seconds=60, memory=MEMORY), preload=modules)
            seconds.append(time.monotonic() - start)
        close_all()
        found[name] = statistics.median(seconds)
        found[f"{name}, processor"] = (cpu() - before) / count  # the start of the server included
    return found


def scanned(folder: Path, store: Path, timeout: float, kill_after: float | None = None) -> dict[str, Any] | None:
    """One process that scans; None where it was killed after so many seconds, and not done by then."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCAN, str(folder), str(store), str(timeout)], stdout=subprocess.PIPE, text=True,
        env=environment(),
    )  # fmt: skip
    killed = threading.Timer(kill_after or 1e6, lambda: process.send_signal(signal.SIGKILL))
    killed.daemon = True
    killed.start()
    before = cpu()
    out, _ = process.communicate()
    killed.cancel()
    return {**json.loads(out), "cpu": cpu() - before} if process.returncode == 0 else None


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")])}


def table(store: Path) -> list[tuple[Any, ...]]:
    from bnfold.scanning import ScanStore

    with ScanStore(store) as opened:
        return opened.query(
            "select path, status, size, batchnorms, foldable, parameters_after, "
            "(select group_concat(code || layer) from findings where job = models.id) from models order by path"
        ).fetchall()


def check_rows(rows: list[tuple[Any, ...]], planted: dict[str, set[str]], total: int) -> list[str]:
    """What is wrong with the rows: nothing, if exactly the planted faults failed, each in its way."""
    expected = {"damaged": "failed", "hang": "timeout", "exhaust": "out of memory", "kill": "crashed"}
    wanted = {name: expected[kind] for kind, names in planted.items() for name in names}
    found = {Path(row[0]).name: row[1] for row in rows if row[1] not in ("ok", "findings")}
    faults = [] if found == wanted else [f"failures differ: {sorted(set(found.items()) ^ set(wanted.items()))[:5]}"]
    return faults if len(rows) == total else [*faults, f"{len(rows)} rows of {total}"]


def shell_loop(folder: Path, count: int) -> tuple[float, float]:
    """Seconds a model, and seconds of processor, of a shell loop of `bnfold analyze` over some of the sound models."""
    files = sorted(folder.glob("model-*"))
    chosen = random.Random(0).sample(files, min(count, len(files)))
    script = 'for f in "$@"; do "$PYTHON" -m bnfold analyze "$f" > /dev/null; done'
    start, before = time.monotonic(), cpu()
    subprocess.run(
        ["bash", "-c", script, "loop", *map(str, chosen)], env={**environment(), "PYTHON": sys.executable}, check=False
    )
    return (time.monotonic() - start) / len(chosen), (cpu() - before) / len(chosen)


def with_kills(folder: Path, store: Path, timeout: float, kills: int, seconds: float) -> int:
    """Kill the coordinator at random moments, then let it end. How many of the kills met it at work."""
    draw, met = random.Random(0), 0
    for _ in range(kills):
        met += scanned(folder, store, timeout, 0.5 + draw.random() * seconds / max(1, kills)) is None
    assert scanned(folder, store, timeout) is not None
    return met


def on_dask(folder: Path, store: Path, scratch: Path, timeout: float, jobs: int, kill_at: int) -> dict[str, float]:
    """The scan on two worker processes, one of which is killed, with empty jobs before it."""
    from bnfold.jobs import Job
    from bnfold.jobs.cluster import connected
    from bnfold.scanning import ScanStore
    from bnfold.scanning.scanner import Scan, scan_into

    scratch.mkdir()
    with cluster(scratch) as dask, connected(dask.address) as run:
        bare = empty_jobs(run, dask.address, jobs)
        start = time.monotonic()
        what = Scan(timeout=timeout, memory=MEMORY, preload=("planted_faults",))
        with ScanStore(store) as opened:
            for number, _ in enumerate(scan_into(opened, [folder], what, run_jobs=run)):
                if number == kill_at:
                    dask.workers[0].kill()
        seconds = time.monotonic() - start
        forked = time.monotonic()
        count = sum(1 for _ in run(Job(str(n), os.getpid) for n in range(jobs // 50)))
        return {
            **bare,
            "seconds": seconds,
            "seconds_per_forked_empty_job_one_worker": (time.monotonic() - forked) / count,
        }


def empty_jobs(run: Any, address: str, count: int) -> dict[str, float]:
    """What the scheduler, the batches and the way back cost a job that does nothing, not even fork."""
    from bnfold.jobs import Job, Outcome, Status, cluster

    real, cluster._do_batch = cluster._do_batch, empty_batch
    try:
        start = time.monotonic()
        done = sum(outcome.status is Status.OK for _, outcome in run(Job(str(n), os.getpid) for n in range(count)))
        seconds = time.monotonic() - start
    finally:
        cluster._do_batch = real
    assert done == count, Outcome
    return {"empty_jobs": count, "empty_jobs_seconds": seconds}


def empty_batch(jobs: list[Any], **options: Any) -> list[Any]:
    from bnfold.jobs import Outcome, Status

    return [Outcome(status=Status.OK, seconds=1e-6) for _ in jobs]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=2000)
    parser.add_argument("--shell", type=int, default=40, help="models of the shell loop")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=100_000, help="empty jobs on Dask")
    parser.add_argument("--timeout", type=float, default=10.0)
    given = parser.parse_args()
    found: dict[str, Any] = {"models": given.models + EACH * len(FAULTS), "load": os.getloadavg()[0]}
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        scratch, folder = Path(name), Path(name, "models")
        planted = generate(folder, given.models)
        found["bytes"] = sum(path.stat().st_size for path in folder.iterdir())
        found["scan"] = whole = scanned(folder, scratch / "whole.sqlite", given.timeout)
        assert whole is not None
        rows = table(scratch / "whole.sqlite")
        faults += check_rows(rows, planted, found["models"])
        again = scanned(folder, scratch / "whole.sqlite", given.timeout)
        found["unchanged"] = again
        found["shell_seconds_a_model"], found["shell_cpu_a_model"] = shell_loop(folder, given.shell)
        found["scan_seconds_a_model"] = whole["seconds"] / found["models"]
        found["scan_cpu_a_model"] = whole["cpu"] / found["models"]
        found["empty_forks"] = empty_forks()
        found["times_a_shell_loop"] = found["shell_seconds_a_model"] / found["scan_seconds_a_model"]
        print(json.dumps(found, indent=2), file=sys.stderr)
        found["kills"] = with_kills(folder, scratch / "killed.sqlite", given.timeout, given.kills, whole["seconds"])
        if table(scratch / "killed.sqlite") != rows:
            faults.append("kill -9 and resume give other rows")
        found["dask"] = on_dask(
            folder, scratch / "dask.sqlite", scratch / "dask", given.timeout, given.jobs, given.models // 4
        )
        if table(scratch / "dask.sqlite") != rows:
            faults.append("a Dask cluster gives other rows")
    if whole["coordinator_peak"] > 300e6:
        faults.append("the coordinator takes more than 300 MB")
    if found["times_a_shell_loop"] < 5:
        faults.append("less than 5 times the throughput of a shell loop")
    found["load_at_the_end"] = os.getloadavg()[0]
    found["faults"] = faults
    print(json.dumps(found, indent=2))
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
