"""Jobs on a Dask cluster: in batches, a bounded number under way, results as they come.

Each worker forks a process for every job, as this machine would: what a job does to its process it does to nothing
else. A worker that is lost takes a batch with it; that batch is tried again, job by job once it has been lost twice,
and only a job that was lost by itself is given up, as ``lost``: nobody knows whether it was at fault.
"""

from __future__ import annotations

import asyncio
import queue
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from bnfold.errors import BnfoldError, MissingExtraError, one_line
from bnfold.jobs.outcome import UNLIMITED, Job, JobLimits, Outcome, Status
from bnfold.jobs.running import Progress, execute

#: Batches under way for each thread of a worker: one being done, one that waits there.
_AHEAD = 2
#: A batch takes about so many seconds, and holds at most so many jobs.
_BATCH_SECONDS, _BATCH_JOBS = 2.0, 200
#: How often a single job may lose its worker.
_LOSSES = 3
_CONNECT_SECONDS = 10.0


class ClusterError(BnfoldError):
    """A Dask cluster cannot be reached, or has gone."""


@dataclass(eq=False, slots=True)
class _Batch:
    jobs: list[Job]
    losses: int = 0


@contextmanager
def connected(address: str) -> Iterator[Callable[..., Iterator[tuple[Job, Outcome]]]]:
    """A function like :func:`bnfold.jobs.run` that has jobs done by the cluster of the scheduler at ``address``.

    Raises MissingExtraError without Dask, and ClusterError where the scheduler does not answer.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise MissingExtraError.of("--scheduler needs Dask", "dask") from error
    connect: Any = Client  # which has no types
    try:
        asyncio.run(_knock(address))
        client = connect(address, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, TypeError, TimeoutError, ImportError, RuntimeError) as error:
        raise ClusterError(
            f"there is no Dask scheduler at {address or 'an address without a name'}: {one_line(error)}"
        ) from error
    try:
        yield partial(run_on, client)
    finally:
        client.close(timeout=5)


async def _knock(address: str) -> None:
    """Is anybody there? A Client that finds nobody leaves threads behind that complain when the process ends."""
    from distributed import comm, security

    there: Any = comm  # which has no types
    there.get_address_host_port(address)
    arguments = security.Security().get_connection_args("client")  # type: ignore[no-untyped-call]
    connection = await there.connect(address, timeout=_CONNECT_SECONDS, **arguments)
    await connection.close()


def run_on(
    client: Any,
    jobs: Iterable[Job],
    *,
    limits: JobLimits = UNLIMITED,
    attempts: int = 2,
    preload: tuple[str, ...] = (),
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_row: Callable[[Job, Any], None] = lambda job, row: None,
    total: int | None = None,
    workers: int | None = None,
    executor: None = None,
) -> Iterator[tuple[Job, Outcome]]:
    """:func:`bnfold.jobs.run` on the cluster of a ``distributed.Client``; its workers are as many as it has.

    Raises ClusterError where the scheduler is lost.
    """
    progress, started = Progress(total), time.monotonic()
    with ExitStack() as stack:
        work = _Work(client, partial(_do_batch, limits=limits, attempts=attempts, preload=preload))
        stack.callback(work.cancel)
        for job, outcome in work.outcomes(iter(jobs)):
            for row in outcome.rows:
                on_row(job, row)
            progress.count(outcome, started)
            on_progress(progress)
            yield job, outcome


def _do_batch(jobs: list[Job], limits: JobLimits, attempts: int, preload: tuple[str, ...]) -> list[Outcome]:
    """On a worker."""
    return [execute(job, limits, attempts, preload) for job in jobs]


class _Work:
    """Batches under way on a cluster."""

    def __init__(self, client: Any, do_batch: Callable[[list[Job]], list[Outcome]]) -> None:
        self._client = client
        self._do_batch = do_batch
        self._waiting: dict[Any, _Batch] = {}
        self._arrived: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._again: list[_Batch] = []
        self._jobs_a_batch = 1  # until it is known how long one takes
        self._threads = 1

    def outcomes(self, jobs: Iterator[Job]) -> Iterator[tuple[Job, Outcome]]:
        """Every job with what came of it, as batches end."""
        while True:
            self._fill(jobs)
            if not self._waiting:
                return
            future = self._next()
            batch = self._waiting.pop(future)
            yield from self._ended(batch, future)

    def cancel(self) -> None:
        """Let go of what is under way."""
        if self._waiting and self._client.status == "running":
            self._client.cancel(list(self._waiting), force=True)
        self._waiting.clear()

    def _fill(self, jobs: Iterator[Job]) -> None:
        """Hand out batches until each thread of the cluster has one, and one that waits."""
        self._threads = max(1, sum(self._nthreads().values()))
        while len(self._waiting) < _AHEAD * self._threads:
            batch = self._again.pop() if self._again else _Batch(list(islice(jobs, self._jobs_a_batch)))
            if not batch.jobs:
                return
            future = self._client.submit(self._do_batch, batch.jobs, pure=False)
            self._waiting[future] = batch
            future.add_done_callback(self._arrived.put)

    def _nthreads(self) -> dict[str, int]:
        workers = self._client.scheduler_info(n_workers=-1).get("workers", {})
        return {address: info.get("nthreads", 1) for address, info in workers.items()}

    def _next(self) -> Any:
        """The next future that has ended. The scheduler may be lost while it is waited for."""
        while True:
            with suppress(queue.Empty):
                return self._arrived.get(timeout=1.0)
            if self._client.status not in ("running", "connecting"):
                raise ClusterError("the connection to the Dask scheduler was lost")

    def _ended(self, batch: _Batch, future: Any) -> Iterator[tuple[Job, Outcome]]:
        if future.status == "finished":
            outcomes = self._result(future)
            self._learn(outcomes)
            yield from zip(batch.jobs, outcomes, strict=True)
            return
        if future.status == "cancelled" or self._client.status != "running":
            raise ClusterError("the connection to the Dask scheduler was lost")
        batch.losses += 1
        if len(batch.jobs) > 1:  # not together again: what is lost next time is lost by itself
            self._again += [_Batch([job]) for job in batch.jobs]
        elif batch.losses < _LOSSES:
            self._again.append(batch)
        else:
            sentence = f"the workers it ran on were lost, {batch.losses} times: {one_line(future.exception())}"
            yield batch.jobs[0], Outcome(status=Status.LOST, sentence=sentence, attempts=batch.losses)

    def _result(self, future: Any) -> list[Outcome]:
        try:
            return list(future.result(timeout=60))
        except (OSError, TimeoutError) as error:
            raise ClusterError(f"the connection to the Dask cluster was lost: {one_line(error)}") from error
        finally:
            future.release()

    def _learn(self, outcomes: list[Outcome]) -> None:
        """Batches that are neither so short that the scheduler is all they cost nor so long that nothing comes back."""
        seconds = sum(outcome.seconds for outcome in outcomes) / len(outcomes)
        wanted = int(_BATCH_SECONDS / seconds) if seconds > 0 else _BATCH_JOBS
        self._jobs_a_batch = max(1, min(_BATCH_JOBS, 2 * self._jobs_a_batch, wanted))
