"""The public functions: load, analyze, check, fold, equalize, verify, fix, restyle; the package has a tour of them."""

from __future__ import annotations

import warnings
from collections.abc import Container, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from bnfold.analysis.size import measure
from bnfold.errors import BnfoldWarning, NotEquivalentError, UsageError
from bnfold.folding import Plan, fold_graph
from bnfold.folding.pair import Pair
from bnfold.formats import load as _load
from bnfold.formats.fetching import local_unless_onnx
from bnfold.formats.remote import is_remote
from bnfold.graph import Model, TrainableModel
from bnfold.results import Comparison, EqualizeResult, FixResult, FoldResult, RestyleResult

if TYPE_CHECKING:
    from bnfold.analysis import Report
    from bnfold.formats import Loadable
    from bnfold.restyling import Style
    from bnfold.verification import RuntimeCheck, Verification, VerifyOptions
    from bnfold.verification.feeds.values import Inputs

    #: A model that is loaded, or anything that it can be loaded from.
    ModelLike = Model | Loadable

__all__ = [
    "EqualizeResult",
    "FixResult",
    "FoldResult",
    "RestyleResult",
    "analyze",
    "check",
    "check_runtime",
    "equalize",
    "fix",
    "fold",
    "load",
    "restyle",
    "restyle_model",
    "verify",
]


def load(source: ModelLike, *, allow_unsafe: bool = False) -> Model:
    """Read a model: a path (.onnx, .keras, .h5, a SavedModel folder), bytes, a ModelProto, or a keras.Model.

    A model that bnfold has loaded is returned as it is. ``allow_unsafe`` lets a Keras file run the
    Python code it brings along. Raises ModelFileError where the model cannot be read, and
    MissingExtraError where Keras is needed and not installed.
    """
    if hasattr(source, "with_graph"):
        return cast(Model, source)
    return _load(source, allow_unsafe=allow_unsafe)


def analyze(
    model: ModelLike,
    *,
    select: Iterable[str] | None = None,
    ignore: Iterable[str] | None = None,
    stats: bool = False,
    allow_unsafe: bool = False,
) -> Report:
    """How BN is placed in a model, what folding would do with each, and the findings of the rules.

    ``select`` and ``ignore`` take rule codes or prefixes (``"BN2"``); the longer one wins. ``stats``
    adds the numbers behind the rules to every BN. Raises UsageError for a code that no rule has, and
    what :func:`load` raises.
    """
    from bnfold.analysis import analyze_graph, select_rules

    rules = select_rules(select, ignore)
    with local_unless_onnx(model) as source:
        loaded = load(source, allow_unsafe=allow_unsafe)
        return analyze_graph(
            loaded.inlined().graph,
            name=model if isinstance(model, str) and is_remote(model) else name_of(loaded),
            rules=rules,
            statistics=stats,
            parameters=_trainable(loaded),
        )


def fold(
    model: ModelLike,
    *,
    branches: bool = True,
    keep_overridable: bool = False,
    skip: Container[str] = (),
    verify: bool = False,
    allow_unsafe: bool = False,
) -> FoldResult:
    """Fold every BN that algebra can remove. The model that is given stays as it is.

    ``branches`` also merges parallel linear branches. ``keep_overridable`` leaves weights alone that
    the caller of an ONNX model may override. ``skip`` holds the ``subject`` of fold steps not to take.
    ``verify`` compares the two as :func:`verify` does, which takes longer than folding; the verdict is in
    the result, whatever it is. Raises what :func:`load` raises.
    """
    original = load(model, allow_unsafe=allow_unsafe)
    source = original.inlined()
    # Folding need not find out again which shapes and affines there are, unless it makes constants of what is none.
    before = None if source.graph.overridable else measure(source.graph)
    graph, plan = fold_graph(source.graph, branches=branches, keep_overridable=keep_overridable, skip=skip)
    folded = source.with_graph(graph)
    summary = Comparison(before or measure(source.graph), measure(graph))
    verification = _verified(original, folded) if verify else None
    return FoldResult(folded, plan, summary, verification=verification, pair=Pair(source.graph, graph, plan))


def equalize(
    model: ModelLike,
    *,
    exact: bool = False,
    branches: bool = True,
    keep_overridable: bool = False,
    verify: bool = False,
    allow_unsafe: bool = False,
) -> EqualizeResult:
    """Fold, then give the channels between layers positive scales that make weight ranges alike, for int8.

    The model computes the same: what writes a tensor and what reads it take the scales into their weights. They are
    powers of two, which change no bit of a float output where nothing over- or underflows, or with ``exact`` what
    levels best. ``branches``, ``keep_overridable`` and ``verify`` are those of :func:`fold`. A model that is
    quantised already stays as it is, neither folded nor equalised. Raises what :func:`load` raises.
    """
    from bnfold.equalization import EqualizationPlan, equalize_graph, quantized_note

    original = load(model, allow_unsafe=allow_unsafe)
    source = original.inlined()
    note = quantized_note(source.graph)
    if note:
        graph, folding, plan = source.graph, Plan(), EqualizationPlan(notes=(note,), exact=exact)
    else:
        graph, folding = fold_graph(source.graph, branches=branches, keep_overridable=keep_overridable)
        graph, plan = equalize_graph(graph, exact=exact)
    changed = source.with_graph(graph)
    summary = Comparison(measure(source.graph), measure(graph))
    verification = _verified(original, changed) if verify else None
    pair = Pair(source.graph, graph, folding)
    return EqualizeResult(changed, folding, plan, summary, verification=verification, pair=pair)


