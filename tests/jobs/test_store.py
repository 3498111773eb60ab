"""The store: what it remembers, what it refuses, and that a kill -9 leaves it whole."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from process import ROOT, without_privileges

from bnfold.jobs import Outcome, Status
from bnfold.jobs.store import Store, StoreError

SCHEMA = "create table more (job integer references jobs on delete cascade, word text);"


def opened(path: Path, version: int = 1) -> Store:
    return Store(path, kind="test", version=version, schema=SCHEMA)


def record(store: Store, key: str, status: Status = Status.OK, limits: str = "l", settings: str = "s") -> None:
    with store.transaction() as database:
        number = store.record(key, "identity", settings, limits, Outcome(status=status, seconds=0.5, peak=7))
        database.execute("insert into more values (?, ?)", (number, key))


def test_what_is_done_is_known_by_all_that_matters(tmp_path: Path) -> None:
    with opened(tmp_path / "s.sqlite") as store:
        record(store, "a")
        assert store.is_done("a", "identity", "s", "l")
        assert store.is_done("a", "identity", "s", "other limits")
        assert not store.is_done("b", "identity", "s", "l")
        assert not store.is_done("a", "changed", "s", "l")
        assert not store.is_done("a", "identity", "other settings", "l")
    with opened(tmp_path / "s.sqlite") as store:
        assert store.is_done("a", "identity", "s", "l")


@pytest.mark.parametrize(
    ("status", "same", "other"),
    [
        (Status.FAILED, True, True),
        (Status.TIMEOUT, True, False),
        (Status.MEMORY, True, False),
        (Status.CRASHED, True, False),
        (Status.LOST, False, False),
    ],
)
def test_what_ended_at_a_limit_is_done_for_that_limit_alone(tmp_path: Path, status: Status, same: bool, other: bool):
    with opened(tmp_path / "s.sqlite") as store:
        record(store, "a", status)
        assert store.is_done("a", "identity", "s", "l") is same
        assert store.is_done("a", "identity", "s", "other limits") is other


def test_a_job_that_is_done_anew_takes_the_place_of_the_old_with_all_its_rows(tmp_path: Path) -> None:
    with opened(tmp_path / "s.sqlite") as store:
        record(store, "a")
        record(store, "a", Status.FAILED)
        assert store.query("select status, seconds, peak from jobs").fetchall() == [("failed", 0.5, 7)]
        assert store.query("select count(*) from more").fetchone() == (1,)


def test_rows_are_kept_of_a_job_that_did_not_end(tmp_path: Path) -> None:
    with opened(tmp_path / "s.sqlite") as store:
        store.add_row("a", 0, {"epoch": 0, "loss": 2.5})
        store.add_row("a", 1, {"epoch": 1, "loss": 1.5})
    with opened(tmp_path / "s.sqlite") as store:
        store.add_row("a", 1, {"epoch": 1, "loss": 1.25})
        assert store.rows("a") == [{"epoch": 0, "loss": 2.5}, {"epoch": 1, "loss": 1.25}]
        assert store.rows("b") == []


def test_a_transaction_is_whole_or_nothing(tmp_path: Path) -> None:
    with opened(tmp_path / "s.sqlite") as store:
        with suppress(KeyError), store.transaction():
            store.record("a", "i", "s", "l", Outcome(status=Status.OK))
            raise KeyError
        assert store.query("select count(*) from jobs").fetchone() == (0,)


class TestRefusals:
    def test_another_version(self, tmp_path: Path) -> None:
        opened(tmp_path / "s.sqlite").close()
        with pytest.raises(StoreError, match=r"s\.sqlite is a store of version 1\.1, and this bnfold writes 2\.1"):
            opened(tmp_path / "s.sqlite", version=2)

    def test_another_kind(self, tmp_path: Path) -> None:
        opened(tmp_path / "s.sqlite").close()
        with pytest.raises(StoreError, match="is a store of another kind: test, not scan"):
            Store(tmp_path / "s.sqlite", kind="scan")

    def test_another_programs_database(self, tmp_path: Path) -> None:
        with sqlite3.connect(tmp_path / "s.sqlite") as database:
            database.execute("create table theirs (x)")
        with pytest.raises(StoreError, match="is another program's database"):
            opened(tmp_path / "s.sqlite")

    def test_no_database(self, tmp_path: Path) -> None:
        (tmp_path / "s.sqlite").write_bytes(b"some text that is no database, and long enough to have a header" * 20)
        with pytest.raises(StoreError, match="it is no SQLite database"):
            opened(tmp_path / "s.sqlite")

    def test_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match=r"s\.sqlite cannot be written: no such file or directory"):
            opened(tmp_path / "none" / "s.sqlite")

    @pytest.mark.skipif(os.name != "posix", reason="locks of POSIX")
    def test_one_that_is_in_use(self, tmp_path: Path) -> None:
        with opened(tmp_path / "s.sqlite"), pytest.raises(StoreError, match="is in use by another run"):
            opened(tmp_path / "s.sqlite")

    @pytest.mark.skipif(sys.platform != "linux", reason="root's privileges are dropped as on Linux")
    @pytest.mark.parametrize("protect", ["file", "folder"])
    def test_one_that_is_read_only(self, tmp_path: Path, protect: str) -> None:
        opened(tmp_path / "s.sqlite").close()
        for file in tmp_path.iterdir():
            file.chmod(0o444)
        if protect == "folder":
            tmp_path.chmod(0o555)
        code = f"from bnfold.jobs.store import Store; Store({str(tmp_path / 's.sqlite')!r}, kind='test')"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, preexec_fn=without_privileges, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        tmp_path.chmod(0o755)
        assert "StoreError" in done.stderr
        assert "cannot be written" in done.stderr


WRITER = """
import sys
from bnfold.jobs import Outcome, Status
from bnfold.jobs.store import Store
store = Store(sys.argv[1], kind="test", schema="create table more (job integer references jobs on delete cascade, n)")
print("open", flush=True)
for n in range(10 ** 6):
    with store.transaction() as database:
        number = store.record(str(n), "i", "s", "l", Outcome(status=Status.OK))
        database.executemany("insert into more values (?, ?)", [(number, k) for k in range(5)])
    print(n, flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_kill_9_costs_at_most_the_job_under_way(tmp_path: Path) -> None:
    draw = random.Random(0)
    for attempt in range(5):
        path = tmp_path / f"{attempt}.sqlite"
        writer = subprocess.Popen([sys.executable, "-c", WRITER, path], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(draw.random() * 0.2)
        writer.send_signal(signal.SIGKILL)
        said = writer.stdout.read().splitlines()
        writer.wait()
        with opened(path) as store:
            assert store.query("pragma integrity_check").fetchone() == ("ok",)
            (jobs,) = store.query("select count(*) from jobs").fetchone()
            assert jobs in (len(said), len(said) + 1)
            assert store.query("select count(*) from more").fetchone() == (5 * jobs,)
