"""What is done with one model, in the process that is its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from bnfold.formats.remote import RemoteFile, is_remote, open_filesystem, reported
from bnfold.temporary import temporary_folder, temporary_name

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
    output: str | None = None
    content: bytes | None = None
    spare_bytes: bool = False
    weights: bool = False
    skip_from: int | None = None
    size: int | None = None


def work(task: Task) -> dict[str, Any]:
    """Analyze a model, and fold it where that was asked for and would change something; plain data."""
    with _local(task) as (source, read):
        report = _analyzed(task, source)
        found: dict[str, Any] = {"report": _plain(report), "fold": None, "read": None}
        if task.output is not None and report.summary.size != report.summary.folded:
            found["fold"] = _folded(task, source, task.output)
        found["read"] = read() if read is not None else None
        return found


def _analyzed(task: Task, source: Any) -> Any:
    from bnfold import api

    report = api.analyze(source, select=task.select, ignore=task.ignore, allow_unsafe=task.allow_unsafe)
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
            target = folder / PurePosixPath(output).name
            result = fold_file(source, target, options=options, allow_unsafe=task.allow_unsafe)
            if result.path is not None:
                _upload(target, output)
    verdict = result.verification
    return {
        "output": output if result.path is not None else None,
        "written": result.path is not None,
        "verdict": verdict.verdict if verdict is not None else None,
        "sentence": verdict.sentence() if verdict is not None else "",
        "steps": len(result.plan.steps),
        "summary": result.summary.to_dict(),
    }


def _upload(file: Path, url: str) -> None:
    """Put a file, and the weights beside it if there are any, under a URL: whole or not at all."""
    file_system, path = open_filesystem(url)
    with reported(url):
        parent = path.rpartition("/")[0]
        file_system.makedirs(parent, exist_ok=True)
        data = [each for each in file.parent.iterdir() if each != file]
        for each in [*data, file]:  # the model last: it names the others
            final = f"{parent}/{each.name}"
            if "s3" in file_system.protocol or "gs" in file_system.protocol:
                file_system.put_file(str(each), final)  # an object appears when its upload is complete
            else:
                staged = f"{parent}/{temporary_name()}"
                file_system.put_file(str(each), staged)
                file_system.mv(staged, final)


@contextmanager
def _local(task: Task) -> Iterator[tuple[Any, Any]]:
    """What to load the model from, and a function that counts what was fetched for it, or None."""
    if task.content is not None:
        with temporary_folder() as folder:
            copy = folder / PurePosixPath(task.path).name
            copy.write_bytes(task.content)
            yield copy, None
    elif is_remote(task.path) and task.output is None and task.path.lower().endswith(".onnx"):
        file = RemoteFile(
            task.path, size=task.size, spare_bytes=task.spare_bytes, weights=task.weights, skip_from=task.skip_from
        )  # fmt: skip
        yield file, file.traffic
    elif is_remote(task.path):
        with _fetched(task) as found:
            yield found
    else:
        yield os.fspath(task.path), None


@contextmanager
def _fetched(task: Task) -> Iterator[tuple[Any, Any]]:
    """The whole model, copied from elsewhere into a folder."""
    import time

    started = time.monotonic()
    file_system, path = open_filesystem(task.path)
    with temporary_folder() as folder:
        local = folder / PurePosixPath(path).name
        with reported(task.path):
            file_system.get(path, str(local), recursive=file_system.isdir(path))
        files = [each for each in folder.rglob("*") if each.is_file()]
        size, seconds = sum(each.stat().st_size for each in files), time.monotonic() - started
        yield local, lambda: {"bytes": size, "requests": len(files), "seconds": seconds}