def fix(model: ModelLike, *, verify: bool = False, allow_unsafe: bool = False) -> FixResult:
    """Repair what is wasteful without folding: the model computes the same and trains as before.

    Biases that a BN cancels go into its moving mean (BN201), BN that do nothing are removed (BN204),
    and weights are taken off the inputs (BN403). The model that is given stays as it is. Raises what
    :func:`load` raises.
    """
    from bnfold.analysis import analyze_graph
    from bnfold.repair import repair_graph

    original = load(model, allow_unsafe=allow_unsafe)
    source = original.inlined()
    graph, changes = repair_graph(source.graph)
    fixed = source.with_graph(graph)
    found = analyze_graph(graph, name=name_of(original)).findings
    summary = Comparison(measure(source.graph), measure(graph))
    verification = _verified(original, fixed) if verify else None
    return FixResult(fixed, changes, found, summary, verification=verification, pair=Pair(source.graph, graph, Plan()))


def check(
    model: ModelLike,
    *,
    select: Iterable[str] | None = None,
    ignore: Iterable[str] | None = None,
    allow_unsafe: bool = False,
) -> Report:
    """:func:`analyze`, each finding a :class:`bnfold.BnfoldWarning` that names its layer: for a training script.

    In a test, ``warnings.simplefilter("error", bnfold.BnfoldWarning)`` makes a finding fail it.
    """
    report = analyze(model, select=select, ignore=ignore, allow_unsafe=allow_unsafe)
    for finding in report.findings:
        where = f"{finding.layer}: " if finding.layer and finding.layer not in finding.message else ""
        sentence = f"{finding.code} {finding.name}: {where}{finding.message}"
        warnings.warn(BnfoldWarning(sentence, finding.code, finding.layer), stacklevel=2)
    return report


def restyle(
    model: ModelLike,
    norm: str = "before",
    *,
    on_input: bool = False,
    only: Iterable[str] = (),
    exempt: Iterable[str] = (),
    bias: str = "auto",
    weights: str = "keep",
    seed: int = 0,
    momentum: float | None = None,
    epsilon: float | None = None,
    data: Any = None,
    exact: bool = False,
    allow_unsafe: bool = False,
) -> Any:
    """A live ``keras.Model`` with BN before or after the activations of its hidden linear layers, or with none.

    ``model`` is a Keras file or a ``keras.Model``, which stays as it is; the new one is compiled as it was. ``only``
    and ``exempt`` are patterns of layer names. With ``bias="auto"`` a bias goes where a BN follows its layer directly
    and comes where none does. With ``weights="keep"`` layers keep their weights, a BN that goes is folded and a new
    one does nothing yet: its statistics are 0 and 1, or those of what passes it on ``data`` (an array, or one an
    input by name). ``weights="fresh"`` initialises all anew, by ``seed``.

    What cannot be exact is made all the same and is a :class:`bnfold.BnfoldWarning` each; ``exact`` raises
    NotEquivalentError instead. Raises UsageError for arguments that make no sense, OutputError where Keras cannot
    build the model, and what :func:`load` raises.
    """
    from bnfold.restyling import style_of

    style = style_of(
        norm, on_input=on_input, only=tuple(only), exempt=tuple(exempt), keep_bias=_bias_stays(bias),
        momentum=momentum, epsilon=epsilon,
    )  # fmt: skip
    result = restyle_model(load(model, allow_unsafe=allow_unsafe), style, fresh=fresh_seed(weights, seed), data=data)
    if exact and result.inexact:
        raise NotEquivalentError("; ".join(f"{change.sentence}: {change.reason}" for change in result.inexact))
    if weights != "fresh":
        for change in result.inexact:
            sentence = f"{change.sentence}, which needs training: {change.reason}"
            warnings.warn(BnfoldWarning(sentence, layer=change.layer), stacklevel=2)
    assert result.model is not None, "it was to be built"
    return result.model.keras_model


def _bias_stays(bias: str) -> bool:
    if bias not in ("auto", "keep"):
        raise UsageError(f"bias is auto or keep, not {bias!r}")
    return bias == "keep"


def fresh_seed(weights: str, seed: int) -> int | None:
    """The seed where weights are initialised anew, None where they are kept. Raises UsageError for another word."""
    if weights not in ("keep", "fresh"):
        raise UsageError(f"weights is keep or fresh, not {weights!r}")
    return seed if weights == "fresh" else None


