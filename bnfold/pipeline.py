"""A model file in, a model file out: load, fold or fix, stage the new file, verify what lies there, commit it."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import cached_property, partial, wraps
from inspect import signature
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

import numpy as np

from bnfold import api
from bnfold.analysis.size import Size
from bnfold.errors import OutputError, UsageError
from bnfold.formats import load
from bnfold.formats.atomic import resolve_target
from bnfold.formats.fetching import local_source
from bnfold.graph import ConvertedModel, Model
from bnfold.graph.parameters import Unrounded
from bnfold.isolation import Ended, Limits, call
from bnfold.results import Agreement, EqualizeResult, FixResult, FoldResult, RestyleResult
from bnfold.temporary import temporary_folder

if TYPE_CHECKING:
    from bnfold.restyling import Style
    from bnfold.verification import Verification, VerifyOptions

__all__ = ["equalize_file", "fix_file", "fold_file", "restyle_file"]

#: What a stage of the work is called while it runs.
Progress = Callable[[str], None]
_Result = TypeVar("_Result", FixResult, EqualizeResult)
_P = ParamSpec("_P")
_R = TypeVar("_R")

#: tf2onnx may stray from Keras by this part of the largest output before it is worth a remark.
_CONVERSION_LIMIT = 1e-4


def _silent(stage: str) -> None:
    """Progress that nobody watches."""


def _from_anywhere(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Where the first argument, ``source``, is a URL, the model is fetched for the time of the call."""

    parameters = signature(function)

    @wraps(function)
    def call_with_file(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        given = parameters.bind(*args, **kwargs)
        with local_source(given.arguments["source"]) as given.arguments["source"]:
            return function(*given.args, **given.kwargs)

    return call_with_file


@_from_anywhere
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
    progress: Progress = _silent,
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
    limits = options.limits() if options is not None else Limits()
    target = _target(source, output)
    progress("reading the model")
    original = api.load(source, allow_unsafe=allow_unsafe)
    original.check_target(target)
    progress("folding")
    fold = _Folding(branches, keep_overridable)
    runs = _Runs(original, Path(source), allow_unsafe, options, limits)
    result = fold(original)
    while True:
        result = _in_target_format(result, original, target)
        progress("writing")
        with result.model.stage(target, external_data=external_data) as staged:
            if verify:
                progress("verifying")
                result = runs.verified(result, staged.path)
            if result.verification is None or result.verification.equivalent:
                if latency:
                    progress("measuring the latency")
                    result = runs.with_latency(result, staged.path)
                staged.commit()
                result = replace(result, path=Path(output))
        if result.verification is None or result.verification.verdict != "different":
            return _with_file_sizes(result, Path(source), target)
        progress("looking for the steps that make the difference")
        result = runs.with_culprits(result, fold)
        if not keep_going or not result.culprits:
            return result
        dropped = (*result.dropped, *result.culprits)
        result = replace(fold(original, {step.subject for step in dropped}), dropped=dropped)


@_from_anywhere
def fix_file(
    source: str | PathLike[str],
    output: str | PathLike[str],
    *,
    verify: bool = True,
    options: VerifyOptions | None = None,
    external_data: bool | None = None,
    allow_unsafe: bool = False,
    progress: Progress = _silent,
) -> FixResult:
    """Repair the model in ``source`` and write it to ``output``: what ``bnfold fix SOURCE -o OUTPUT`` does.

    :func:`bnfold.fix` says what is repaired. Arguments, errors and promises are those of :func:`fold_file`: where
    the outputs differ nothing is written, and ``path`` of the result is None.
    """
    limits = options.limits() if options is not None else Limits()
    target = _target(source, output)
    progress("reading the model")
    original = api.load(source, allow_unsafe=allow_unsafe)
    original.check_target(target)
    progress("repairing")
    result = api.fix(original)
    runs = _Runs(original, Path(source), allow_unsafe, options, limits) if verify else None
    return _written(result, output, target, runs, external_data, progress)


@_from_anywhere
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
    progress: Progress = _silent,
) -> EqualizeResult:
    """Fold and equalise the model in ``source`` and write it: what ``bnfold equalize SOURCE -o OUTPUT`` does.

    :func:`bnfold.equalize` says what that is. The other arguments, errors and promises are those of
    :func:`fold_file`: where the outputs differ nothing is written, and ``path`` of the result is None.
    """
    limits = options.limits() if options is not None else Limits()
    target = _target(source, output)
    progress("reading the model")
    original = api.load(source, allow_unsafe=allow_unsafe)
    original.check_target(target)
    progress("equalising")
    result = api.equalize(original, exact=exact, branches=branches, keep_overridable=keep_overridable)
    if original.converts_to(target):
        with temporary_folder() as folder:
            again = api.equalize(_converted(cast(ConvertedModel, result.model), folder), exact=exact)
        result = replace(result, model=again.model, summary=replace(result.summary, after=again.summary.after))
    runs = _Runs(original, Path(source), allow_unsafe, options, limits) if verify else None
    return _written(result, output, target, runs, external_data, progress)


