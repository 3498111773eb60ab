"""From a plan to its results: every run a job, what is done already left out, the rate chosen, the arms compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

from bnfold.errors import BnfoldError, UsageError
from bnfold.experiment import work
from bnfold.experiment.data import identity_of
from bnfold.experiment.rates import best_rate, epochs_to_reach
from bnfold.experiment.records import Records, exists
from bnfold.experiment.results import ArmResult, ExperimentResult, RunResult, Shipped
from bnfold.experiment.schedule import Arm, Plan, Run, digest
from bnfold.experiment.significance import compare, with_diverged
from bnfold.jobs import Job, JobLimits, Outcome, Status
from bnfold.jobs import run as run_jobs
from bnfold.jobs.outcome import UNLIMITED
from bnfold.jobs.running import cores, execute
from bnfold.version import __version__

#: :func:`bnfold.jobs.run`, or the same by other means.
RunJobs = Callable[..., Iterator[tuple[Job, Outcome]]]


class RunError(BnfoldError):
    """A run did not come to its end. What has ended is in the store."""


class Watcher(Protocol):
    """Who is told how far it has got."""

    def stage(self, name: str) -> None:
        """What is being done from now on."""

    def runs(self, plan: Plan, done: Sequence[Run]) -> None:
        """The runs begin; some are done from before."""

    def epoch(self, run: Run, row: dict[str, Any]) -> None: ...

    def finished(self, run: Run) -> None: ...


class Nobody:
    """A watcher that does not look."""

    def stage(self, name: str) -> None: ...

    def runs(self, plan: Plan, done: Sequence[Run]) -> None: ...

    def epoch(self, run: Run, row: dict[str, Any]) -> None: ...

    def finished(self, run: Run) -> None: ...


def conduct(
    plan: Plan,
    store: str | PathLike[str],
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    limits: JobLimits = UNLIMITED,
    watcher: Watcher | None = None,
) -> ExperimentResult:
    """Do what is missing of an experiment and put everything into ``store``, an SQLite file.

    ``workers`` runs at a time on this machine (its cores, by default), or as many as a Dask cluster has whose
    ``scheduler`` is named. ``limits`` are for each run,
    that of memory for every other process too. May be killed at any moment and called again. Raises
    UsageError for an experiment that cannot be done, with the store as it was; RunError where a run does not end.
    """
    return _Conductor(plan, Path(store), workers or cores(), scheduler, limits, watcher or Nobody()).conduct()


@dataclass(frozen=True, slots=True)
class _Facts:
    """What is known from the preparation, also where nothing is left to prepare."""

    metric: str
    higher_is_better: bool
    has_test: bool
    notes: Sequence[str]


class _Conductor:
    def __init__(
        self, plan: Plan, path: Path, workers: int, scheduler: str | None, limits: JobLimits, watcher: Watcher
    ) -> None:
        self.plan = plan
        self.path = path
        self.workers = workers
        self.scheduler = scheduler
        self.limits = limits
        #: Of what is no run: building, testing, folding and timing.
        self.unhurried = replace(limits, seconds=None)
        self.watcher = watcher
        #: What an arm's results depend on: the file, the restyling, and who did it.
        self.identities = {
            arm.label: digest([identity_of(f"{arm.model}:"), dict(arm.style), __version__]) for arm in plan.arms
        }
        self.prepared: work.Prepared | None = None

    def conduct(self) -> ExperimentResult:
        if not exists(self.path):
            self._prepare()  # what cannot be done at all leaves no file behind
        with Records(self.path, self.limits) as records, _runner(self.scheduler, self.workers) as run_all:
            identity = self.plan.identity()
            if self._is_new(records):
                self._prepared()
            records.belongs_to(identity)
            self._train(records, run_all)
            facts = self._facts(records)
            rates = self._rates(records, facts.higher_is_better)
            self._finish(records, run_all, rates)
            return self._result(records, rates, facts)

    @staticmethod
    def _is_new(records: Records) -> bool:
        return records.remembered("experiment") is None

    # -- before -------------------------------------------------------------------------------------

    def _prepared(self) -> work.Prepared:
        if self.prepared is None:
            self._prepare()
        assert self.prepared is not None
        return self.prepared

    def _prepare(self) -> None:
        self.watcher.stage("building the arms and trying the data")
        job = Job("prepare", work.prepare, (self.plan,))
        outcome = execute(job, self.unhurried, preload=work.PRELOAD)
        if outcome.status is Status.OK:
            self.prepared = outcome.value
            return
        _fail("the experiment cannot begin", outcome, stored=False)

    def _facts(self, records: Records) -> _Facts:
        if (found := self.prepared) is not None:
            facts = _Facts(found.metric, found.higher_is_better, found.has_test, found.notes)
            records.remember("facts", asdict(facts))
        return _Facts(**records.remembered("facts"))

    # -- the runs -----------------------------------------------------------------------------------

    def _train(self, records: Records, run_all: RunJobs) -> None:
        runs = {run.key: run for run in self.plan.runs()}
        done = [run for run in runs.values() if records.is_done(run.key, self.identities[run.arm.label])]
        missing = [run for run in runs.values() if run not in done]
        if not missing:
            return
        built = {each.label: each for each in self._prepared().arms}
        self._facts(records)
        self.watcher.stage("training")
        self.watcher.runs(self.plan, done)

        def on_row(job: Job, row: dict[str, Any]) -> None:
            records.add_epoch(job.key, row)
            self.watcher.epoch(runs[job.key], row)

        jobs = (
            Job(run.key, work.do_run, (built[run.arm.label], self.plan.settings, run.seed, run.rate)) for run in missing
        )
        outcomes = run_all(jobs, limits=self.limits, preload=work.PRELOAD, on_row=on_row, total=len(missing))
        for job, outcome in outcomes:
            run = runs[job.key]
            records.record(job.key, self.identities[run.arm.label], outcome)
            if outcome.status is not Status.OK:
                _fail(f"{run.arm.label}, seed {run.seed}, learning rate {_rate(run.rate)}", outcome)
            self.watcher.finished(run)

    # -- what was trained ----------------------------------------------------------------------------

    def _rates(self, records: Records, higher: bool) -> dict[str, float | None]:
        """The rate that is chosen for each arm. Raises UsageError for an arm that diverged wherever it was trained."""
        found = {}
        for arm in self.plan.arms:
            scores = {
                rate: [_val_score(records, Run(arm, seed, rate)) for seed in self.plan.seeds]
                for rate in self.plan.rates
            }
            if not any(score is not None for values in scores.values() for score in values):
                raise UsageError(
                    f"every run of the arm {arm.label} diverged, at every learning rate "
                    f"({', '.join(map(_rate, scores))}): try lower ones with --lr"
                )
            found[arm.label] = best_rate(scores, higher=higher)
        return found

    def _finish(self, records: Records, run_all: RunJobs, rates: dict[str, float | None]) -> None:
        """Score the arms on test data, fold them and time what comes of that."""
        identities = {arm.label: self._finish_identity(arm, rates) for arm in self.plan.arms}
        missing = [arm for arm in self.plan.arms if not records.is_done(_finish_key(arm), identities[arm.label])]
        together = digest(list(identities.values()))
        if not missing and records.is_done(_TIMING, together):
            return
        self.watcher.stage("testing, folding and timing the arms")
        jobs = (self._finish_job(records, arm, rates[arm.label]) for arm in missing)
        for job, outcome in run_all(jobs, limits=self.unhurried, preload=work.PRELOAD):
            label = job.key.removeprefix(_FINISH)
            if outcome.status is not Status.OK:
                _fail(f"{label} could not be tested and folded", outcome)
            records.record(job.key, identities[label], outcome)
        models = {arm.label: records.result(_finish_key(arm))[1] for arm in self.plan.arms}
        models = {label: content for label, content in models.items() if content}
        outcome = Outcome(status=Status.OK, value=({}, b""))
        if models:
            job = Job(_TIMING, work.time_models, (models, self.plan.settings.threads))
            outcome = execute(job, self.unhurried, preload=work.PRELOAD)
        if outcome.status is not Status.OK:
            _fail("the folded models could not be timed", outcome)
        records.record(_TIMING, together, outcome)

    def _finish_identity(self, arm: Arm, rates: dict[str, float | None]) -> str:
        return digest([self.identities[arm.label], rates[arm.label], list(self.plan.seeds)])

    def _finish_job(self, records: Records, arm: Arm, rate: float | None) -> Job:
        built = next(each for each in self._prepared().arms if each.label == arm.label)
        weights = {seed: records.result(Run(arm, seed, rate).key)[1] for seed in self.plan.seeds}
        weights = {seed: packed for seed, packed in weights.items() if packed}
        return Job(_finish_key(arm), work.finish, (built, self.plan.settings, weights))

    # -- results -------------------------------------------------------------------------------------

    def _result(self, records: Records, rates: dict[str, float | None], facts: _Facts) -> ExperimentResult:
        higher = facts.higher_is_better
        runs = {arm.label: self._runs(records, arm, rates[arm.label]) for arm in self.plan.arms}
        scores = {
            label: [run.test_score if facts.has_test else run.val_score for run in found]
            for label, found in runs.items()
        }
        finite = [score for values in scores.values() for score in values if score is not None]
        worst = min(finite) if higher else max(finite)
        counted = {label: with_diverged(values, worst) for label, values in scores.items()}
        curves = {label: [[epoch.val_score for epoch in run.epochs] for run in found] for label, found in runs.items()}
        reached = epochs_to_reach(curves, higher=higher)
        timing = relative_to(self.plan.arms[0].label, records.result(_TIMING)[0])
        arms = tuple(
            ArmResult(
                label=arm.label,
                rate=rates[arm.label],
                runs=tuple(runs[arm.label]),
                by_rate={
                    rate: tuple(_val_score(records, Run(arm, seed, rate)) for seed in self.plan.seeds)
                    for rate in self.plan.rates
                },
                scores=tuple(counted[arm.label]),
                epochs_to_reach=reached[arm.label],
                shipped=_shipped(records, arm, timing.get(arm.label, {})),
            )
            for arm in self.plan.arms
        )
        return ExperimentResult(
            metric=facts.metric,
            higher_is_better=higher,
            judged_on="test" if facts.has_test else "validation",
            arms=arms,
            pairs=compare(counted),
            notes=tuple(facts.notes),
        )

    def _runs(self, records: Records, arm: Arm, rate: float | None) -> list[RunResult]:
        tested = records.result(_finish_key(arm))[0]["scores"]
        found = []
        for seed in self.plan.seeds:
            key = Run(arm, seed, rate).key
            content = records.result(key)[0]
            found.append(
                RunResult(
                    seed=seed,
                    rate=rate,
                    epochs=records.epochs(key),
                    best_epoch=content["best_epoch"],
                    val_score=content["val_score"],
                    diverged=content["diverged"],
                    test_score=tested.get(str(seed)),
                )
            )
        return found


_FINISH, _TIMING = "finish ", "timing"


def _finish_key(arm: Arm) -> str:
    return f"{_FINISH}{arm.label}"


def _val_score(records: Records, run: Run) -> float | None:
    """None for a run that diverged, whatever it had come to by then."""
    content = records.result(run.key)[0]
    return None if content["diverged"] else content["val_score"]


def relative_to(first: str, timing: dict[str, Any]) -> dict[str, Any]:
    """Times by arm, relative to the first arm's; where that has none they are relative to nothing."""
    if "relative" in timing.get(first, {}):
        return timing
    return {label: {key: value for key, value in found.items() if key != "relative"} for label, found in timing.items()}


