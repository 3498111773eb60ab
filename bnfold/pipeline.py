"""Fold or fix a model into a file: the file is written, verified as it lies there, and only then put in place."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, fields, replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnfold import api
from bnfold.analysis.size import Size
from bnfold.errors import OutputError, UsageError
from bnfold.folding import FoldStep
from bnfold.formats import load
from bnfold.formats.atomic import resolve_target
from bnfold.graph import Model
from bnfold.results import FixResult, FoldResult
from bnfold.temporary import temporary_folder

if TYPE_CHECKING:
    from bnfold.verification import Latency, Verification
    from bnfold.verification.feeds.values import Inputs

#: What a stage of the work is called while it runs.
Progress = Callable[[str], None]

#: tf2onnx may stray from Keras by this part of the largest output before it is worth a remark.
_CONVERSION_LIMIT = 1e-4


@dataclass(frozen=True, slots=True)
class Check:
    """How a written file is verified; the fields are :func:`bnfold.verify`'s arguments."""

    rtol: float | None = None
    atol: float | None = None
    inputs: Inputs | None = None
    seed: int = 0
    strict: bool = False
    provider: str = "CPUExecutionProvider"
    threads: int | None = None
    timeout: float | None = None
    memory: int | None = None


def _silent(stage: str) -> None:
    """Progress that nobody watches."""


def fold_file(
    source: str | PathLike[str],
    output: str | PathLike[str],
    *,
    branches: bool = True,
    keep_overridable: bool = False,
    check: Check | None = Check(),
    keep_going: bool = False,
    latency: bool = False,
    external_data: bool | None = None,
    allow_unsafe: bool = False,
    progress: Progress = _silent,
) -> FoldResult:
    """Fold the model in ``source`` and write it to ``output``, whose suffix decides the format.

    Unless ``check`` is None, the file is verified against the original before it gets its name. If
    the two differ nothing is written (``path`` of the result is None), the smallest set of steps
    that makes them differ is in ``culprits``, and ``keep_going`` leaves these out and tries again.

    Raises UsageError where the output is the input, OutputError where it cannot be written, and
    what :func:`bnfold.load` raises. Whatever happens, an existing output is whole: old or new.
    """
    target = _target(source, output)
    progress("reading the model")
    original = api.load(source, allow_unsafe=allow_unsafe)
    _check_suffix(original, target)
    progress("folding")
    skip: set[str] = set()
    fold = partial(api.fold, original, branches=branches, keep_overridable=keep_overridable)
    dropped: list[FoldStep] = []
    while True:
        result = replace(fold(skip=skip), dropped=tuple(dropped))
        result = _into_file(result, original, target, check, latency, external_data, progress)
        if result.path is not None:
            return _with_files(replace(result, path=Path(output)), Path(source), target)
        assert result.verification is not None  # the only reason not to write
        if result.verification.verdict == "different":
            progress("looking for the steps that make the difference")
            found = _culprits(result, original, lambda left_out: fold(skip=skip | left_out), check or Check())
            result = replace(result, culprits=found)
        if not keep_going or not result.culprits:
            return result
        skip.update(step.subject for step in result.culprits)
        dropped += result.culprits


def fix_file(
    source: str | PathLike[str],
    output: str | PathLike[str],
    *,
    check: Check | None = Check(),
    external_data: bool | None = None,
    allow_unsafe: bool = False,
    progress: Progress = _silent,
) -> FixResult:
    """Repair the model in ``source`` and write it to ``output``. As :func:`fold_file` otherwise."""
    target = _target(source, output)
    progress("reading the model")
    original = api.load(source, allow_unsafe=allow_unsafe)
    _check_suffix(original, target)
    progress("repairing")
    result = api.fix(original)
    verification: Verification | None = None

    def judge(written: Path) -> bool:
        nonlocal verification
        if check is not None:
            progress("verifying")
            verification = _verify(original, result.model, written, check)
        return verification is None or verification.equivalent

    progress("writing")
    done = _save(result.model, target, external_data, judge)
    return replace(result, verification=verification, path=Path(output) if done else None)


# -- before ------------------------------------------------------------------------------------------


def _target(source: str | PathLike[str], output: str | PathLike[str]) -> Path:
    """The file to write. Raises UsageError where it is the input, OutputError where it cannot be written."""
    try:
        same = os.path.samefile(source, output)
    except (OSError, ValueError):
        same = False  # one of the two does not exist, which others report better
    if same:
        raise UsageError(f"{os.fspath(output)} is the input itself; give the output another name")
    target = resolve_target(output)
    if not os.access(target.parent, os.W_OK):
        raise OutputError(f"{os.fspath(output)} cannot be written: the folder {target.parent} is write-protected")
    return target


def _check_suffix(model: Model, target: Path) -> None:
    """Find out before the work, not after it."""
    keras = target.suffix.lower() in (".keras", ".h5", ".hdf5")
    if model.format == "onnx" and keras:
        raise UsageError(f"{target.name}: an ONNX model cannot be written as a Keras model; use the suffix .onnx")
    if model.format == "keras" and not keras and target.suffix.lower() != ".onnx":
        raise UsageError(f"{target.name}: a Keras model is written as .keras, .h5 or .onnx; the suffix decides")


