"""Data that do not fit a model or its loss are told so in their own terms."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from bnfold.errors import UsageError
from bnfold.experiment.data import Data, Examples
from bnfold.experiment.fitting import check_fit

SPARSE, ONE_HOT = "sparse_categorical_crossentropy", "categorical_crossentropy"
X, Y = np.zeros((12, 4), np.float32), np.arange(12) % 3


@dataclass
class Model:
    """What is asked of a Keras model."""

    input_shape: Any = (None, 4)
    output_shape: Any = (None, 3)


class Batches:
    """What a PyDataset looks like."""

    def __init__(self, *batches: Any) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Any:
        return self.batches[index]

    def on_epoch_end(self) -> None: ...


def check(train: Examples, model: Model | None = None, loss: Any = SPARSE, **others: Examples) -> None:
    check_fit("my.npz", Data(train, others.get("val"), others.get("test")), model or Model(), loss)


@pytest.mark.parametrize(
    ("given", "wanted", "fits"),
    [
        ((4,), (None, 4), True),
        ((5,), (None, 4), False),
        ((4, 4), (None, 4), False),
        ((4, 4), (None, 4, 4, 1), True),
        ((4, 4, 1), (None, 4, 4), True),
        ((9, 4), (None, None, 4), True),
        ((9, 5), (None, None, 4), False),
    ],
)
def test_shapes(given: tuple[int, ...], wanted: tuple[int | None, ...], fits: bool) -> None:
    train = Examples(np.zeros((12, *given)), Y)
    if fits:
        check(train, Model(wanted))
        return
    words = f"my.npz: x_train has examples of shape {given}, and the model takes {wanted[1:]}"
    with pytest.raises(UsageError, match=re.escape(words)):
        check(train, Model(wanted))


@pytest.mark.parametrize(
    ("labels", "loss", "words"),
    [
        (Y, SPARSE, ""),
        (Y[:, None], SPARSE, ""),
        (Y.astype(np.float32), SPARSE, ""),
        (np.eye(3)[Y], ONE_HOT, ""),
        (np.eye(3)[Y], SPARSE, f"y_train is one-hot, and {SPARSE} takes the number of a class: try --loss {ONE_HOT}"),
        (Y, ONE_HOT, f"y_train is not one-hot over 3 classes, as {ONE_HOT} takes it: try --loss {SPARSE}"),
        (np.eye(4)[Y], ONE_HOT, "y_train is not one-hot over 3 classes"),
        (np.zeros((12, 2)), SPARSE, "y_train has the shape (12, 2)"),
        (Y + 1, SPARSE, "y_train holds the class 3, and the model has 3 classes, 0 to 2"),
        (Y - 1, SPARSE, "y_train holds the class -1"),
        (Y + 0.5, SPARSE, "y_train holds numbers that are not whole"),
        (Y + 0.5, "mse", ""),
        (np.eye(3)[Y], "mse", ""),
        (np.eye(3)[Y][:, :1], "mse", "y_train has rows of shape (1,), and the model puts out (3,)"),
        (Y + 1, {"class_name": "SparseCategoricalCrossentropy", "config": {"name": SPARSE}}, "the class 3"),
        (Y - 1, {"class_name": "", "config": {"name": SPARSE, "ignore_class": -1}}, ""),
    ],
)
def test_labels(labels: Any, loss: Any, words: str) -> None:
    if not words:
        check(Examples(X, labels), loss=loss)
        return
    with pytest.raises(UsageError, match=re.escape(words)):
        check(Examples(X, labels), loss=loss)


def test_every_part_is_looked_at() -> None:
    good = Examples(X, Y)
    with pytest.raises(UsageError, match="y_test holds the class 4"):
        check(good, val=good, test=Examples(X, Y + 2))
    with pytest.raises(UsageError, match="x_val has examples"):
        check(good, val=Examples(X[:, :2], Y))


def test_labels_of_pictures() -> None:
    """A class for each pixel."""
    model = Model((None, 4), (None, 2, 2, 3))
    check(Examples(X, np.zeros((12, 2, 2), int)), model)
    with pytest.raises(UsageError, match="is one-hot"):
        check(Examples(X, np.zeros((12, 2, 2, 3))), model)


def test_several_inputs_and_outputs_are_left_to_keras() -> None:
    check(Examples({"a": X, "b": X}, (Y, Y)), Model([(None, 4), (None, 9)], [(None, 3), (None, 1)]))


@pytest.mark.parametrize(
    ("train", "model", "words"),
    [
        (
            Examples(X, Y),
            Model(output_shape=[(None, 3), (None, 1)]),
            "y_train is one array, and the model has 2 outputs",
        ),
        (Examples(X, Y), Model(output_shape={"a": (None, 3), "b": (None, 3)}), "y_train is one array"),
        (Examples(X, Y), Model(input_shape=[(None, 4)] * 3), "x_train is one array, and the model has 3 inputs"),
        (Examples(X, Y), Model(input_shape=[(None, 4)], output_shape=[(None, 3)]), ""),
    ],
)
def test_one_array_is_not_enough_for_several(train: Examples, model: Model, words: str) -> None:
    if not words:
        check(train, model)
        return
    with pytest.raises(UsageError, match=words):
        check(train, model)


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        (Batches((X, Y)), ""),
        (Batches((X, Y, Y)), ""),
        (Batches(), "the dataset for train has no batches"),
        (Batches(X), "should give (x, y), or (x, y, weights), for each batch"),
        (Batches((X,)), "should give (x, y)"),
        (Batches((X[:, :3], Y)), "has batches of shape (12, 3), and the model takes (None, 4)"),
        (Batches((X[0], Y)), "has batches of shape (4,), and the model takes (None, 4)"),
        (Batches(({"a": X}, Y)), ""),
    ],
)
def test_datasets(dataset: Batches, words: str) -> None:
    if not words:
        check(Examples(dataset))
        return
    with pytest.raises(UsageError, match=re.escape(words)):
        check(Examples(dataset))