def _shipped(records: Records, arm: Arm, timing: dict[str, Any]) -> Shipped:
    found = records.result(_finish_key(arm))[0]["shipped"]
    shipped = Shipped(**{**found, "notes": tuple(found["notes"])})
    if "note" in timing:
        return replace(shipped, notes=(*shipped.notes, timing["note"]))
    return replace(shipped, **timing)


def _rate(rate: float | None) -> str:
    return "the model's own" if rate is None else f"{rate:g}"


def _fail(what: str, outcome: Outcome, *, stored: bool = True) -> None:
    """Raise what a job's end means for the experiment."""
    if outcome.status is Status.FAILED and not outcome.detail:
        raise UsageError(outcome.sentence)  # the job's own words on what a user gave it
    if outcome.status is Status.FAILED:
        raise RuntimeError(f"{what}: {outcome.detail}")
    raise RunError(f"{what}: {outcome.sentence}{'; what is done is in the store' if stored else ''}")


@contextmanager
def _runner(scheduler: str | None, workers: int) -> Iterator[RunJobs]:
    """What does jobs: a Dask cluster, or this machine. Raises ClusterError where there is no scheduler."""
    if scheduler is None:
        yield partial(run_jobs, workers=workers)
        return
    from bnfold.jobs.cluster import connected

    with connected(scheduler) as run_there:
        yield run_there