def restyle_model(
    original: Model, style: Style, *, fresh: int | None = None, data: Any = None, build: bool = True
) -> RestyleResult:
    """:func:`restyle` with everything that it found out. Without ``build`` only what would be changed is told.

    ``data`` may be the path of an ``.npz`` or ``.npy`` file as well.
    """
    trainable = trainable_of(original)
    if fresh is not None and data is not None:
        raise UsageError("data are measured for weights that are kept, not for fresh ones")
    examples = trainable.load_data(data) if data is not None else None
    from bnfold.restyling import restyle_graph

    found = restyle_graph(trainable.graph, style, fresh=fresh is not None)
    pair = Pair(trainable.graph, found.graph, Plan())
    result = RestyleResult(None, found.changes, found.left, found.before, found.after, pair=pair)
    if not build:
        return result
    model, remark = trainable.retrainable(found.graph, fresh=fresh)
    if examples is not None:
        model.measure(found.norms, examples)
    exact_part = trainable.with_graph(found.exact_part) if found.exact_part is not None else None
    unmeasured = trainable.with_graph(found.graph) if examples is not None else None
    return replace(
        result, model=model, exact_part=exact_part, unmeasured=unmeasured, norms=found.norms,
        notes=(remark,) if remark else (),
    )  # fmt: skip


def trainable_of(model: Model) -> TrainableModel:
    """The model as one that Keras can train. Raises UsageError where it is none."""
    if model.trainable is None:
        raise UsageError(f"{name_of(model)} is no Keras model of layers: only such a one can be restyled and trained")
    return model.trainable


def verify(
    a: ModelLike,
    b: ModelLike,
    *,
    rtol: float | None = None,
    atol: float | None = None,
    inputs: Inputs | None = None,
    seed: int = 0,
    strict: bool = False,
    provider: str = "CPUExecutionProvider",
    threads: int | None = None,
    timeout: float | None = None,
    memory: int | None = None,
    options: VerifyOptions | None = None,
    allow_unsafe: bool = False,
) -> Verification:
    """Are two models equivalent? Both are evaluated in float64, and run in onnxruntime with its optimisations off.

    Any two models will do, whoever made them; a Keras model is converted first. They are equivalent if they agree
    in float64 and the second is as accurate as the first; ``rtol`` (of an output's range) and
    ``atol`` set a fixed tolerance in place of that, ``strict`` demands both. ``inputs`` are feeds of
    one's own: values by name, or a path to a ``.npz``. ``threads`` is how many onnxruntime may use.
    ``timeout`` in seconds and ``memory`` in bytes (of address space) end with the verdict "not
    verified". :class:`VerifyOptions` says more about each; ``options`` takes one whole, in place of the
    single arguments. Raises what :func:`load` raises, and UsageError for inputs that do not fit.
    """
    from bnfold.verification import VerifyOptions
    from bnfold.verification import verify as compare  # onnxruntime is imported for this alone

    single = VerifyOptions(
        rtol=rtol, atol=atol, inputs=inputs, seed=seed, strict=strict, provider=provider, threads=threads,
        timeout=timeout, memory=memory,
    )  # fmt: skip
    first, second = load(a, allow_unsafe=allow_unsafe), load(b, allow_unsafe=allow_unsafe)
    return compare(first, second, _one_of(options, single))


def check_runtime(
    model: ModelLike,
    *,
    rtol: float | None = None,
    atol: float | None = None,
    inputs: Inputs | None = None,
    seed: int = 0,
    strict: bool = False,
    provider: str = "CPUExecutionProvider",
    threads: int | None = None,
    timeout: float | None = None,
    memory: int | None = None,
    options: VerifyOptions | None = None,
    allow_unsafe: bool = False,
) -> RuntimeCheck:
    """Does onnxruntime compute the same with its graph optimisations on as with them off?

    On a difference it finds the optimizers that cause it. Arguments as for :func:`verify`.
    """
    from bnfold.verification import VerifyOptions
    from bnfold.verification import check_runtime as run

    single = VerifyOptions(
        rtol=rtol, atol=atol, inputs=inputs, seed=seed, strict=strict, provider=provider, threads=threads,
        timeout=timeout, memory=memory,
    )  # fmt: skip
    return run(load(model, allow_unsafe=allow_unsafe), _one_of(options, single))


def _one_of(options: VerifyOptions | None, single: VerifyOptions) -> VerifyOptions:
    """The options that were given whole, or else those that were given one by one."""
    from bnfold.verification.verify_options import DEFAULTS

    if options is not None and (single != DEFAULTS or single.inputs is not None):
        raise UsageError("options and single arguments such as rtol contradict each other: give one or the other")
    return single if options is None else options


def name_of(model: Model) -> str:
    """How reports call a model: its path, or the name it has in its file."""
    return str(model.path) if model.path is not None else model.graph.name


def _trainable(model: Model) -> tuple[int, int] | None:
    """How many parameters are trainable and how many are not; None where the format does not say."""
    account = model.parameter_account()
    return None if account is None else (account.trainable, account.non_trainable)


def _verified(original: Model, changed: Model) -> Verification:
    from bnfold.verification import verify

    return verify(original, changed)