@_from_anywhere
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
    progress: Progress = _silent,
) -> RestyleResult:
    """Write the Keras model in ``source`` in another style to ``output``: what ``bnfold restyle`` does.

    :func:`bnfold.restyle` says what is changed; ``fresh`` is the seed of weights that are initialised anew. Without an
    ``output`` nothing is built, and the result says what would be changed. With ``verify`` the exact changes are
    compared with the original before the file gets its name: in onnxruntime, or where no ONNX can be made of the model
    by Keras's own predictions. If they differ nothing is written. ``exact`` writes nothing either where a change is
    not exact. Errors and promises are those of :func:`fold_file`.
    """
    target = _target(source, output) if output is not None else None
    limits = options.limits() if options is not None else Limits()
    progress("reading the model")
    original = api.load(source, allow_unsafe=allow_unsafe)
    if target is not None:
        original.check_target(target)
        if original.converts_to(target):
            raise UsageError(f"{output}: a model that is to be trained is written as .keras or .h5")
    progress("restyling")
    result = api.restyle_model(original, style, fresh=fresh, data=data, build=target is not None)
    if exact and result.inexact:
        return replace(result, refused=f"{len(result.inexact)} of {len(result.changes)} changes are not exact")
    if target is None:
        return result
    assert result.model is not None, "it is built where there is a target"
    progress("writing")
    with result.model.stage(target) as staged:
        if verify and fresh is None:
            progress("verifying")
            runs = _Runs(original, Path(source), allow_unsafe, options, limits)
            result = _with_exact_verified(result, runs, staged.path)
            if result.unmeasured is not None:
                from bnfold.restyling.measured import rounding_of

                result = replace(result, rounding=rounding_of(result.unmeasured, staged.path, result.norms))
        if result.equivalent:
            staged.commit()
            result = replace(result, path=Path(str(output)))
    return result


def _with_exact_verified(result: RestyleResult, runs: _Runs, written: Path) -> RestyleResult:
    """The result with the verdict on what is exact, without measured statistics: such a BN rounds by its mean."""
    part = result.exact_part or result.unmeasured
    if part is None:
        return runs.agreed(result, result.model, written)
    with temporary_folder() as folder:
        path = folder / "exact.keras"
        part.save(path)
        return runs.agreed(result, part, path)


def _written(
    result: _Result,
    output: str | PathLike[str],
    target: Path,
    runs: _Runs | None,
    external_data: bool | None,
    progress: Progress,
) -> _Result:
    """Stage the model of a result, let ``runs`` verify it, and give the file its name if nothing speaks against it."""
    progress("writing")
    with result.model.stage(target, external_data=external_data) as staged:
        if runs is not None:
            progress("verifying")
            result = replace(result, verification=runs.verdict(result.model, staged.path))
        if result.verification is None or result.verification.equivalent:
            staged.commit()
            result = replace(result, path=Path(output))
    return result


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


# -- folding and writing -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Folding:
    """How models are folded, for this process and for others."""

    branches: bool
    keep_overridable: bool

    def __call__(self, model: Model, skip: Collection[str] = ()) -> FoldResult:
        return api.fold(model, branches=self.branches, keep_overridable=self.keep_overridable, skip=skip)


def _in_target_format(result: FoldResult, original: Model, target: Path) -> FoldResult:
    """A Keras model may become an ONNX model. tf2onnx writes some BN as Mul and Add, so it is folded once more."""
    if not original.converts_to(target):
        return result
    with temporary_folder() as folder:
        again = api.fold(_converted(cast(ConvertedModel, result.model), folder))
    summary = replace(result.summary, after=again.summary.after)
    note = f"converted to ONNX: its nodes are not the layers of the {original.format} model"
    return replace(result, model=again.model, summary=summary, notes=(*result.notes, note))


