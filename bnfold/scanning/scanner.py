"""``bnfold.scan``: targets become jobs, what comes of them becomes rows, and the store knows them all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from os import PathLike
from typing import TYPE_CHECKING, Any

from bnfold.errors import ModelFileError, UsageError
from bnfold.formats.remote import client_modules, is_remote, of_one_process, open_filesystem, reported
from bnfold.jobs import Job, JobLimits, Outcome, Progress, Status, run
from bnfold.jobs.store import storable
from bnfold.scanning.discovery import Target, find_targets, identity_beside
from bnfold.scanning.places import check_place, place_of
from bnfold.scanning.records import ScanStore
from bnfold.scanning.row import FINDINGS, FOLDED, UNAVAILABLE, Row
from bnfold.scanning.work import PRELOAD, PRELOAD_FOLDING, Task, work
from bnfold.version import __version__

if TYPE_CHECKING:
    from bnfold.analysis.config import Config

DEFAULT_STORE = "bnfold-scan.sqlite"
DEFAULT_TIMEOUT = 300.0
DEFAULT_MEMORY = 4_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """What to do with every model. See :func:`scan`."""

    select: tuple[str, ...] | None = None
    ignore: tuple[str, ...] = ()
    config: Config | None = None
    allow_unsafe: bool = False
    custom: tuple[str, ...] = ()
    fold_to: str | None = None
    timeout: float | None = DEFAULT_TIMEOUT
    memory: int | None = DEFAULT_MEMORY
    refresh: bool = False
    spare_bytes: bool = False
    weights: bool = False
    skip_from: int | None = None
    preload: tuple[str, ...] = ()

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that rows depend on, for the store."""
        per_model = {} if self.config is None else self.config.per_model
        return {
            "version": __version__, "select": self.select, "ignore": self.ignore, "allow_unsafe": self.allow_unsafe,
            "custom": self.custom, "fold_to": self.fold_to, "per_model": per_model, "weights": self.weights,
        }  # fmt: skip

    @property
    def limits(self) -> JobLimits:
        return JobLimits(seconds=self.timeout, memory=self.memory)

    @property
    def modules(self) -> tuple[str, ...]:
        """What jobs need imported."""
        return (*PRELOAD, *(PRELOAD_FOLDING if self.fold_to is not None else ()), *self.preload)


@dataclass(slots=True)
class _Known:
    """The models that were found: which row is whose, and which names of outputs are taken."""

    targets: dict[str, Target] = field(default_factory=dict)
    outputs: set[str] = field(default_factory=set)
    found: int = 0
    unchanged: int = 0


def scan(
    targets: str | PathLike[str] | Sequence[str | PathLike[str]],
    *,
    store: str | PathLike[str] | ScanStore = DEFAULT_STORE,
    executor: Executor | None = None,
    workers: int | None = None,
    select: Iterable[str] | None = None,
    ignore: Iterable[str] = (),
    fold_to: str | PathLike[str] | None = None,
    timeout: float | None = DEFAULT_TIMEOUT,
    memory: int | None = DEFAULT_MEMORY,
    refresh: bool = False,
    allow_unsafe: bool = False,
    custom: Sequence[str] = (),
    spare_bytes: bool = False,
    weights: bool = False,
    skip_from: int | None = None,
    preload: Sequence[str] = (),
) -> Iterator[Row]:
    """Analyze every model among ``targets``, each in a process of its own, and yield a :class:`Row` for each.

    ``targets`` are files, folders (with everything below), globs and URLs of fsspec, or one of these. Rows come as
    models are done, and are in ``store`` by then; what the store knows and has not changed is not read again
    (``refresh``: it is) and has no row here. ``select`` and ``ignore`` are those of :func:`bnfold.analyze`. ``fold_to``
    (a folder or a URL) folds and verifies what has something to fold. ``timeout`` (seconds) and ``memory`` (bytes) hold
    for each model. Jobs run in ``workers`` processes of this machine, or where ``executor`` has its own.
    ``spare_bytes`` reads the fewest bytes of a remote model, ``weights`` all that somebody asks for; ``custom`` names
    the modules that define custom Keras layers, which each job imports; ``skip_from`` is what a round trip is worth, in
    bytes, where it shall not be measured. ``preload`` names modules that jobs find imported.

    Raises ModelFileError for a target that does not exist, and where there is no model at all; UsageError for no
    target and for an unknown rule; StoreError (a BnfoldError) for a store that cannot be used; OutputError for
    ``fold_to``.
    """
    targets = [targets] if isinstance(targets, (str, PathLike)) else list(targets)
    if not targets:
        raise UsageError("there is nothing to scan: no targets are given")
    what = Scan(
        select=None if select is None else tuple(select), ignore=tuple(ignore), allow_unsafe=allow_unsafe,
        custom=tuple(custom), fold_to=None if fold_to is None else os.fspath(fold_to), timeout=timeout, memory=memory,
        refresh=refresh, spare_bytes=spare_bytes, weights=weights, skip_from=skip_from, preload=tuple(preload),
    )  # fmt: skip
    if isinstance(store, ScanStore):
        yield from scan_into(store, targets, what, executor=executor, workers=workers)
        return
    with ScanStore(store) as opened:
        yield from scan_into(opened, targets, what, executor=executor, workers=workers)


