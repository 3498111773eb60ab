"""What came of jobs, in an SQLite file: written by one process alone, whole after a kill -9, read by whoever likes.

    meta(key, value)       kind and version of the store, its id, the settings of the last run
    jobs(id, key, identity, settings, limits, status, sentence, detail, seconds, peak, attempts, finished)
    rows(job, number, content)   what a job emitted, as JSON

A job is done for good where it ended, was given the same thing (``identity``) and the same ``settings``, and, if it
ended at a limit or by a crash, had the same ``limits``. Whoever has more to say of a job adds tables that refer to
``jobs.id`` with ``on delete cascade``.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnfold.errors import BnfoldError, one_line
from bnfold.jobs.outcome import Outcome, Status

if TYPE_CHECKING:
    from typing_extensions import Self

#: Of the two tables here; a store has a version of its own for those that are added.
_VERSION = 1
_SCHEMA = """
create table meta (key text primary key, value text not null) without rowid;
create table jobs (
    id integer primary key,
    key text not null unique,
    identity text not null,
    settings text not null,
    limits text not null,
    status text not null,
    sentence text not null,
    detail text not null,
    seconds real not null,
    peak integer,
    attempts integer not null,
    finished real not null
);
create table rows (
    job text not null,
    number integer not null,
    content text not null,
    primary key (job, number)
) without rowid;
"""
#: Ends that other limits, or another moment, might have spared the job.
_BY_LIMIT = frozenset({Status.TIMEOUT.value, Status.MEMORY.value, Status.CRASHED.value})


class StoreError(BnfoldError):
    """A store cannot be used: not one, of another version, read-only, in use."""


class _Database(sqlite3.Connection):
    """Takes every text: what is no Unicode, as a file's name need not be, stands there with escapes."""

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        return super().execute(sql, _storable(parameters))

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> sqlite3.Cursor:
        return super().executemany(sql, map(_storable, parameters))


def _storable(values: Iterable[Any]) -> list[Any]:
    return [storable(each) if isinstance(each, str) else each for each in values]


def storable(text: str) -> str:
    """How a text stands in a store."""
    return text.encode(errors="backslashreplace").decode()