def _converted(model: ConvertedModel, folder: Path) -> Model:
    """The ONNX model of one of another format; what was computed of its weights is not rounded before it is written."""
    path = folder / "converted.onnx"
    model.save(path)
    made = load(path)
    graph = made.graph.copy()
    known = model.unrounded_in_onnx(model.unrounded())
    known |= {
        name: partial(np.asarray, it.exact) for name, it in model.computed_in_onnx().items() if it.exact is not None
    }
    for name, exact in known.items():
        rounded = graph.params.get(name)
        if rounded is not None and rounded.shape:
            graph.params[name] = replace(rounded, data=Unrounded(exact, rounded.dtype), record=None)
    return made.with_graph(graph)


def _with_file_sizes(result: FoldResult, source: Path, target: Path) -> FoldResult:
    if result.path is None:
        return result
    summary = result.summary
    before, after = _file_bytes(source, summary.before), _file_bytes(target, summary.after)
    return replace(result, summary=replace(summary, file_before=before, file_after=after))


def _file_bytes(path: Path, size: Size) -> int:
    """Bytes on disk; weights that do not fit into the file are in another one."""
    if path.is_dir():
        return sum(entry.stat().st_size for entry in path.rglob("*") if entry.is_file())
    own = path.stat().st_size
    return own if own >= size.bytes else own + size.bytes


# -- running the models ------------------------------------------------------------------------------


class _Runs:
    """Everything that runs the models, within the limits of one set of options: they hold for all of it together."""

    def __init__(
        self, original: Model, source: Path, allow_unsafe: bool, options: VerifyOptions | None, limits: Limits
    ) -> None:
        self._original = original
        self._source = source
        self._allow_unsafe = allow_unsafe
        self._given = options
        self._limits = limits

    @cached_property
    def _options(self) -> VerifyOptions:
        from bnfold.verification.verify_options import DEFAULTS  # which takes time, and not all files are verified

        return self._given if self._given is not None else DEFAULTS

    @property
    def _readable(self) -> Model | Path:
        """The original for a process of its own, which has to read it again, or for this one."""
        return self._source if self._limits else self._original

    def verdict(self, model: Model, written: Path) -> Verification:
        """The verdict on the file as it was written."""
        from bnfold.verification import verify
        from bnfold.verification.runtime.onnx_file import store_arrays, unrounded_weights
        from bnfold.verification.verifier import verification_of

        options = self._options_for(model)
        if self._original.is_onnx:
            return verify(self._original, written, options, self._limits, model)
        started = time.perf_counter()
        options = replace(options, timeout=None, memory=None)  # what they limit is the whole call
        with temporary_folder() as folder:
            exact: Any = unrounded_weights(model) if model.is_onnx else cast(ConvertedModel, model).unrounded()
            if self._limits:
                store_arrays(exact, folder / "unrounded.npz")
                exact = folder / "unrounded.npz"
            found = call(_keras_verdict, self._limits, self._readable, self._allow_unsafe, written, exact, options)
        return verification_of(found, time.perf_counter() - started)

    def agreed(self, result: RestyleResult, model: Any, written: Path) -> RestyleResult:
        """The result with the verdict on a file, or with the agreement of predictions where there is no ONNX of it."""
        try:
            found = self.verdict(model, written)
        except OutputError as error:
            reason = str(error)
        else:
            if found.verdict != "not verified" or self._limits:
                return replace(result, verification=found)
            reason = found.sentence()
        original: Any = self._original
        agreement = Agreement(*original.prediction_difference(load(written, allow_unsafe=True)))
        return replace(result, agreement=agreement, notes=(*result.notes, reason))

    def verified(self, result: FoldResult, written: Path) -> FoldResult:
        """The result with the verdict, and with how well the original was converted where it had to be."""
        found = self.verdict(result.model, written)
        notes = [*result.notes, *(self._conversion_notes() if found.equivalent else ())]
        return replace(result, verification=found, notes=tuple(notes))

    def with_latency(self, result: FoldResult, written: Path) -> FoldResult:
        """The result with the latency, or with a note that says why it could not be measured within the limits."""
        from bnfold.verification import latency

        limits = self._limits
        found = latency(self._original, _as_written(result.model, written), self._options, limits=limits)
        if isinstance(found, Ended):
            note = f"the latency was not measured: {found.sentence('onnxruntime')}"
            return replace(result, notes=(*result.notes, note))
        return replace(result, latency=found)

    def with_culprits(self, result: FoldResult, fold: _Folding) -> FoldResult:
        """The result with the smallest set of steps of its plan that by themselves make the models differ."""
        options = self._options_for(result.model)
        subjects = tuple(dict.fromkeys(step.subject for step in result.plan.steps))
        dropped = frozenset(step.subject for step in result.dropped)
        found = call(_guilty, self._limits, self._readable, self._allow_unsafe, fold, subjects, dropped, options)
        if isinstance(found, Ended):
            note = f"the steps that make the difference were not found: {found.sentence('onnxruntime')}"
            return replace(result, notes=(*result.notes, note))
        return replace(result, culprits=tuple(step for step in result.plan.steps if step.subject in found.value))

    def _options_for(self, model: Model) -> VerifyOptions:
        """Tensors of one name hold the same values in both models, unless conversion from Keras makes up names."""
        return replace(self._options, intermediates=self._original.is_onnx and model.is_onnx)

    def _conversion_notes(self) -> list[str]:
        """Keras's own answers against onnxruntime's: a difference there is the conversion's, not folding's."""
        if not hasattr(self._original, "conversion_difference"):
            return []
        found = call(_conversion_difference, self._limits, self._readable, self._allow_unsafe)
        if isinstance(found, Ended):
            return [f"the conversion by tf2onnx was not compared with Keras: {found.sentence('Keras or onnxruntime')}"]
        if found.value <= _CONVERSION_LIMIT:
            return [f"Keras and onnxruntime agree on the original to {found.value:.1e} of its largest output"]
        return [
            f"on the original, before any folding, tf2onnx's conversion strays from Keras by {found.value:.1e} of its "
            "largest output"
        ]


