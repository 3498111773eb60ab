"""Everything that runs the models: the comparison, the latency, the search for the steps at fault."""

from __future__ import annotations

import gc
import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from bnfold import api
from bnfold.errors import OutputError, shortened
from bnfold.formats import load
from bnfold.graph import ConvertedModel, Model, TrainableModel
from bnfold.isolation import Ended, Limits, call
from bnfold.results import Agreement, FoldResult, RestyleResult, Result
from bnfold.temporary import temporary_folder

if TYPE_CHECKING:
    from bnfold.verification import Verification, VerifyOptions

_R = TypeVar("_R", bound=Result)
_A = TypeVar("_A", FoldResult, RestyleResult)

#: tf2onnx may stray from Keras by this part of the largest output before it is worth a remark.
_CONVERSION_LIMIT = 1e-4


@dataclass(frozen=True, slots=True)
class Folding:
    """How models are folded, for this process and for others."""

    branches: bool
    keep_overridable: bool

    def __call__(self, model: Model, skip: Collection[str] = ()) -> FoldResult:
        return api.fold(model, branches=self.branches, keep_overridable=self.keep_overridable, skip=skip)


class Runs:
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

    @property
    def _is_particular(self) -> bool:
        """Was anything said of the comparison that Keras's predictions do not answer?"""
        given = self._given
        return given is not None and (given.strict or (given.rtol, given.atol, given.inputs) != (None, None, None))

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

    def with_verdict(self, result: _R, written: Path) -> _R:
        assert result.model is not None, "it was written"
        return replace(result, verification=self.verdict(result.model, written))

    def with_verdict_and_notes(self, result: FoldResult, written: Path) -> FoldResult:
        """The result with the verdict, and with how well the original was converted where it had to be."""
        if self._original.trainable is not None and not result.model.is_onnx and not self._is_particular:
            result = self._agreed(result, result.model, written)
        else:
            result = self.with_verdict(result, written)
        if result.verification is None or not result.equivalent:
            return result
        return replace(result, notes=(*result.notes, *self._conversion_notes()))

    def with_exact_verdict(self, result: RestyleResult, written: Path) -> RestyleResult:
        """The result with the verdict on what is exact, without measured statistics, and with what these change.

        A BN with measured statistics rounds by its mean, so it is compared with itself, number by number.
        """
        part = result.exact_part or result.unmeasured
        if part is None:
            assert result.model is not None, "it was written"
            result = self._agreed(result, result.model, written)
        else:
            with temporary_folder() as folder:
                path = folder / "exact.keras"
                part.save(path)
                result = self._agreed(result, part, path)
        if result.unmeasured is None:
            return result
        from bnfold.restyling.measured import rounding_of

        return replace(result, rounding=rounding_of(result.unmeasured, written, result.norms))

    def _agreed(self, result: _A, model: Model, written: Path) -> _A:
        """The result with the verdict on a file, or with the agreement of predictions where there is no ONNX of it."""
        try:
            found = self.verdict(model, written)
        except OutputError as error:
            reason = str(error)
        else:
            if found.verdict != "not verified" or self._limits:
                return replace(result, verification=found)
            reason = found.sentence()
        original = cast(TrainableModel, self._original)
        agreement = Agreement(*original.prediction_difference(load(written, allow_unsafe=True)))
        return replace(result, agreement=agreement, notes=(*result.notes, reason))

    def with_latency(self, result: FoldResult, written: Path) -> FoldResult:
        """The result with the latency, or with a note that says why it could not be measured within the limits."""
        from bnfold.verification import latency

        limits = self._limits
        found = latency(self._original, _as_written(result.model, written), self._options, limits=limits)
        if isinstance(found, Ended):
            note = f"the latency was not measured: {found.sentence('onnxruntime')}"
            return replace(result, notes=(*result.notes, note))
        return replace(result, latency=found)

    def with_culprits(self, result: FoldResult, fold: Folding) -> FoldResult:
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
        if self._original.trainable is None:
            return []
        found = call(_conversion_difference, self._limits, self._readable, self._allow_unsafe)
        if isinstance(found, Ended):
            return [f"the conversion by tf2onnx was not compared with Keras: {found.sentence('Keras or onnxruntime')}"]
        if isinstance(found.value, str):
            return [f"the conversion by tf2onnx was not compared with Keras: onnxruntime cannot run it ({found.value})"]
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
    fold: Folding,
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


def _conversion_difference(source: Model | Path, allow_unsafe: bool) -> float | str:
    """How far the conversion strays, or why onnxruntime does not run it: GELU in float64 it does not, for one."""
    from bnfold.verification.runtime.sessions import runtime_errors

    model = cast(TrainableModel, api.load(source, allow_unsafe=allow_unsafe))
    try:
        return model.conversion_difference()
    except runtime_errors() as error:
        return shortened(error)
