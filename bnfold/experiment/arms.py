"""From arms to Keras models that can be trained, and to what a run needs of them in another process."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bnfold import api
from bnfold.errors import BnfoldError, UsageError, shortened
from bnfold.experiment.initial import is_frozen, layers_of
from bnfold.experiment.schedule import Arm, Settings, is_better_higher
from bnfold.formats.keras.backend import import_keras, quiet
from bnfold.temporary import temporary_folder


@dataclass(frozen=True, slots=True)
class Built:
    """An arm as runs get it: a ``.keras`` file's content, and how it is compiled."""

    label: str
    content: bytes
    #: As Keras writes it down: ``optimizer``, ``loss``, ``loss_weights``.
    compiled: Mapping[str, Any]
    #: What scores are called, as Keras writes a metric down, or "loss".
    metric: Any
    higher_is_better: bool
    #: The output that it is a metric of, where there are several.
    output: str = ""


def start_keras(settings: Settings) -> Any:
    """Keras with as many threads as a run has, and with the user's layers."""
    keras = import_keras()
    import tensorflow as tf

    threading = tf.config.threading
    with suppress(RuntimeError):  # TensorFlow has begun to compute in this process: it keeps the threads that it has
        threading.set_intra_op_parallelism_threads(settings.threads)
        threading.set_inter_op_parallelism_threads(settings.threads)
    if settings.custom:
        from bnfold.formats.keras.files import import_custom

        for module in settings.custom:
            import_custom(module)
    return keras


def build(arm: Arm, settings: Settings) -> Built:
    """The arm's model, restyled, and the settings it is compiled with. Raises UsageError and what loading raises."""
    from bnfold.formats.keras.training import compile_settings

    keras = start_keras(settings)
    original = api.load(arm.model, allow_unsafe=settings.allow_unsafe).trainable
    if original is None:
        raise UsageError(f"{arm.model} is no Keras model, and only such a one can be trained")
    compiled = dict(compile_settings(original.keras_model, Path(arm.model)) or {})
    model = original.keras_model
    if arm.style:
        frozen = any(is_frozen(layer) for _, layer in layers_of(model))
        keep = settings.keep_weights or frozen  # what is frozen takes in the BN that go
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it has to be trained is what it is made for
            model = api.restyle(original, weights="keep" if keep else "fresh", **arm.style)
    if not model.trainable_variables:
        raise UsageError(f"{arm.model} has nothing to train: all of its layers are frozen")
    optimizer, loss = _optimizer(keras, settings, compiled), _loss(arm, settings, compiled)
    outputs = getattr(model, "output_names", ())  # a Sequential has one output, without a name
    metric, output = _metric(settings, compiled, loss, outputs)
    metric, higher = (metric, False) if metric == "loss" else _direction(metric)
    chosen = {"optimizer": optimizer, "loss": loss, "loss_weights": compiled.get("loss_weights")}
    return Built(arm.label, _saved(model), chosen, metric, higher, output)


def _optimizer(keras: Any, settings: Settings, compiled: Mapping[str, Any]) -> Any:
    given = settings.optimizer or compiled.get("optimizer") or "adam"
    try:
        return keras.optimizers.serialize(keras.optimizers.get(given))
    except (TypeError, ValueError) as error:
        raise UsageError(f"Keras has no optimizer {name_of(given)}: {shortened(error)}") from error


def _loss(arm: Arm, settings: Settings, compiled: Mapping[str, Any]) -> Any:
    loss = settings.loss or compiled.get("loss")
    if not loss:
        raise UsageError(f"{arm.model} was not compiled, so it has no loss: name one with --loss")
    return loss