def _as_written(model: Model, written: Path) -> Model | Path:
    """The staged file of ``model`` as verification takes it: a Keras file has to be read."""
    as_it_lies = model.is_onnx or model.converts_to(written)
    return written if as_it_lies else load(written, allow_unsafe=True)


def _keras_verdict(
    source: Model | Path, allow_unsafe: bool, written: Path, exact: Any, options: VerifyOptions
) -> Verification:
    """The verdict on the file of a model that is not ONNX itself; what is not is converted first.

    ``exact`` are the unrounded weights, or the file that holds them: by name those of an ONNX model, else by keys of
    the format.
    """
    from bnfold.verification import verify
    from bnfold.verification.runtime.onnx_file import OnnxFile, read_arrays

    original = cast(ConvertedModel, api.load(source, allow_unsafe=allow_unsafe))
    known = read_arrays(exact) if isinstance(exact, Path) else exact
    with temporary_folder() as folder:
        first = OnnxFile.of(original, folder, "the original")
        first.computed = _sizes(original)
        if written.suffix.lower() == ".onnx":
            second = OnnxFile.of(written, folder, "")
            second.unrounded = known
        else:
            folded = cast(ConvertedModel, load(written, allow_unsafe=True))
            second = OnnxFile.of(folded, folder, "the folded model")
            second.unrounded, second.computed = folded.unrounded_in_onnx(known), _sizes(folded)
            del folded
            gc.collect()  # the model that was just read, whose objects refer to each other: it is a file now
        return verify(first, second, options)


def _sizes(model: ConvertedModel) -> dict[str, Any]:
    """What a converter computed, with the sizes that it was rounded at."""
    return {name: computed.sizes for name, computed in model.computed_in_onnx().items()}


def _guilty(
    source: Model | Path,
    allow_unsafe: bool,
    fold: _Folding,
    subjects: Collection[str],
    dropped: Collection[str],
    options: VerifyOptions,
) -> tuple[str, ...]:
    """The subjects of the steps at fault. ``dropped`` are left out in any case."""
    from bnfold.verification import smallest_failing

    original = api.load(source, allow_unsafe=allow_unsafe)

    def refold(kept: Collection[str]) -> Model:
        return fold(original, {*dropped, *subjects} - set(kept)).model

    return smallest_failing(tuple(subjects), refold, original=original, options=options)


def _conversion_difference(source: Model | Path, allow_unsafe: bool) -> float:
    model: Any = api.load(source, allow_unsafe=allow_unsafe)
    return float(model.conversion_difference())
