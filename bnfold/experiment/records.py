"""The store of an experiment: one SQLite file with every epoch of every run, and what came of the run.

Beside the tables of every store of jobs (:mod:`bnfold.jobs.store`) there is

    results(job, content, bytes)    what a job returned, as JSON, and its weights or its folded model
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from bnfold.errors import UsageError
from bnfold.experiment.training import Epoch
from bnfold.jobs import JobLimits, Outcome, Status
from bnfold.jobs.store import Store

_SCHEMA = """
create table results (
    job integer primary key references jobs (id) on delete cascade,
    content text not null,
    bytes blob not null
);
"""
_EXPERIMENT = "experiment"


class Records:
    """A store that belongs to one experiment; arms, seeds and rates may be added to it."""

    def __init__(self, path: str | PathLike[str], limits: JobLimits) -> None:
        """Open or make one. Raises StoreError."""
        self._store = Store(path, kind="experiment", schema=_SCHEMA)
        self._limits = repr(limits)

    def close(self) -> None:
        self._store.close()

    def __enter__(self) -> Records:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def belongs_to(self, experiment: Mapping[str, Any]) -> None:
        """From now on the store is this experiment's. Raises UsageError where it is another one's."""
        there = self._store.meta(_EXPERIMENT)
        if there is None:
            self._store.set_meta(_EXPERIMENT, dict(experiment))
            return
        for name, value in experiment.items():
            if there.get(name) != value:
                was = f" ({there.get(name)} there, {value} here)" if name != "data" else ""
                words = name.replace("_", " ")
                raise UsageError(
                    f"{self._store.path} is the store of another experiment, with other {words}{was}: name another "
                    "file with --store"
                )

    def remember(self, name: str, value: Any) -> None:
        self._store.set_meta(name, value)

    def remembered(self, name: str) -> Any:
        return self._store.meta(name)

    def is_done(self, key: str, identity: str) -> bool:
        """Has this job come to a result?"""
        found = self._store.query("select status from jobs where key = ?", key).fetchone()
        done = self._store.is_done(key, identity, "", self._limits)
        return done and found is not None and found[0] == Status.OK.value

    def add_epoch(self, key: str, row: Mapping[str, Any]) -> None:
        self._store.add_row(key, int(row["epoch"]) - 1, dict(row))

    def record(self, key: str, identity: str, outcome: Outcome) -> None:
        """Put down what came of a job."""
        with self._store.transaction() as database:
            job = self._store.record(key, identity, "", self._limits, outcome)
            if outcome.status is Status.OK:
                content, data = outcome.value
                database.execute("insert into results values (?, ?, ?)", (job, json.dumps(content), data))
                database.execute("delete from rows where job = ? and number >= ?", (key, len(outcome.rows)))

    def result(self, key: str) -> tuple[dict[str, Any], bytes]:
        """What a job that is done returned."""
        sql = "select content, bytes from results join jobs on jobs.id = results.job where key = ?"
        content, data = self._store.query(sql, key).fetchone()
        return json.loads(content), data

    def epochs(self, key: str) -> tuple[Epoch, ...]:
        return tuple(Epoch(**row) for row in self._store.rows(key))


def exists(path: str | PathLike[str]) -> bool:
    """Is there a store, or something in the place of one?"""
    return Path(path).exists()
