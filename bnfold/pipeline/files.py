"""The public functions from file to file: fold, fix, equalize, restyle."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from bnfold import api
from bnfold.analysis.size import Size
from bnfold.errors import UsageError
from bnfold.pipeline.conversion import in_target_format
from bnfold.pipeline.course import Course, Progress, from_anywhere, silent
from bnfold.pipeline.runs import Folding
from bnfold.results import EqualizeResult, FixResult, FoldResult, RestyleResult

if TYPE_CHECKING:
    from bnfold.restyling import Style
    from bnfold.verification import VerifyOptions

_R = TypeVar("_R", FoldResult, FixResult, EqualizeResult)


@from_anywhere
def fold_file(
    source: str | PathLike[str],
    output: str | PathLike[str],
    *,
    branches: bool = True,
    keep_overridable: bool = False,
    verify: bool = True,
    options: VerifyOptions | None = None,
    keep_going: bool = False,
    latency: bool = False,
    external_data: bool | None = None,
    allow_unsafe: bool = False,
    progress: Progress = silent,
) -> FoldResult:
    """Fold the model in ``source`` and write it to ``output``: what ``bnfold fold SOURCE -o OUTPUT`` does.

    ``source`` is an ONNX or Keras file, a SavedModel folder or a URL of one; the suffix of ``output`` decides what is
    written (``.onnx``; of a Keras model ``.keras``, ``.h5`` and ``.hdf5`` too). ``branches`` and ``keep_overridable``
    are those of :func:`bnfold.fold`, ``allow_unsafe`` that of :func:`bnfold.load`.

    With ``verify`` the written file is compared with the original, as ``options`` say, before it gets its name. If
    the two differ nothing is written: ``path`` of the result is None, and the smallest set of steps that makes
    them differ is in ``culprits``; ``keep_going`` leaves these out and tries again. ``latency`` times both models
    in onnxruntime, its optimisations on. The time and memory of ``options`` bound everything that runs a model or
    converts one to run it, the time from this call on, reading and folding included: where they do not suffice for
    the comparison nothing is written, where they do not for the rest ``notes`` says so.
    ``external_data`` puts the weights of an ONNX model into ``<output>.data``; None does so where the source had
    external data, or where the file would exceed 2 GB. ``progress`` is called with the name of each stage.

    Raises UsageError where ``output`` is the input, has a suffix of another format, or where ``options`` do not
    fit the model; OutputError where it cannot be written; and what :func:`bnfold.load` raises. Whatever
    happens, an existing ``output`` is whole, old or new.
    """
    course = Course(source, output, options, allow_unsafe, progress, external_data)
    progress("folding")
    fold = Folding(branches, keep_overridable)
    result = fold(course.original)

    def with_latency(result: FoldResult, written: Path) -> FoldResult:
        progress("measuring the latency")
        return course.runs.with_latency(result, written)

    while True:
        result = course.write(
            _converted(result, course),
            course.runs.with_verdict_and_notes if verify else None,
            with_latency if latency else None,
        )
        if result.verification is None or result.verification.verdict != "different":
            return _with_file_sizes(result, Path(source))
        progress("looking for the steps that make the difference")
        result = course.runs.with_culprits(result, fold)
        if not keep_going or not result.culprits:
            return result
        dropped = (*result.dropped, *result.culprits)
        result = replace(fold(course.original, {step.subject for step in dropped}), dropped=dropped)


@from_anywhere
def fix_file(
    source: str | PathLike[str],
    output: str | PathLike[str],
    *,
    verify: bool = True,
    options: VerifyOptions | None = None,
    external_data: bool | None = None,
    allow_unsafe: bool = False,
    progress: Progress = silent,
) -> FixResult:
    """Repair the model in ``source`` and write it to ``output``: what ``bnfold fix SOURCE -o OUTPUT`` does.

    :func:`bnfold.fix` says what is repaired. Arguments, errors and promises are those of :func:`fold_file`: where
    the outputs differ nothing is written, and ``path`` of the result is None.
    """
    course = Course(source, output, options, allow_unsafe, progress, external_data)
    progress("repairing")
    result = course.write(api.fix(course.original), course.runs.with_verdict if verify else None)
    return _with_file_sizes(result, Path(source))


@from_anywhere
def equalize_file(
    source: str | PathLike[str],
    output: str | PathLike[str],
    *,
    exact: bool = False,
    branches: bool = True,
    keep_overridable: bool = False,
    verify: bool = True,
    options: VerifyOptions | None = None,
    external_data: bool | None = None,
    allow_unsafe: bool = False,
    progress: Progress = silent,
) -> EqualizeResult:
    """Fold and equalise the model in ``source`` and write it: what ``bnfold equalize SOURCE -o OUTPUT`` does.

    :func:`bnfold.equalize` says what that is. The other arguments, errors and promises are those of
    :func:`fold_file`: where the outputs differ nothing is written, and ``path`` of the result is None.
    """
    course = Course(source, output, options, allow_unsafe, progress, external_data)
    progress("equalising")
    result = api.equalize(course.original, exact=exact, branches=branches, keep_overridable=keep_overridable)
    result = in_target_format(result, course, partial(api.equalize, exact=exact))
    return _with_file_sizes(course.write(result, course.runs.with_verdict if verify else None), Path(source))


@from_anywhere
def restyle_file(
    source: str | PathLike[str],
    output: str | PathLike[str] | None,
    style: Style,
    *,
    fresh: int | None = None,
    data: Any = None,
    exact: bool = False,
    verify: bool = True,
    options: VerifyOptions | None = None,
    allow_unsafe: bool = False,
    progress: Progress = silent,
) -> RestyleResult:
    """Write the Keras model in ``source`` in another style to ``output``: what ``bnfold restyle`` does.

    :func:`bnfold.restyle` says what is changed; ``fresh`` is the seed of weights that are initialised anew. Without an
    ``output`` nothing is built, and the result says what would be changed. With ``verify`` the exact changes are
    compared with the original before the file gets its name: in onnxruntime, or where no ONNX can be made of the model
    by Keras's own predictions. If they differ nothing is written. ``exact`` writes nothing either where a change is
    not exact. Errors and promises are those of :func:`fold_file`.
    """
    course = Course(source, output, options, allow_unsafe, progress, trains=True)
    if course.converts:
        raise UsageError(f"{output}: a model that is to be trained is written as .keras or .h5")
    progress("restyling")
    result = api.restyle_model(course.original, style, fresh=fresh, data=data, build=output is not None)
    if exact and result.inexact:
        return replace(result, refused=result.inexact_sentence())
    if output is None:
        return result
    return course.write(result, course.runs.with_exact_verdict if verify and fresh is None else None)


def _converted(result: FoldResult, course: Course) -> FoldResult:
    made = in_target_format(result, course, api.fold)
    if not course.converts:
        return made
    note = f"converted to ONNX: its nodes are not the layers of the {course.original.format} model"
    if len(made.plan.steps) > len(result.plan.steps):
        note += ", and it was folded again there"
    return replace(made, notes=(*made.notes, note))


def _with_file_sizes(result: _R, source: Path) -> _R:
    if result.path is None:
        return result
    summary = result.summary
    before, after = _file_bytes(source, summary.before), _file_bytes(result.path, summary.after)
    return replace(result, summary=replace(summary, file_before=before, file_after=after))


def _file_bytes(path: Path, size: Size) -> int:
    """Bytes on disk; weights that do not fit into the file are in another one."""
    if path.is_dir():
        return sum(entry.stat().st_size for entry in path.rglob("*") if entry.is_file())
    own = path.stat().st_size
    return own if own >= size.bytes else own + size.bytes
