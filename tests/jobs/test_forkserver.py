"""Jobs in forks: what comes back, how each way to end is told from the others, and that nothing is left."""

from __future__ import annotations

import os
import signal
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import job_functions as todo
import numpy as np
import pytest

from bnfold.errors import UsageError
from bnfold.jobs import Job, JobLimits, Outcome, Status, forkserver, run
from bnfold.jobs.forkserver import attempt
from bnfold.jobs.running import Progress, execute

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="fork servers are Linux's")
UNLIMITED = JobLimits()


def do(function: Any, *args: Any, limits: JobLimits = UNLIMITED) -> Outcome:
    return attempt(function, limits, args)


def gone(pid: int) -> bool:
    for _ in range(400):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state in "ZX":
            return True
        time.sleep(0.05)
    return False


class TestOutcomes:
    def test_a_value(self) -> None:
        outcome = do(todo.add, np.arange(3), 0.5)
        assert outcome.status is Status.OK
        np.testing.assert_array_equal(outcome.value, [0.5, 1.5, 2.5])
        assert outcome.seconds > 0
        assert outcome.peak is not None
        assert outcome.peak > 1 << 20

    def test_a_value_larger_than_a_socket_holds(self) -> None:
        assert do(todo.add, b"x" * (8 << 20), b"y").value == b"x" * (8 << 20) + b"y"

    def test_peak_memory_is_the_jobs_own(self) -> None:
        small, large = do(todo.eats, 1), do(todo.eats, 64 << 20)
        assert small.peak is not None
        assert large.peak is not None
        assert large.peak - small.peak > 60 << 20

    def test_an_error_for_users(self) -> None:
        outcome = do(todo.fails, UsageError, "so it is")
        assert (outcome.status, outcome.sentence) == (Status.FAILED, "so it is")

    def test_a_mistake(self) -> None:
        outcome = do(todo.fails, KeyError, "oh")
        assert outcome.status is Status.FAILED
        assert outcome.sentence == "an error in the job itself: KeyError: 'oh'"
        assert "in fails" in outcome.detail

    def test_time(self) -> None:
        outcome = do(time.sleep, 600, limits=JobLimits(seconds=0.2))
        assert (outcome.status, outcome.sentence) == (Status.TIMEOUT, "the time limit of 0.2 s was reached")

    def test_memory(self) -> None:
        limits = JobLimits(memory=1 << 30)
        outcome = do(todo.eats, 2 << 30, limits=limits)
        assert (outcome.status, outcome.sentence) == (Status.MEMORY, "the memory limit of 1,074 MB was reached")
        assert do(todo.eats, 1 << 20, limits=limits).status is Status.OK

    def test_memory_that_a_library_dies_of(self) -> None:
        assert do(todo.aborts_for_memory, limits=JobLimits(memory=1 << 30)).status is Status.MEMORY

    def test_a_mistake_within_a_memory_limit_is_a_mistake(self) -> None:
        assert do(todo.fails, KeyError, "oh", limits=JobLimits(memory=1 << 30)).status is Status.FAILED

    @pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL, signal.SIGTERM])
    def test_a_crash(self, number: signal.Signals) -> None:
        outcome = do(todo.dies, number, limits=JobLimits(seconds=60, memory=1 << 30))
        assert (outcome.status, outcome.sentence) == (
            Status.CRASHED,
            f"the process was ended by the signal {number.name}",
        )

    def test_an_end_without_an_answer(self) -> None:
        outcome = do(todo.leaves, 7)
        assert (outcome.status, outcome.detail) == (Status.CRASHED, "last words")
        assert outcome.sentence == "the process ended with code 7 and no answer"


