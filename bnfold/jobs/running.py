"""Many jobs: a bounded number under way, retries, results as they come, and how far it has got."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

from bnfold.errors import one_line
from bnfold.jobs.forkserver import OnRow, attempt, close_all
from bnfold.jobs.outcome import UNLIMITED, Job, JobLimits, Outcome, Status

#: Jobs that are handed to an executor beyond those it works on, so that no worker waits for the next.
_AHEAD = 2


@dataclass(slots=True)
class Progress:
    """How far it has got. ``total`` is None where nobody knows how many jobs there are."""

    total: int | None = None
    done: int = 0
    failed: int = 0
    seconds: float = 0.0

    def count(self, outcome: Outcome, started: float) -> None:
        """One more; ``started`` is on the clock of :func:`time.monotonic`."""
        self.done += 1
        self.failed += outcome.status is not Status.OK
        self.seconds = time.monotonic() - started

    @property
    def per_second(self) -> float:
        return self.done / self.seconds if self.seconds else 0.0


def execute(
    job: Job,
    limits: JobLimits,
    attempts: int = 2,
    preload: tuple[str, ...] = (),
    on_row: OnRow | None = None,
    stopping: threading.Event | None = None,
) -> Outcome:
    """Do one job here, in a process of its own. A process that dies is tried again, up to ``attempts`` times.

    Whatever else goes wrong would go wrong again: an exception, a limit. Never raises.
    """
    number = 0
    while True:
        number += 1
        try:
            outcome = attempt(job.function, limits, job.args, job.kwargs, preload, on_row, stopping)
        except (RuntimeError, OSError) as error:
            return Outcome(status=Status.FAILED, sentence=one_line(error), attempts=number)
        if outcome.status is not Status.CRASHED or number >= attempts:
            return replace(outcome, attempts=number)


def run(
    jobs: Iterable[Job],
    *,
    limits: JobLimits = UNLIMITED,
    workers: int | None = None,
    executor: Executor | None = None,
    attempts: int = 2,
    preload: tuple[str, ...] = (),
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_row: Callable[[Job, Any], None] = lambda job, row: None,
    total: int | None = None,
) -> Iterator[tuple[Job, Outcome]]:
    """Do every job in a process of its own, and yield each with its outcome as they come.

    ``workers`` jobs at a time on this machine (its cores, by default), or wherever ``executor`` has its own: any
    ``concurrent.futures.Executor``. ``jobs`` is read as there is room. ``preload`` names modules that the fork
    server imports first. A process that dies is tried ``attempts`` times in all. ``on_row`` gets what jobs emit: at
    once where they run here, with the outcome elsewhere; always in the thread that reads this iterator.
    """
    count = workers or cores()
    progress, started = Progress(total), time.monotonic()
    arrived: queue.SimpleQueue[tuple[Job, Any, bool]] = queue.SimpleQueue()
    with ExitStack() as stack:
        own = executor is None
        stopping = threading.Event()
        pool = stack.enter_context(_local(count, stopping)) if executor is None else executor
        waiting: dict[Future[Outcome], Job] = {}
        stack.callback(lambda: [future.cancel() for future in waiting])
        source = iter(jobs)
        room = _AHEAD + (count if own else getattr(executor, "_max_workers", None) or count)
        while True:
            for job in islice(source, room - len(waiting)):
                here = (partial(_arrive, arrived, job), stopping) if own else ()
                future = pool.submit(execute, job, limits, attempts, preload, *here)
                waiting[future] = job
                future.add_done_callback(lambda done: arrived.put((waiting[done], done, True)))
            if not waiting:
                return
            job, item, done = arrived.get()
            if not done:
                on_row(job, item)
                continue
            del waiting[item]
            outcome = _result(item)
            for row in () if own else outcome.rows:
                on_row(job, row)
            progress.count(outcome, started)
            on_progress(progress)
            yield job, outcome


def _arrive(arrived: queue.SimpleQueue[tuple[Job, Any, bool]], job: Job, row: Any) -> None:
    arrived.put((job, row, False))


@contextmanager
def _local(workers: int, stopping: threading.Event) -> Iterator[Executor]:
    """Threads that wait for processes. Nothing is left of them when the block ends, however it does.

    Where every job has been done the fork server stays, for the next ones: what it preloads may take seconds.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="bnfold-job")
    try:
        yield pool
    except BaseException:  # GeneratorExit too: nobody wants the rest
        stopping.set()
        pool.shutdown(wait=False, cancel_futures=True)
        close_all()  # the threads wait for nothing any more
        raise
    finally:
        pool.shutdown()


def _result(future: Future[Outcome]) -> Outcome:
    """What came of it; an executor that lost its worker is no fault of the job's, and is said so."""
    error = future.exception()
    if error is None:
        return future.result()
    return Outcome(status=Status.LOST, sentence=f"the worker was lost: {one_line(error)}")


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