def _metric(settings: Settings, compiled: Mapping[str, Any], loss: Any, outputs: Sequence[str]) -> tuple[Any, str]:
    """What is asked for, else the first metric of the model's, else what goes with the loss; and of which output."""
    several = len(outputs) > 1
    if settings.metric is not None:
        if not several or settings.metric.partition(":")[0] == "loss":
            return settings.metric, ""
        output = next((name for name in outputs if settings.metric.startswith(f"{name}_")), "")
        if not output:
            hint = f"name a metric with one of them before it, as in {outputs[0]}_{settings.metric}"
            raise UsageError(f"the model has the outputs {', '.join(outputs)}: {hint}")
        return settings.metric.removeprefix(f"{output}_"), output
    own = compiled.get("metrics")
    if several and isinstance(own, (list, tuple)) and len(own) == len(outputs):
        own = dict(zip(outputs, own, strict=True))
    by_output = own if several and isinstance(own, Mapping) and "class_name" not in own else {"": own}
    for output, metrics in by_output.items():
        if found := _flat(metrics):
            return found[0], output
    kinds = _flat(loss)
    if not several and len(kinds) == 1 and "crossentropy" in name_of(kinds[0]).lower().replace("_", ""):
        return "accuracy", ""
    return "loss", ""


def _direction(metric: Any) -> tuple[Any, bool]:
    """A metric, and whether more of it is better."""
    return is_better_higher(metric) if isinstance(metric, str) else (metric, is_better_higher(name_of(metric))[1])


def _flat(value: Any) -> list[Any]:
    """Metrics or losses of a model with however many outputs."""
    if isinstance(value, Mapping) and "class_name" not in value:
        return [item for inner in value.values() for item in _flat(inner)]
    if isinstance(value, (list, tuple)):
        return [item for inner in value for item in _flat(inner)]
    return [value] if value else []


def name_of(value: Any) -> str:
    """The name of a loss, metric or optimizer as Keras writes it down."""
    if isinstance(value, Mapping):
        config = value.get("config")
        return str(config.get("name") if isinstance(config, Mapping) else config)
    return str(value)


def _saved(model: Any) -> bytes:
    with temporary_folder() as folder, quiet():
        model.save(folder / "arm.keras")
        return (folder / "arm.keras").read_bytes()


def open_arm(keras: Any, built: Built, settings: Settings) -> Any:
    """The model of a :class:`Built`, not compiled."""
    with temporary_folder() as folder, quiet():
        path = folder / "arm.keras"
        path.write_bytes(built.content)
        return keras.models.load_model(path, compile=False, safe_mode=not settings.allow_unsafe)


def compile_arm(keras: Any, model: Any, built: Built, rate: float | None, *, eagerly: bool = False) -> None:
    """Compile for training with a learning rate, or the model's own. Raises UsageError."""
    try:
        written = deepcopy(built.compiled["optimizer"])  # Keras puts a schedule in the place of what describes it
        if rate is not None:
            written = _with_rate(written, rate)
        optimizer = keras.optimizers.deserialize(written)
        loss = keras.saving.deserialize_keras_object(built.compiled["loss"])
        metrics: Any = [] if built.metric == "loss" else [keras.saving.deserialize_keras_object(built.metric)]
        metrics = {built.output: metrics} if built.output else metrics
        weights = built.compiled["loss_weights"]
        model.compile(optimizer=optimizer, loss=loss, loss_weights=weights, metrics=metrics, run_eagerly=eagerly)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise UsageError(f"the arm {built.label} cannot be compiled: {shortened(error)}") from error


def _with_rate(written: Mapping[str, Any], rate: float) -> dict[str, Any]:
    """An optimizer's configuration with a learning rate, also in the place of a schedule, or for the one inside it."""
    config, inner = written["config"], written["config"].get("inner_optimizer")
    changes = {"learning_rate": rate} if inner is None else {"inner_optimizer": _with_rate(inner, rate)}
    return {**written, "config": {**config, **changes}}


@contextmanager
def told_of_user_mistakes(what: str) -> Iterator[None]:
    """What Keras or TensorFlow raise where model, loss, metric and data do not fit is one sentence."""
    try:
        yield
    except (BnfoldError, MemoryError):
        raise
    except Exception as error:  # TensorFlow's errors have no base of their own but this
        raise UsageError(f"{what}: {shortened(_first_line(error))}") from error


def _first_line(error: Exception) -> str:
    """Of TensorFlow's pages of words the line that says what is wrong, or all of Keras's words on a layer."""
    text = re.sub(r"\x1b\[\d*m", "", str(error).split("Arguments received by", 1)[0])  # Keras prints in bold
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in reversed(lines) if "rror" in line or "hape" in line), " ".join(lines))