# -- writing -----------------------------------------------------------------------------------------


class _RejectedError(Exception):
    """The file that was written shall not get its name."""


def _into_file(
    result: FoldResult,
    original: Model,
    target: Path,
    check: Check | None,
    latency: bool,
    external_data: bool | None,
    progress: Progress,
) -> FoldResult:
    """Write the folded model; the result with what its file showed, and with ``path`` if that is in place."""

    def judge(written: Path) -> bool:
        nonlocal result
        if check is not None:
            progress("verifying")
            result = _verified(result, original, written, check)
            assert result.verification is not None
            if not result.verification.equivalent:
                return False
        if latency:
            progress("measuring the latency")
            result = replace(result, latency=_latency(original, written, check))
        return True

    if original.format == "keras" and target.suffix.lower() == ".onnx":
        result = _converted(result)
    progress("writing")
    done = _save(result.model, target, external_data, judge)
    return replace(result, path=target) if done else result


def _converted(result: FoldResult) -> FoldResult:
    """A Keras model becomes an ONNX model. tf2onnx writes some BN as Mul and Add, so it is folded once more."""
    with temporary_folder() as folder:
        again = api.fold(load(result.model.as_onnx(folder)))
    summary = replace(result.summary, after=again.summary.after)
    note = "converted by tf2onnx: the nodes of the ONNX file are not the layers of the Keras model"
    return replace(result, model=again.model, summary=summary, notes=(*result.notes, note))


def _save(model: Model, target: Path, external_data: bool | None, judge: Callable[[Path], bool]) -> bool:
    """Write the model; ``judge`` decides, with the file in front of it, whether it gets its name."""

    def approve(written: Path) -> None:
        if not judge(written):
            raise _RejectedError

    extra = {"external_data": external_data} if model.format == "onnx" and external_data is not None else {}
    save: Callable[..., None] = model.save
    try:
        save(target, approve=approve, **extra)
    except _RejectedError:
        return False
    return True


def _with_files(result: FoldResult, source: Path, target: Path) -> FoldResult:
    summary = result.summary
    before, after = _file_bytes(source, summary.before), _file_bytes(target, summary.after)
    return replace(result, summary=replace(summary, file_before=before, file_after=after))


def _file_bytes(path: Path, size: Size) -> int:
    """Bytes on disk; weights that do not fit into the file are in another one."""
    if path.is_dir():
        return sum(entry.stat().st_size for entry in path.rglob("*") if entry.is_file())
    own = path.stat().st_size
    return own if own >= size.bytes else own + size.bytes


# -- verifying ---------------------------------------------------------------------------------------


def _verified(result: FoldResult, original: Model, written: Path, check: Check) -> FoldResult:
    found = _verify(original, result.model, written, check)
    return replace(result, verification=found, notes=(*result.notes, *_conversion_notes(original, found)))


def _verify(original: Model, model: Model, path: Path, check: Check) -> Verification:
    """The verdict on the file as it was written."""
    from bnfold.verification import verify

    keras = path.suffix.lower() != ".onnx" and model.format == "keras"
    written: Any = load(path, allow_unsafe=True) if keras else path
    return verify(original, written, intermediates=_keeps_names(original, model), **_options(check))


def _options(check: Check) -> dict[str, Any]:
    return {entry.name: getattr(check, entry.name) for entry in fields(check)}


def _conversion_notes(original: Model, found: Verification) -> list[str]:
    """Keras's own answers against onnxruntime's: a difference there is the conversion's, not folding's."""
    measure = getattr(original, "conversion_difference", None)
    if measure is None or not found.equivalent:
        return []
    difference = float(measure())
    if difference <= _CONVERSION_LIMIT:
        return [f"Keras and onnxruntime agree on the original to {difference:.1e} of its largest output"]
    return [
        f"on the original, before any folding, tf2onnx's conversion strays from Keras by {difference:.1e} of its "
        "largest output"
    ]


def _latency(original: Model, written: Path, check: Check | None) -> Latency:
    from bnfold.verification import latency

    how = check or Check()
    return latency(original, written, inputs=how.inputs, seed=how.seed, provider=how.provider, threads=how.threads)


def _culprits(
    result: FoldResult, original: Model, fold_without: Callable[[set[str]], FoldResult], check: Check
) -> tuple[FoldStep, ...]:
    """The smallest set of steps of the plan that by themselves make the models differ."""
    from bnfold.verification import Options, smallest_failing

    subjects = list(dict.fromkeys(step.subject for step in result.plan.steps))

    def refold(kept: Collection[str]) -> Model:
        return fold_without(set(subjects) - set(kept)).model

    how = Options(
        check.rtol,
        check.atol,
        check.seed,
        check.strict,
        check.provider,
        check.threads,
        intermediates=_keeps_names(original, result.model),
    )
    guilty = set(smallest_failing(subjects, refold, original=original, inputs=check.inputs, options=how))
    return tuple(step for step in result.plan.steps if step.subject in guilty)


def _keeps_names(original: Model, model: Model) -> bool:
    """Do tensors of one name hold the same values in both? Conversion from Keras makes up names."""
    return original.format == model.format == "onnx"
