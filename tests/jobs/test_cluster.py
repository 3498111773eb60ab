"""Jobs on a real Dask scheduler with worker processes, some of which are killed."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import job_functions as todo
import pytest
from dask_cluster import Cluster, cluster

from bnfold.errors import MissingExtraError, UsageError
from bnfold.jobs import Job, JobLimits, Status
from bnfold.jobs.cluster import _BATCH_JOBS, ClusterError, connected

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="fork servers are Linux's")]


@pytest.fixture(scope="module")
def dask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("dask")) as found:
        yield found


def test_every_outcome_comes_back_and_batches_are_bounded(dask: Cluster) -> None:
    read, rows = [], []

    def jobs() -> Iterator[Job]:
        for number in range(300):
            read.append(number)
            yield Job(str(number), todo.add, (number,))
        yield Job("fails", todo.fails, (UsageError, "so it is"))
        yield Job("dies", todo.dies, (signal.SIGSEGV,))
        yield Job("sleeps", time.sleep, (600,))
        yield Job("emits", todo.emits, (2,))

    done = {}
    with connected(dask.address) as run:
        for job, outcome in run(jobs(), limits=JobLimits(seconds=2), on_row=lambda job, row: rows.append(row)):
            done[job.key] = outcome
            assert len(read) - len(done) <= 5 * _BATCH_JOBS
    assert {key: done.pop(key).status.value for key in ("fails", "dies", "sleeps", "emits")} == {
        "fails": "failed", "dies": "crashed", "sleeps": "timeout", "emits": "ok",
    }  # fmt: skip
    assert {key: outcome.value for key, outcome in done.items()} == {str(n): n + 1 for n in range(300)}
    assert rows == [{"epoch": 0}, {"epoch": 1}]


def test_a_worker_that_is_killed_costs_nothing(tmp_path: Path) -> None:
    jobs = [Job(str(number), todo.naps, (0.05,)) for number in range(60)]
    with cluster(tmp_path) as dask, connected(dask.address) as run:
        done = {}
        for job, outcome in run(jobs):
            done[job.key] = outcome.status
            if len(done) == 10:
                dask.workers[0].kill()
        assert done == {job.key: Status.OK for job in jobs}


def test_a_job_that_loses_its_worker_each_time_is_given_up_alone(tmp_path: Path) -> None:
    """This one kills the worker itself, around its own process."""
    jobs = [Job(str(n), todo.add, (n,)) for n in range(6)]
    jobs.insert(3, Job("bad", todo.kills_the_worker))
    with cluster(tmp_path, 1) as dask, connected(dask.address) as run:
        done = {}
        for _ in range(16):
            dask.workers.append(dask.add_worker())
        for job, outcome in run(jobs):
            done[job.key] = outcome.status
    assert done == {"bad": Status.LOST, **{str(n): Status.OK for n in range(6)}}


def test_no_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bnfold.jobs.cluster._CONNECT_SECONDS", 0.5)
    with (
        pytest.raises(ClusterError, match=r"there is no Dask scheduler at tcp://127\.0\.0\.1:9"),
        connected("tcp://127.0.0.1:9"),
    ):
        pass


def test_no_dask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingExtraError, match=r'pip install "\.\[dask\]"'), connected("tcp://127.0.0.1:9"):
        pass


def test_a_scheduler_that_is_lost(tmp_path: Path) -> None:
    with cluster(tmp_path, 1) as dask, connected(dask.address) as run:
        iterator = run([Job(str(n), todo.naps, (0.2,)) for n in range(100)])
        next(iterator)
        dask.scheduler.kill()
        with pytest.raises(ClusterError, match="was lost"):
            list(iterator)
