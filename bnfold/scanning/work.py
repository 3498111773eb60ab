"""What is done with one model, in the process that is its own."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bnfold.errors import OutputError, UnavailableError
from bnfold.formats.fetching import called, fetched
from bnfold.formats.remote import RemoteFile, is_remote, name_of
from bnfold.graph import Model
from bnfold.scanning.discovery import identity_beside
from bnfold.scanning.places import upload
from bnfold.temporary import temporary_folder

#: What the fork server imports, so that no job has to.
PRELOAD = ("bnfold.scanning.warm",)
#: What it imports as well where models are folded and verified.
PRELOAD_FOLDING = ("bnfold.pipeline", "bnfold.verification.verifier", "onnxruntime")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One model and what to do with it. ``output`` is where the folded model goes, None to leave it unfolded.

    ``content`` is the file itself where no other process sees it; ``config`` the settings with per-model ignores.
    """

    path: str
    select: tuple[str, ...] | None = None
    ignore: tuple[str, ...] = ()
    config: Any = None
    allow_unsafe: bool = False
    custom: tuple[str, ...] = ()
    output: str | None = None
    content: bytes | None = None
    spare_bytes: bool = False
    weights: bool = False
    skip_from: int | None = None
    size: int | None = None


def work(task: Task) -> dict[str, Any]:
    """Analyze a model, and fold it where that was asked for and would change something; plain data.

    ``unavailable`` says why it could not be read or written this time, where another time may do.
    """
    from bnfold import api

    found: dict[str, Any] = {"report": None, "fold": None, "read": None, "unavailable": None}
    try:
        _import(task.custom)
        with _local(task) as (source, read):
            model = api.load(source, allow_unsafe=task.allow_unsafe)
            found["data_files"] = files = list(getattr(model, "data_files", ()))
            found["beside"] = identity_beside(task.path, files)
            report = _analyzed(task, model)
            found["report"] = _plain(report)
            if task.output is not None and report.summary.size != report.summary.folded:
                found["fold"] = _folded(task, source, task.output)
            found["read"] = read() if read is not None else None
    except (UnavailableError, OutputError) as error:
        found["unavailable"] = str(error)
    return found


def _import(modules: Sequence[str]) -> None:
    if modules:
        from bnfold.formats.keras.files import import_custom  # which takes TensorFlow

        for module in modules:
            import_custom(module)


def _analyzed(task: Task, model: Model) -> Any:
    from bnfold import api

    report = api.analyze(model, select=task.select, ignore=task.ignore)
    report = replace(report, model=task.path)
    return report if task.config is None else task.config.without_ignored(report)


def _plain(report: Any) -> dict[str, Any]:
    """A report as data, with the bytes of its parameters before and after folding."""
    data: dict[str, Any] = report.to_dict()
    summary = data["summary"]
    summary["bytes"], summary["after_folding"]["bytes"] = report.summary.size.bytes, report.summary.folded.bytes
    return data


def _folded(task: Task, source: Any, output: str) -> dict[str, Any]:
    """Fold, verify, and put the file where it belongs; ``written`` says whether it is there."""
    from bnfold.pipeline import fold_file
    from bnfold.verification import VerifyOptions

    target = Path(output) if not is_remote(output) else None
    options = VerifyOptions(threads=1)  # the cores have jobs of their own
    if target is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
        result = fold_file(source, target, options=options, allow_unsafe=task.allow_unsafe)
    else:
        with temporary_folder() as folder:
            target = folder / name_of(output)
            result = fold_file(source, target, options=options, allow_unsafe=task.allow_unsafe)
            if result.path is not None:
                upload(target, output)
    verdict, agreement = result.verification, result.agreement
    return {
        "output": output if result.path is not None else None,
        "written": result.path is not None,
        "verdict": verdict.verdict if verdict is not None else None,
        "sentence": " and ".join(check.sentence() for check in (verdict, agreement) if check is not None),
        "steps": len(result.plan.steps),
        "summary": result.summary.to_dict(),
    }


@contextmanager
def _local(task: Task) -> Iterator[tuple[Any, Any]]:
    """What to load the model from, and a function that counts what was fetched for it, or None."""
    if task.content is not None:
        with temporary_folder() as folder:
            copy = folder / name_of(task.path)
            copy.write_bytes(task.content)
            with called(copy, task.path):
                yield copy, None
    elif is_remote(task.path) and task.output is None and name_of(task.path).lower().endswith(".onnx"):
        file = RemoteFile(
            task.path, size=task.size, spare_bytes=task.spare_bytes, weights=task.weights, skip_from=task.skip_from
        )  # fmt: skip
        yield file, file.traffic
    elif is_remote(task.path):
        with fetched(task.path, task.size) as (copy, traffic):
            yield copy, lambda: traffic
    else:
        yield os.fspath(task.path), None
