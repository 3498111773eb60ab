"""The jobs of an experiment: functions that a process of their own runs, with plain arguments and results."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bnfold import api
from bnfold.errors import BnfoldError, OutputError, UsageError
from bnfold.experiment.arms import Built, build, compile_arm, open_arm, start_keras, told_of_user_mistakes
from bnfold.experiment.data import Examples, load_data
from bnfold.experiment.fitting import check_fit
from bnfold.experiment.initial import initialise, layers_of
from bnfold.experiment.results import Shipped
from bnfold.experiment.schedule import Plan, Settings
from bnfold.experiment.training import evaluate, train, unpack
from bnfold.jobs import emit
from bnfold.results import Agreement
from bnfold.temporary import temporary_folder

#: What is preloaded: it takes seconds to import, and nothing of it starts a thread.
PRELOAD = ("bnfold.experiment.preload",)
_PROBE = 8
#: A larger part of a BN's moving statistics than this, left from the beginning, is worth a remark.
_LAG = 1e-3

#: Plain data for the store, and bytes that go with them.
Value = tuple[dict[str, Any], bytes]


@dataclass(frozen=True, slots=True)
class Prepared:
    """What every run needs to know, found out before any begins."""

    arms: tuple[Built, ...]
    metric: str
    higher_is_better: bool
    has_test: bool
    #: What one has to know to read the results.
    notes: tuple[str, ...] = ()


def prepare(plan: Plan) -> Prepared:
    """Build every arm and try each on a few examples. Raises UsageError for whatever does not fit."""
    settings = plan.settings
    keras = start_keras(settings)
    data = load_data(settings.data, plan.seeds[0])
    split = data.split(plan.seeds[0], settings.validation)
    arms = tuple(build(arm, settings) for arm in plan.arms)
    names = {(_metric_name(keras, arm), arm.higher_is_better) for arm in arms}
    if len(names) > 1:
        raise UsageError(
            f"the models have different metrics ({', '.join(sorted(n for n, _ in names))}): name one with --metric"
        )
    lag = 0.0
    for arm in arms:
        model = open_arm(keras, arm, settings)
        check_fit(settings.data, split, model, arm.compiled["loss"])
        if not settings.keep_weights:
            initialise(keras, model, plan.seeds[0])
        compile_arm(keras, model, arm, plan.rates[0], eagerly=True)
        with told_of_user_mistakes(f"the arm {arm.label} cannot be trained on {settings.data}"):
            loss, score = evaluate(model, _few(split.train), settings)
        if loss is None or score is None:
            raise UsageError(f"the arm {arm.label} computes NaN or infinity before it is trained at all")
        lag = max(lag, _lag(model, split.train, settings))
    metric, higher = names.pop()
    return Prepared(arms, metric, higher, data.test is not None, (_lagging(lag),) if lag > _LAG else ())


def _lag(model: Any, train: Examples, settings: Settings) -> float:
    """How much of BN's moving statistics is what they began with after all epochs: momentum to the power of batches."""
    momenta = [layer.momentum for _, layer in layers_of(model) if hasattr(layer, "moving_variance") and layer.trainable]
    batches = math.ceil(train.count / settings.batch_size) if train.count is not None else _length(train.x)
    return max(momenta, default=0.0) ** (batches * settings.epochs) if batches else 0.0


def _length(dataset: Any) -> int:
    """Batches of a dataset; 0 where it does not know."""
    try:
        return len(dataset)
    except TypeError:
        return 0


def _lagging(lag: float) -> str:
    return (
        f"BN's moving statistics are still {lag:.2g} of what they began with when training ends, so that arms with BN "
        "look worse than they are: take more epochs, smaller batches, or, for BN that are new or moved, a lower "
        "momentum (before:momentum=0.9)"
    )


def _metric_name(keras: Any, built: Built) -> str:
    plain = isinstance(built.metric, str)
    name = built.metric if plain else keras.saving.deserialize_keras_object(built.metric).name
    return f"{built.output}_{name}" if built.output else str(name)


