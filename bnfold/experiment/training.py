"""One training: the job that is done for every arm, seed and learning rate, in a process of its own."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bnfold.experiment.arms import Built, compile_arm, open_arm, start_keras, told_of_user_mistakes
from bnfold.experiment.data import Data, Examples, epoch_order, load_data
from bnfold.experiment.initial import initialise
from bnfold.experiment.schedule import Settings

Emit = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Epoch:
    """A row: losses and scores after an epoch (from 1), and how many seconds its training took.

    Numbers that are NaN or infinite are None; then the run has ``diverged``.
    """

    epoch: int
    seconds: float
    loss: float | None
    score: float | None
    val_loss: float | None
    val_score: float | None
    diverged: bool = False


@dataclass(frozen=True, slots=True)
class Trained:
    """What came of a run: the epoch that is best on validation, its score, and its weights."""

    best_epoch: int
    val_score: float | None
    diverged: bool
    weights: bytes = field(repr=False, default=b"")


def train(built: Built, settings: Settings, seed: int, rate: float | None, emit: Emit) -> Trained:
    """Train an arm, calling ``emit`` with each epoch's row as a dict.

    The weights of the epoch with the best validation score are kept. A run whose loss is not finite any more ends
    there as diverged. Raises UsageError where data, model and loss do not fit.
    """
    keras = start_keras(settings)
    keras.utils.set_random_seed(seed)  # before the data: a dataset of the user's may shuffle by it
    data = load_data(settings.data, seed).split(seed, settings.validation)
    model = open_arm(keras, built, settings)
    if not settings.keep_weights:
        initialise(keras, model, seed)
    compile_arm(keras, model, built, rate)
    keras.utils.set_random_seed(seed)
    with told_of_user_mistakes(f"the arm {built.label} cannot be trained on {settings.data}"):
        _make_variables(model, data.train)
        return _epochs(keras, model, built, settings, data, seed, emit)


def _make_variables(model: Any, train: Examples) -> None:
    """Make the variables of optimizer and metrics before the first step is traced.

    TensorFlow traces a function in which variables are made a second time, which is half of what a short run costs.
    """
    model.optimizer.build(model.trainable_variables)
    if train.is_dataset:
        return  # to read a batch of it may change what comes next
    one = train.take(slice(0, 1))
    predicted = model(one.x, training=False)
    model.compute_loss(one.x, one.y, predicted, training=False)
    model.compute_metrics(one.x, one.y, predicted)
    model.reset_metrics()


def _epochs(keras: Any, model: Any, built: Built, settings: Settings, data: Data, seed: int, emit: Emit) -> Trained:
    assert data.val is not None
    best_epoch, best_score, best = 0, None, b""
    for number in range(1, settings.epochs + 1):
        row = _epoch(keras, model, settings, data.train, data.val, seed, number)
        emit({name: getattr(row, name) for name in Epoch.__slots__})
        if row.diverged:
            return Trained(best_epoch, best_score, True)
        assert row.val_score is not None
        sign = 1 if built.higher_is_better else -1
        if best_score is None or sign * row.val_score > sign * best_score:
            best_epoch, best_score, best = number, row.val_score, packed(model)
        if settings.patience is not None and number - best_epoch >= settings.patience:
            break
    return Trained(best_epoch, best_score, False, best)


def _epoch(keras: Any, model: Any, settings: Settings, train: Examples, val: Examples, seed: int, number: int) -> Epoch:
    started = time.perf_counter()
    stop = keras.callbacks.TerminateOnNaN()
    if train.is_dataset:
        history = model.fit(train.x, epochs=1, shuffle=False, verbose=0, callbacks=[stop])
    else:
        rows = train.take(epoch_order(seed, number, train.count or 0))
        history = model.fit(
            rows.x, rows.y, batch_size=settings.batch_size, epochs=1, shuffle=False, verbose=0, callbacks=[stop]
        )
    seconds = time.perf_counter() - started
    logs = {name: values[-1] for name, values in history.history.items()}
    loss, score = read_logs(logs)
    val_loss, val_score = evaluate(model, val, settings)
    diverged = None in (loss, val_loss, val_score)
    return Epoch(number, seconds, loss, score, val_loss, val_score, diverged)


def evaluate(model: Any, examples: Examples, settings: Settings) -> tuple[float | None, float | None]:
    """Loss and score of a compiled model on a set; None for what is not finite."""
    if examples.is_dataset:
        return read_logs(model.evaluate(examples.x, verbose=0, return_dict=True))
    batch = max(settings.batch_size, 256)
    return read_logs(model.evaluate(examples.x, examples.y, batch_size=batch, verbose=0, return_dict=True))


def read_logs(logs: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Loss and score out of what Keras reports; the score is the loss where there is no metric."""
    loss = _finite(logs.get("loss", math.nan))
    names = [name for name in logs if not name.endswith("loss")]
    return loss, _finite(logs[names[0]]) if names else loss


def _finite(value: Any) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


def packed(model: Any) -> bytes:
    """The weights of a model as bytes."""
    out = io.BytesIO()
    np.savez(out, *model.get_weights())
    return out.getvalue()


def unpack(model: Any, weights: bytes) -> None:
    """Give a model the weights that :func:`packed` made of another one of its kind."""
    with np.load(io.BytesIO(weights)) as archive:
        model.set_weights([archive[f"arr_{index}"] for index in range(len(archive.files))])
