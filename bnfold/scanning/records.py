"""The store of a scan: the tables of :mod:`bnfold.jobs.store`, and what was found in each model.

docs/scale.md has the schema with queries. A row of ``jobs`` is a model; ``models`` is the view that joins it with
what is known of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from os import PathLike
from typing import Any

from bnfold.display import Displayed
from bnfold.formats.remote import is_remote
from bnfold.jobs import Outcome
from bnfold.jobs.store import Store, StoreError
from bnfold.scanning.row import UNAVAILABLE, Row

KIND, VERSION = "scan", 2
_SCHEMA = """
create table facts (
    job integer primary key references jobs on delete cascade,
    size integer, format text, nodes integer, parameters integer, bytes integer, batchnorms integer, foldable integer,
    nodes_after integer, parameters_after integer, bytes_after integer, worst text,
    read_bytes integer, read_requests integer, read_seconds real, data_files text
);
create table batchnorms (
    job integer not null references jobs on delete cascade,
    name text not null, scope text not null, type text not null, channels integer, pattern text not null,
    placement text not null, direction text not null, into_layers text not null, reason text not null
);
create index batchnorms_job on batchnorms (job);
create table findings (
    job integer not null references jobs on delete cascade,
    code text not null, name text not null, severity text not null, layer text not null, scope text not null,
    message text not null, repair text not null, "values" text not null
);
create index findings_job on findings (job);
create index findings_code on findings (code);
create table folds (
    job integer primary key references jobs on delete cascade,
    output text, verdict text, sentence text not null, steps integer not null,
    nodes_after integer, parameters_after integer, file_before integer, file_after integer
);
create view models as
    select jobs.id, key as path, identity, status, sentence, seconds, peak, attempts, facts.size, format, nodes,
           parameters, bytes, batchnorms, foldable, nodes_after, parameters_after, bytes_after, worst, read_bytes,
           read_requests, read_seconds
    from jobs left join facts on facts.job = jobs.id;
"""


class ScanStore(Store, Displayed):
    """The store of a scan."""

    again = frozenset({*Store.again, UNAVAILABLE})

    def __init__(self, path: str | PathLike[str]) -> None:
        """Open or make it. Raises StoreError."""
        if is_remote(str(path)):
            raise StoreError(f"{path}: a store is a file of this machine, and not a URL")
        super().__init__(path, kind=KIND, version=VERSION, schema=_SCHEMA)

    def put(self, row: Row, settings: str, limits: str, outcome: Outcome) -> None:
        """Remember a model, in the place of what was known of it."""
        with self.transaction() as database:
            job = self.record(row.path, row.identity, settings, limits, outcome, row.status, row.sentence)
            report: Any = row.report or {}
            database.execute(f"insert into facts values ({', '.join('?' * 16)})", (job, *_facts(row, report)))
            database.executemany(
                f"insert into batchnorms values ({', '.join('?' * 10)})",
                [(job, *_batchnorm(item)) for item in report.get("batchnorms", ())],
            )
            database.executemany(
                f"insert into findings values ({', '.join('?' * 9)})",
                [(job, *_finding(item)) for item in report.get("findings", ())],
            )
            if row.fold is not None:
                database.execute(f"insert into folds values ({', '.join('?' * 9)})", (job, *_fold(row.fold)))

    def data_files(self, path: str) -> list[str]:
        """The files that a model has its external data in, as it was when it was read."""
        found = self.query("select data_files from facts join jobs on jobs.id = job where key = ?", path).fetchone()
        return json.loads(found[0]) if found is not None and found[0] is not None else []

    def findings(self) -> Iterator[tuple[str, str, list[dict[str, Any]]]]:
        """Path, format and findings of every model that was analyzed, by path."""
        models = self.query("select id, path, format from models where format is not null order by path")
        for job, path, kind in models:
            found = self.query(
                'select code, name, severity, layer, scope, message, repair, "values" from findings '
                "where job = ? order by rowid",
                job,
            )
            keys = ("code", "name", "severity", "layer", "scope", "message", "repair")
            yield path, kind, [dict(zip(keys, rest, strict=True), values=json.loads(v)) for *rest, v in found]

    def failures(self) -> dict[str, str]:
        """The sentence of every model that did not go well, by path."""
        marks = "'ok', 'findings', 'folded'"
        found = self.query(f"select path, status, sentence from models where status not in ({marks}) order by path")
        return {path: sentence or status for path, status, sentence in found}


def _facts(row: Row, report: Any) -> tuple[Any, ...]:
    read: Any = row.read or {}
    files = json.dumps(row.data_files) if row.data_files else None
    rest = (read.get("bytes"), read.get("requests"), read.get("seconds"), files)
    if not report:
        return (row.size, *[None] * 10, *rest)
    summary = report["summary"]
    parameters, after = summary["parameters"], summary["after_folding"]
    return (
        row.size, report["format"], summary["nodes"], parameters["total"], summary.get("bytes"), summary["batchnorms"],
        summary["foldable"], after["nodes"], after["parameters"], after.get("bytes"), row.worst(), *rest,
    )  # fmt: skip


def _batchnorm(item: Any) -> tuple[Any, ...]:
    fate = item["foldable"]
    why = "; ".join(dict.fromkeys(text for text in (fate["backward"], fate["forward"]) if text))
    return (
        item["name"], item["scope"], item["type"], item["channels"], item["pattern"], item["placement"],
        fate["direction"], ", ".join(fate["into"]), why,
    )  # fmt: skip


def _finding(item: Any) -> tuple[Any, ...]:
    return (
        item["code"], item["name"], item["severity"], item["layer"], item["scope"], item["message"], item["repair"],
        json.dumps(item["values"], default=str),
    )  # fmt: skip


def _fold(fold: Any) -> tuple[Any, ...]:
    summary = fold["summary"]
    return (
        fold["output"], fold["verdict"], fold["sentence"], fold["steps"], summary["after"]["nodes"],
        summary["after"]["parameters"], summary["before"]["file"], summary["after"]["file"],
    )  # fmt: skip