def _few(examples: Examples) -> Examples:
    if not examples.is_dataset:
        return examples.take(slice(0, _PROBE))
    return Examples(examples.x.take(1)) if hasattr(examples.x, "take") else Examples(*examples.x[0][:2])


def do_run(built: Built, settings: Settings, seed: int, rate: float | None) -> Value:
    """Train, emitting a row an epoch."""
    found = train(built, settings, seed, rate, emit)
    plain = {"best_epoch": found.best_epoch, "val_score": found.val_score, "diverged": found.diverged}
    return plain, found.weights


def finish(built: Built, settings: Settings, weights: Mapping[int, bytes]) -> Value:
    """What a trained arm is worth: each seed's model on the test data, and the first one's folded as ONNX.

    ``weights`` are by seed, those of diverged runs left out. The folded model is what goes with it.
    """
    keras = start_keras(settings)
    model = open_arm(keras, built, settings)
    compile_arm(keras, model, built, None)
    scores: dict[str, float | None] = {}
    for seed, packed in weights.items():
        keras.utils.set_random_seed(seed)
        test = load_data(settings.data, seed).test
        unpack(model, packed)
        if test is not None:
            scores[str(seed)] = evaluate(model, test, settings)[1]
    shipped, content = _ship(model, next(iter(weights.values())))
    return {"scores": scores, "shipped": asdict(shipped)}, content


def _ship(model: Any, weights: bytes) -> tuple[Shipped, bytes]:
    from bnfold.formats.keras.backend import quiet
    from bnfold.pipeline import fold_file

    unpack(model, weights)
    with temporary_folder() as folder:
        source, target = folder / "arm.keras", folder / "arm.onnx"
        with quiet():
            model.save(source)
        try:
            result = fold_file(source, target, allow_unsafe=True)  # this very model, which runs already
        except OutputError as error:
            return _ship_unconverted(source, str(error).removeprefix(f"{source} ")), b""
        before, after = result.summary.before, result.summary.after
        found = result.verification
        shipped = Shipped(
            batchnorms=before.batchnorms,
            batchnorms_left=after.batchnorms,
            parameters=after.parameters,
            nodes=after.nodes,
            equivalent=found is not None and found.equivalent,
            verdict=found.sentence() if found is not None else "",
            notes=result.notes,
        )
        return shipped, target.read_bytes() if result.path is not None else b""


def _ship_unconverted(source: Path, reason: str) -> Shipped:
    """What a model is when it is folded that no ONNX can be made of; Keras's predictions are compared then."""
    original: Any = api.load(source, allow_unsafe=True)
    result = api.fold(original)
    agreement = Agreement(*original.prediction_difference(result.model))
    return Shipped(
        batchnorms=result.summary.before.batchnorms,
        batchnorms_left=result.summary.after.batchnorms,
        parameters=result.summary.after.parameters,
        nodes=None,
        equivalent=agreement.equivalent,
        verdict=agreement.sentence(),
        notes=(reason,),
    )


def time_models(models: Mapping[str, bytes], threads: int) -> Value:
    """How long one inference of each folded model takes beside the first one's, in turn with it."""
    from bnfold.isolation import Ended
    from bnfold.verification import VerifyOptions, latency

    options = VerifyOptions(threads=threads)
    found: dict[str, Any] = {}
    with temporary_folder() as folder:
        paths = {}
        for index, (label, content) in enumerate(models.items()):
            paths[label] = folder / f"{index}.onnx"
            paths[label].write_bytes(content)
        first = next(iter(paths.values()))
        for label, path in paths.items():
            try:
                timed = latency(first, path, options)
            except BnfoldError as error:
                found[label] = {"note": str(error)}
                continue
            assert not isinstance(timed, Ended), "nothing is limited"
            relative = 1.0 if path == first else timed.second_ms / timed.first_ms
            found[label] = {"milliseconds": timed.second_ms, "relative": relative}
    return found, b""
