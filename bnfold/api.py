"""The public functions: load, analyze, fold, equalize, verify and fix. See the package's docstring for a tour."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import TYPE_CHECKING, cast

from bnfold.analysis.size import measure
from bnfold.errors import UsageError
from bnfold.folding import Plan, fold_graph
from bnfold.formats import load as _load
from bnfold.graph import Model
from bnfold.results import Comparison, EqualizeResult, FixResult, FoldResult

if TYPE_CHECKING:
    from bnfold.analysis import Report
    from bnfold.formats import Loadable
    from bnfold.verification import RuntimeCheck, Verification, VerifyOptions
    from bnfold.verification.feeds.values import Inputs

    #: A model that is loaded, or anything that it can be loaded from.
    ModelLike = Model | Loadable

__all__ = [
    "EqualizeResult",
    "FixResult",
    "FoldResult",
    "analyze",
    "check_runtime",
    "equalize",
    "fix",
    "fold",
    "load",
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
    loaded = load(model, allow_unsafe=allow_unsafe)
    return analyze_graph(
        loaded.inlined().graph,
        name=name_of(loaded),
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
    ``verify`` compares the outputs in onnxruntime, which takes longer than folding; the verdict is in
    the result, whatever it is. Raises what :func:`load` raises.
    """
    original = load(model, allow_unsafe=allow_unsafe)
    source = original.inlined()
    graph, plan = fold_graph(source.graph, branches=branches, keep_overridable=keep_overridable, skip=skip)
    folded = source.with_graph(graph)
    summary = Comparison(measure(source.graph), measure(graph))
    verification = _verified(original, folded) if verify else None
    return FoldResult(folded, plan, summary, verification=verification)


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
    return EqualizeResult(changed, folding, plan, summary, verification=verification)


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
    return FixResult(fixed, changes, found, summary, verification=verification)


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
    """Are two models equivalent? Both run in onnxruntime, with its optimisations off, on several feeds.

    Any two models will do, whoever made them; a Keras model is converted first. Outputs are
    equivalent if they differ by no more than rounding explains; ``rtol`` (of an output's range) and
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
