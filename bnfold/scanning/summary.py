"""What a store says about all its models together."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from bnfold.scanning.records import ScanStore
from bnfold.scanning.row import STATUSES

#: So many models stand in a list of the worst.
_SHOWN = 5
_RANK = "case severity when 'error' then 3 when 'warning' then 2 else 1 end"


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule that was true somewhere: how often, in how many models, and in which the most often."""

    code: str
    name: str
    severity: str
    findings: int
    models: int
    worst: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanSummary:
    """A scan in numbers. Sizes are in bytes, times in seconds; what would be saved counts analyzed models alone."""

    models: int
    statuses: dict[str, int]
    batchnorms: int
    foldable: int
    parameters_saved: int
    bytes_saved: int
    folded: int
    file_bytes_saved: int
    rules: tuple[Rule, ...]
    slowest: tuple[tuple[str, float], ...]
    largest: tuple[tuple[str, int], ...]
    read_bytes: int
    read_requests: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def summarise(store: ScanStore) -> ScanSummary:
    """The summary of everything in a store."""
    counts: dict[str, int] = dict(store.query("select status, count(*) from models group by status").fetchall())
    totals = store.query(
        "select count(*), sum(batchnorms), sum(foldable), sum(parameters - parameters_after), "
        "sum(bytes - bytes_after), sum(read_bytes), sum(read_requests) from models"
    ).fetchone()
    models, batchnorms, foldable, parameters, size, read, requests = (int(value or 0) for value in totals)
    folded, saved = store.query(
        "select count(*), sum(file_before - file_after) from folds where output is not null"
    ).fetchone()
    return ScanSummary(
        models=models,
        statuses={status: counts[status] for status in STATUSES if status in counts},
        batchnorms=batchnorms, foldable=foldable, parameters_saved=parameters, bytes_saved=size, folded=folded,
        file_bytes_saved=saved or 0, rules=_rules(store), read_bytes=read, read_requests=requests,
        slowest=_list(store, "seconds"), largest=_list(store, "size"),
    )  # fmt: skip


def _rules(store: ScanStore) -> tuple[Rule, ...]:
    found = store.query(
        f"select code, name, severity, count(*), count(distinct job) from findings group by code, name, severity "
        f"order by {_RANK} desc, count(*) desc, code"
    ).fetchall()
    return tuple(
        Rule(code, name, severity, findings, models, _worst(store, code, severity))
        for code, name, severity, findings, models in found
    )


def _worst(store: ScanStore, code: str, severity: str) -> tuple[tuple[str, int], ...]:
    return tuple(
        store.query(
            "select key, count(*) from findings join jobs on jobs.id = job where code = ? and severity = ? "
            f"group by job order by count(*) desc, key limit {_SHOWN}",
            code, severity,
        )
    )  # fmt: skip


def _list(store: ScanStore, column: str) -> tuple[Any, ...]:
    return tuple(
        store.query(
            f"select path, {column} from models where {column} is not null order by {column} desc, path limit {_SHOWN}"
        )
    )