class TestServer:
    def test_every_job_has_a_process_and_the_server_lives_on(self) -> None:
        (first, parent, group), (second, again, _) = do(todo.whoami).value, do(todo.whoami).value
        do(todo.dies, signal.SIGKILL)
        assert first == group != second
        assert parent == again == do(todo.whoami).value[1] != os.getpid()

    def test_a_job_stands_where_the_client_stands_now(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        server = do(os.getppid).value
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("OF_TODAY", "yes")
        monkeypatch.delenv("HOME", raising=False)
        monkeypatch.syspath_prepend(tmp_path)
        (tmp_path / "of_today.py").write_text("import os\ndef where():\n    return os.getcwd(), dict(os.environ)\n")
        from of_today import where

        folder, environment = do(where).value
        assert folder == str(tmp_path)
        assert environment["OF_TODAY"] == "yes"
        assert "HOME" not in environment
        assert environment["TMPDIR"] != os.environ.get("TMPDIR")
        assert do(os.getppid).value == server, "which was started in another folder"

    def test_modules_are_there_before_the_job(self) -> None:
        assert not do(todo.imported, "statistics").value
        assert attempt(todo.imported, UNLIMITED, ("statistics",), preload=("statistics",)).value

    def test_one_that_cannot_start_says_why(self) -> None:
        with pytest.raises(RuntimeError, match="no_such_module"):
            attempt(todo.nothing, UNLIMITED, preload=("no_such_module",))
        assert execute(Job("k", todo.nothing), UNLIMITED, 1, ("no_such_module",)).status is Status.FAILED

    def test_a_new_one_is_started_when_it_was_killed(self) -> None:
        parent = do(todo.whoami).value[1]
        os.kill(parent, signal.SIGKILL)
        assert do(todo.add, 1).value == 2

    def test_nothing_is_left_of_a_job_that_takes_too_long(self, tmp_path: Path) -> None:
        note = tmp_path / "note"
        assert do(todo.hangs, str(note), limits=JobLimits(seconds=3)).status is Status.TIMEOUT
        first, second, folder = note.read_text().split(maxsplit=2)
        assert gone(int(first))
        assert gone(int(second))
        assert not Path(folder).exists()

    def test_nothing_is_left_of_a_server_that_is_closed(self, tmp_path: Path) -> None:
        note = tmp_path / "note"
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(execute, Job("k", todo.hangs, (str(note),)), UNLIMITED, 1, ("shelve",))
            while not note.exists():
                time.sleep(0.02)
            forkserver.close_all()
            first, second, folder = note.read_text().split(maxsplit=2)
            assert gone(int(first))
            assert gone(int(second))
            assert not Path(folder).exists()
            note.unlink()  # a server that ends under a job is started anew
            while not note.exists():
                time.sleep(0.02)
            os.kill(int(note.read_text().split()[0]), signal.SIGKILL)
            assert future.result().status is Status.CRASHED

    def test_without_fork_servers_jobs_run_in_new_interpreters(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(forkserver, "supported", lambda: False)
        assert do(todo.add, 1).value == 2
        assert do(todo.fails, UsageError, "so it is").sentence == "so it is"
        assert do(todo.fails, KeyError, "oh").status is Status.FAILED
        assert do(todo.dies, signal.SIGSEGV).status is Status.CRASHED
        assert do(time.sleep, 600, limits=JobLimits(seconds=1)).status is Status.TIMEOUT


class TestRun:
    def test_outcomes_come_with_their_jobs_and_jobs_are_read_as_there_is_room(self) -> None:
        read, seen = [], []

        def jobs():
            for number in range(30):
                read.append(number)
                yield Job(str(number), todo.add, (number,))

        for job, outcome in run(jobs(), workers=2):
            assert outcome.value == int(job.key) + 1
            seen.append(job.key)
            assert len(read) <= len(seen) + 4
        assert sorted(map(int, seen)) == list(range(30))

    def test_a_process_that_dies_is_tried_again(self, tmp_path: Path) -> None:
        jobs = [Job("a", todo.dies_the_first_time, (str(tmp_path / "note"),)), Job("b", todo.dies, (signal.SIGSEGV,))]
        outcomes = {job.key: outcome for job, outcome in run(jobs, workers=1)}
        assert (outcomes["a"].status, outcomes["a"].attempts) == (Status.OK, 2)
        assert (outcomes["b"].status, outcomes["b"].attempts) == (Status.CRASHED, 2)

    def test_what_would_go_wrong_again_is_not_tried_again(self) -> None:
        [(_, outcome)] = run([Job("a", todo.fails, (UsageError, "no"))], workers=1)
        assert (outcome.status, outcome.attempts) == (Status.FAILED, 1)

    @pytest.mark.parametrize("pool", [None, ThreadPoolExecutor, ProcessPoolExecutor])
    def test_rows(self, pool: Any) -> None:
        rows, progress = [], []
        executor = None if pool is None else pool(1)
        found = run(
            [Job("a", todo.emits, (3,)), Job("b", todo.emits_and_dies, (2,))],
            workers=1, executor=executor, attempts=1, total=2,
            on_row=lambda job, row: rows.append((job.key, row["epoch"])),
            on_progress=lambda p: progress.append((p.done, p.failed, p.total)),
        )  # fmt: skip
        statuses = {job.key: outcome.status for job, outcome in found}
        if executor is not None:
            executor.shutdown()
        assert statuses == {"a": Status.OK, "b": Status.CRASHED}
        assert sorted(rows) == [("a", 0), ("a", 1), ("a", 2), ("b", 0), ("b", 1)]
        assert [(done, total) for done, _, total in progress] == [(1, 2), (2, 2)]
        assert progress[-1][1] == 1

    def test_where_all_is_done_the_server_stays_for_the_next(self) -> None:
        parents = [outcome.value[1] for _ in "ab" for _, outcome in run([Job("k", todo.whoami)], workers=1)]
        assert parents[0] == parents[1]

    def test_leaving_early_ends_what_is_under_way(self, tmp_path: Path) -> None:
        note = tmp_path / "note"
        jobs = [Job("a", todo.hangs, (str(note),)), Job("b", todo.add, (1,))]
        iterator = run(jobs, workers=2)
        next(iterator)
        while not note.exists():
            time.sleep(0.02)
        iterator.close()
        assert gone(int(note.read_text().split()[0]))

    def test_progress(self) -> None:
        assert Progress(total=10, done=4, seconds=2.0).per_second == 2.0
        assert Progress(total=10).per_second == 0.0
