"""Do data, model and loss fit each other? Said in the data's terms: what Keras raises is about a layer inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bnfold.errors import UsageError
from bnfold.experiment.arms import name_of
from bnfold.experiment.data import Data, Examples

_SPARSE, _ONE_HOT = "sparse_categorical_crossentropy", "categorical_crossentropy"
#: Losses of one number for each output, where Keras would repeat what is too short.
_EACH = ("mse", "mae", "meansquarederror", "meanabsoluteerror", "binarycrossentropy", "huber", "logcosh")


def check_fit(spec: str, data: Data, model: Any, loss: Any) -> None:
    """Raise UsageError where shapes of examples or labels cannot be the model's and its loss's.

    What a model of several inputs or outputs takes is left to Keras.
    """
    for part, examples in (("train", data.train), ("val", data.val), ("test", data.test)):
        if examples is None:
            continue
        if examples.is_dataset:
            _check_dataset(spec, part, examples, model)
            continue
        _check_number(f"{spec}: x_{part}", examples.x, model.input_shape, "inputs")
        _check_number(f"{spec}: y_{part}", examples.y, model.output_shape, "outputs")
        if hasattr(examples.x, "shape"):
            _check_shape(f"{spec}: x_{part} has examples", tuple(examples.x.shape[1:]), model)
        if hasattr(examples.y, "shape"):
            _check_labels(f"{spec}: y_{part}", examples.y, model, loss)


def _check_number(what: str, given: Any, shapes: Any, noun: str) -> None:
    """One array is not enough for several inputs or outputs."""
    if hasattr(given, "shape") and not isinstance(shapes, tuple) and len(shapes) > 1:
        words = f"the model has {len(shapes)} {noun}: let a function return a dict with an array for each"
        raise UsageError(f"{what} is one array, and {words}")


def _check_dataset(spec: str, part: str, examples: Examples, model: Any) -> None:
    batch, count = _batch_of(examples.x)
    if count == 0:
        raise UsageError(f"{spec}: the dataset for {part} has no batches")
    if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
        raise UsageError(f"{spec}: the dataset for {part} should give (x, y), or (x, y, weights), for each batch")
    shape = getattr(batch[0], "shape", None)
    if shape is not None and getattr(shape, "rank", 0) is not None:
        _check_shape(f"{spec}: the dataset for {part} has batches", tuple(shape), model, batched=True)


def _batch_of(dataset: Any) -> tuple[Any, int | None]:
    """What a batch is, or is like, and how many there are as far as that is known."""
    if hasattr(dataset, "element_spec"):
        return dataset.element_spec, int(dataset.cardinality().numpy())
    return (dataset[0] if len(dataset) else None), len(dataset)


def _check_shape(what: str, given: Sequence[int | None], model: Any, *, batched: bool = False) -> None:
    shape = model.input_shape
    if not isinstance(shape, tuple):
        return
    wanted = shape if batched else shape[1:]
    fits = [wanted, *([wanted[:-1]] if wanted and wanted[-1] == 1 else []), (*wanted, 1)]  # Keras adds or drops a 1
    if not any(_matches(given, each) for each in fits):
        raise UsageError(f"{what} of shape {tuple(given)}, and the model takes {wanted}")


def _matches(given: Sequence[int | None], wanted: Sequence[int | None]) -> bool:
    return len(given) == len(wanted) and all(None in (a, b) or a == b for a, b in zip(given, wanted, strict=True))


def _check_labels(what: str, labels: Any, model: Any, loss: Any) -> None:
    """Numbers of classes, or one-hot, as the loss takes them."""
    shape, name = model.output_shape, name_of(loss).lower().replace("_", "")
    if not isinstance(shape, tuple):
        return
    if name in _EACH and labels.ndim == len(shape) and not _matches(labels.shape[1:], shape[1:]):
        raise UsageError(f"{what} has rows of shape {labels.shape[1:]}, and the model puts out {shape[1:]}")
    if name not in (_SPARSE.replace("_", ""), _ONE_HOT.replace("_", "")):
        return
    classes = shape[-1]
    is_one_hot = labels.ndim == len(shape) and labels.shape[-1] == classes > 1
    if name == _ONE_HOT.replace("_", ""):
        if not is_one_hot:
            words = f"{what} is not one-hot over {classes} classes, as {_ONE_HOT} takes it"
            raise UsageError(f"{words}: try --loss {_SPARSE}")
    elif is_one_hot:
        raise UsageError(f"{what} is one-hot, and {_SPARSE} takes the number of a class: try --loss {_ONE_HOT}")
    elif labels.size != len(labels) and len(shape) == 2:
        raise UsageError(f"{what} has the shape {labels.shape}, and {_SPARSE} takes one number for each example")
    elif not (isinstance(loss, Mapping) and (loss.get("config") or {}).get("ignore_class") is not None):
        _check_classes(what, labels, classes)


def _check_classes(what: str, labels: Any, classes: int) -> None:
    if labels.dtype.kind == "f" and (labels != np.rint(labels)).any():
        raise UsageError(f"{what} holds numbers that are not whole, and {_SPARSE} takes those of classes")
    odd = labels.min() if labels.min() < 0 else labels.max()
    if not 0 <= odd < classes:
        raise UsageError(f"{what} holds the class {odd:g}, and the model has {classes} classes, 0 to {classes - 1}")