class Store:
    """One file. ``kind`` and ``version`` are those of ``schema``, the tables that are added.

    A new one that an error ends before anything is in it is removed again.
    """

    #: The statuses of jobs that are never done for good.
    again = frozenset({Status.LOST.value})

    def __init__(self, path: str | PathLike[str], *, kind: str, version: int = 1, schema: str = "") -> None:
        """Open a store or make one. Raises StoreError."""
        self.path = Path(path)
        if not self.path.name or self.path.is_dir():
            raise StoreError(
                f"{os.fspath(path)!r} cannot be a store: it is {'a folder' if path else 'no name of a file'}"
            )
        with ExitStack() as undo:
            self._lock = _Lock(self.path)
            undo.callback(self._lock.release)
            self._new = not self.path.exists()
            if self._new:
                undo.callback(self._remove)
            with self._reported():
                self._database = sqlite3.connect(self.path, isolation_level=None, timeout=30.0, factory=_Database)
                undo.callback(self._database.close)
                self._set_up()
                if not self._tables():
                    self._make(kind, version, schema)
            self._check(kind, version)
            undo.pop_all()

    def close(self) -> None:
        self._database.close()
        self._lock.release()

    def _remove(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            with suppress(OSError):
                os.unlink(f"{self.path}{suffix}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is not None and self._new and self._is_empty():
            self._database.close()
            self._remove()
        self.close()

    def _is_empty(self) -> bool:
        with suppress(sqlite3.Error):
            found = self._database.execute("select exists (select 1 from jobs) or exists (select 1 from rows)")
            return bool(found.fetchone() == (0,))
        return False

    # -- settings -----------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """Eight letters that no other store has."""
        return str(self.meta("id"))

    def meta(self, key: str) -> Any:
        """A value of :meth:`set_meta`; None where there is none."""
        found = self._database.execute("select value from meta where key = ?", (key,)).fetchone()
        return None if found is None else json.loads(found[0])

    def set_meta(self, key: str, value: Any) -> None:
        with self.transaction() as database:
            database.execute("insert or replace into meta values (?, ?)", (key, json.dumps(value)))

    # -- jobs ---------------------------------------------------------------------------------------

    def is_done(self, key: str, identity: str, settings: str, limits: str) -> bool:
        """Has this very job ended, with nothing to be gained from doing it again?"""
        found = self._database.execute(
            "select status, limits from jobs where key = ? and identity = ? and settings = ?", (key, identity, settings)
        ).fetchone()
        if found is None or found[0] in self.again:
            return False
        return found[0] not in _BY_LIMIT or bool(found[1] == limits)

    def record(
        self,
        key: str,
        identity: str,
        settings: str,
        limits: str,
        outcome: Outcome,
        status: str | None = None,
        sentence: str | None = None,
    ) -> int:
        """Put down what came of a job, in the place of what came of it before, and return its id.

        Within a :meth:`transaction`, to which the caller adds tables of its own. ``status`` and ``sentence`` replace
        those of the outcome.
        """
        self._database.execute("delete from jobs where key = ?", (key,))
        cursor = self._database.execute(
            "insert into jobs (key, identity, settings, limits, status, sentence, detail, seconds, peak, attempts, "
            "finished) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                key, identity, settings, limits, status or outcome.status.value,
                outcome.sentence if sentence is None else sentence, outcome.detail,
                outcome.seconds, outcome.peak, outcome.attempts, time.time(),
            ),
        )  # fmt: skip
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def add_row(self, job: str, number: int, content: Any) -> None:
        """A row that a job emitted: its ``number`` counts from 0, and a job that is done anew overwrites its rows."""
        with self.transaction() as database:
            database.execute("insert or replace into rows values (?, ?, ?)", (job, number, json.dumps(content)))

    def rows(self, job: str) -> list[Any]:
        """The rows of a job in order, those of one that did not come to its end included."""
        found = self._database.execute("select content from rows where job = ? order by number", (job,))
        return [json.loads(content) for (content,) in found]

    def query(self, sql: str, *values: Any) -> sqlite3.Cursor:
        """Read from the tables. Raises StoreError."""
        with self._reported():
            return self._database.execute(sql, values)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Everything in the block is written, or nothing. Raises StoreError."""
        with self._reported(), self._database:
            self._database.execute("begin immediate")
            yield self._database

    # -- opening ------------------------------------------------------------------------------------

    def _set_up(self) -> None:
        self._database.execute("pragma foreign_keys = on")
        self._database.execute("pragma journal_mode = wal")
        self._database.execute("pragma synchronous = normal")  # a power cut may cost the last jobs, never the file

    def _tables(self) -> set[str]:
        return {name for (name,) in self._database.execute("select name from sqlite_master where type = 'table'")}

    def _make(self, kind: str, version: int, schema: str) -> None:
        values = {"kind": kind, "version": version, "store": _VERSION, "id": os.urandom(4).hex()}
        script = "".join(f"insert into meta values ('{key}', '{json.dumps(value)}');" for key, value in values.items())
        self._database.executescript(f"begin immediate; {_SCHEMA} {schema} {script} commit;")

    def _check(self, kind: str, version: int) -> None:
        with self._reported():
            if "meta" not in self._tables():
                raise StoreError(f"{self.path} is another program's database, not a store of bnfold")
            found = (self.meta("kind"), self.meta("version"), self.meta("store"))
            # Before anything is scanned, not after it: a store that cannot be written is of no use.
            self._database.execute("begin immediate")
            self._database.execute("update meta set value = value")  # beginning succeeds for a read-only file too
            self._database.execute("rollback")
        if found[0] != kind:
            raise StoreError(f"{self.path} is a store of another kind: {found[0]}, not {kind}")
        if found[1:] != (version, _VERSION):
            raise StoreError(
                f"{self.path} is a store of version {found[1]}.{found[2]}, and this bnfold writes "
                f"{version}.{_VERSION}: name another file with --store"
            )

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            words = one_line(error)
            if "not a database" in words:
                raise StoreError(f"{self.path} is not a store: it is no SQLite database") from error
            if "readonly" in words or "unable to open" in words:
                raise StoreError(f"{self.path} cannot be written: {words}") from error
            raise StoreError(f"{self.path} cannot be used: {words}") from error


class _Lock:
    """One process writes. Held by an open file, so that it is gone with the process however that ends."""

    def __init__(self, store: Path) -> None:
        self._handle: int | None = None
        # Not the database itself: SQLite's own locks go when any handle of this process to that file is closed.
        self._path = path = store.with_name(store.name + "-lock")
        try:
            import fcntl
        except ImportError:
            return  # Windows: SQLite's own locks keep the file whole
        try:
            while self._handle is None:
                self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not self._is_there():  # who had it before has removed it since it was opened here
                    self._close()
        except BlockingIOError as error:
            self._close()
            raise StoreError(f"{store} is in use by another run of bnfold") from error
        except OSError as error:
            self._close()
            why = (error.strerror or one_line(error)).lower()
            raise StoreError(f"{store} cannot be written: {why}") from error

    def release(self) -> None:
        if self._handle is not None:
            with suppress(OSError):
                self._path.unlink()  # while it is still held
        self._close()

    def _is_there(self) -> bool:
        assert self._handle is not None
        try:
            return os.path.samestat(os.fstat(self._handle), self._path.stat())
        except FileNotFoundError:
            return False

    def _close(self) -> None:
        if self._handle is not None:
            with suppress(OSError):
                os.close(self._handle)
            self._handle = None