def scan_into(
    store: ScanStore,
    targets: Sequence[str | PathLike[str]],
    what: Scan,
    *,
    executor: Executor | None = None,
    workers: int | None = None,
    on_progress: Callable[[Progress, Row], None] = lambda progress, row: None,
    run_jobs: Callable[..., Iterator[tuple[Job, Outcome]]] = run,
) -> Iterator[Row]:
    """:func:`scan` into a store that is open, with somebody who watches."""
    from bnfold.analysis.rules import select_rules

    select_rules(what.select, what.ignore)  # a mistake in the arguments ends the call before any model is read
    if what.fold_to is not None:
        check_place(what.fold_to)
    settings, limits = _digest(what.settings), _digest([what.timeout, what.memory])
    store.set_meta("settings", what.settings)
    store.set_meta("targets", [os.fspath(target) for target in targets])
    known = _Known()
    jobs = _jobs(store, targets, what, known, settings, limits)
    progress: list[Progress] = []
    done = run_jobs(
        jobs, limits=what.limits, workers=workers, executor=executor,
        preload=(*what.modules, *client_modules([os.fspath(target) for target in targets])),
        on_progress=lambda now: progress.append(now),
    )  # fmt: skip
    for job, outcome in done:
        row = _row(known.targets.pop(job.key), outcome)
        store.put(row, settings, limits, outcome)
        progress[-1].total = known.found - known.unchanged
        on_progress(progress[-1], row)
        progress.clear()
        yield row
    if not known.found:
        raise ModelFileError(f"there are no models in {', '.join(os.fspath(target) for target in targets)}")
    store.set_meta("found", known.found)
    store.set_meta("unchanged", known.unchanged)


def _jobs(
    store: ScanStore, targets: Sequence[str | PathLike[str]], what: Scan, known: _Known, settings: str, limits: str
) -> Iterator[Job]:
    for target in find_targets(targets, what.fold_to):
        known.found += 1
        output = place_of(target, what.fold_to, known.outputs)
        if not what.refresh and _is_done(store, target, output, settings, limits):
            known.unchanged += 1
            continue
        known.targets[target.path] = target
        task = Task(
            path=target.path, select=what.select, ignore=what.ignore, config=what.config, output=output,
            allow_unsafe=what.allow_unsafe, custom=what.custom, content=_content(target), spare_bytes=what.spare_bytes,
            weights=what.weights, skip_from=what.skip_from, size=target.size,
        )  # fmt: skip
        yield Job(target.path, work, (task,))


def _is_done(store: ScanStore, target: Target, output: str | None, settings: str, limits: str) -> bool:
    """Is the model in the store as it is now, and its folded file, if there was one, still there?"""
    try:
        beside = identity_beside(target.path, store.data_files(target.path))
    except (OSError, ModelFileError):
        return False  # a data file has gone
    if not store.is_done(target.path, target.identity + beside, settings, limits):
        return False
    found = store.query(
        "select output from folds join jobs on jobs.id = folds.job where jobs.key = ?", target.path
    ).fetchone()
    written = None if found is None else found[0]
    if written is not None and output is not None and written == storable(output):
        written = output  # whose name need not be Unicode
    return written is None or is_remote(written) or os.path.exists(written)


def _content(target: Target) -> bytes | None:
    """The file itself where other processes cannot see it."""
    if not target.is_remote or not of_one_process(target.path):
        return None
    file_system, path = open_filesystem(target.path)
    with reported(target.path):
        return bytes(file_system.cat_file(path))


def _row(target: Target, outcome: Outcome) -> Row:
    found: Any = outcome.value if outcome.status is Status.OK else {}
    status, sentence = outcome.status.value, outcome.sentence
    fold = found.get("fold")
    if found.get("unavailable"):
        status, sentence = UNAVAILABLE, found["unavailable"]
    elif fold is not None:
        status, sentence = (
            (FOLDED, "") if fold["written"] else ("failed", f"the folded model was not written: {fold['sentence']}")
        )
    elif found.get("report") and found["report"]["findings"]:
        status = FINDINGS
    return Row(
        target.path, status, sentence, target.size, target.identity + found.get("beside", ""), outcome.seconds,
        outcome.peak, outcome.attempts, found.get("report"), fold, found.get("read"),
        tuple(found.get("data_files", ())),
    )  # fmt: skip


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
