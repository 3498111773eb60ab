"""The data of an experiment: from a ``.npz`` file or a function of the user's, split and ordered by seed.

A set of examples is arrays (or dicts and tuples of them, as Keras takes them), or a dataset that makes batches itself.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from bnfold.errors import UsageError, shortened
from bnfold.usercode import import_user_module

#: What a function may return, said where it returned something else.
_FORMS = (
    "a dict with x_train and y_train (and x_val, y_val, x_test, y_test), a dict of datasets train, val (and test), "
    "((x_train, y_train), (x_test, y_test)), or (train, val) or (train, val, test) as datasets"
)
_PARTS = ("train", "val", "test")
#: Where the parts of an array's examples are told apart by a seed: a number of its own for each use.
_SPLIT, _ORDER = 1, 2


@dataclass(frozen=True, slots=True)
class Examples:
    """One set: ``x`` and ``y`` as arrays, or in ``x`` a ``tf.data.Dataset`` or ``PyDataset`` that gives both."""

    x: Any
    y: Any = None

    @property
    def is_dataset(self) -> bool:
        return self.y is None

    @property
    def count(self) -> int | None:
        """How many examples; None for a dataset, which need not know."""
        return None if self.is_dataset else len(_leaves(self.x)[0])

    def take(self, rows: Any) -> Examples:
        """The examples of these rows."""
        return Examples(_mapped(self.x, rows), _mapped(self.y, rows))


@dataclass(frozen=True, slots=True)
class Data:
    """What to train on, what to choose by, and what to judge by in the end (or None, where there is nothing)."""

    train: Examples
    val: Examples | None
    test: Examples | None

    def split(self, seed: int, part: float) -> Data:
        """With a validation set: where there is none, ``part`` of the training set, drawn by ``seed``.

        Raises UsageError where there is none and datasets make their own batches, or too few examples.
        """
        if self.val is not None:
            return self
        if self.train.is_dataset:
            raise UsageError("a dataset cannot be split: give one for validation (val) as well")
        count = self.train.count or 0
        held_out = round(part * count)
        if not 0 < held_out < count:
            raise UsageError(f"{count} examples are too few to split {part:.0%} of them off for validation")
        order = np.random.default_rng([seed, _SPLIT]).permutation(count)
        return replace(self, train=self.train.take(order[held_out:]), val=self.train.take(order[:held_out]))


def epoch_order(seed: int, epoch: int, count: int) -> Any:
    """The order of the examples in an epoch: the same for every arm and rate of a seed."""
    return np.random.default_rng([seed, _ORDER, epoch]).permutation(count)


def load_data(spec: str, seed: int = 0) -> Data:
    """Data from a ``.npz`` file, ``file.py:function`` or ``module:function``.

    A function that takes ``seed`` gets the run's. Raises UsageError, in one sentence, for whatever is wrong with it.
    """
    is_file = spec.endswith(".npz")
    data = _from_arrays(spec, _read_npz(spec)) if is_file else _from_returned(spec, _called(spec, seed))
    _check(spec, data)
    return data


def identity_of(spec: str) -> str:
    """What the results depend on: the content of the file, of data or of the function; else its name."""
    path = Path(spec if spec.endswith(".npz") else spec.rpartition(":")[0])
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest() if sys.version_info >= (3, 11) else _digest(path)
    except OSError:
        return spec
    return f"{spec} {digest}"


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# -- files -----------------------------------------------------------------------------------------


def _read_npz(spec: str) -> dict[str, Any]:
    try:
        with open(spec, "rb") as file:
            if not zipfile.is_zipfile(file):
                raise UsageError(f"{spec} is no .npz file: that is a zip archive of arrays, as numpy.savez writes it")
        with np.load(spec, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        why = getattr(error, "strerror", None) or shortened(error)
        if "allow_pickle" in why:
            why = "it holds an array of Python objects, and to read one may run any code"
        raise UsageError(f"{spec} cannot be read as data: {why[:1].lower()}{why[1:]}") from error


def _from_arrays(spec: str, arrays: Mapping[str, Any]) -> Data:
    parts: dict[str, Examples | None] = {}
    for part in _PARTS:
        x, y = arrays.get(f"x_{part}"), arrays.get(f"y_{part}")
        missing = [f"{name}_{part}" for name, value in (("x", x), ("y", y)) if value is None]
        if missing and (part == "train" or len(missing) == 1):
            there = ", ".join(sorted(map(str, arrays))) or "nothing"
            raise UsageError(f"{spec} has no {' and no '.join(missing)}: it holds {there}")
        parts[part] = None if missing else Examples(_as_arrays(x), _as_arrays(y))
    assert parts["train"] is not None
    return Data(parts["train"], parts["val"], parts["test"])


# -- functions -------------------------------------------------------------------------------------


def _called(spec: str, seed: int) -> Any:
    module_name, _, name = spec.rpartition(":")
    if not module_name or not name:
        raise UsageError(f"data are a .npz file, file.py:function or module:function, not {spec!r}")
    module = _imported(module_name, spec)
    function = getattr(module, name, None)
    if not callable(function):
        raise UsageError(f"{module_name} has no function {name}")
    return _guarded(spec, lambda: function(**_arguments(function, seed)))


def _imported(name: str, spec: str) -> ModuleType:
    if not name.endswith(".py"):

        def load() -> ModuleType:
            return import_user_module(name)

    else:
        if not Path(name).is_file():
            raise UsageError(f"there is no file {name}")

        def load() -> ModuleType:
            found = importlib.util.spec_from_file_location(Path(name).stem, name)
            assert found is not None
            assert found.loader is not None
            module = importlib.util.module_from_spec(found)
            found.loader.exec_module(module)
            return module

    module: ModuleType = _guarded(spec, load)
    return module


def _arguments(function: Callable[..., Any], seed: int) -> dict[str, int]:
    try:
        return {"seed": seed} if "seed" in inspect.signature(function).parameters else {}
    except (TypeError, ValueError):
        return {}  # a function in C, whose arguments Python does not know


def _guarded(spec: str, action: Callable[[], Any]) -> Any:
    """Whatever code of the user's raises is a sentence about it."""
    try:
        return action()
    except SystemExit as error:
        raise UsageError(f"{spec} ended the process, with code {error.code}") from error
    except Exception as error:  # it is not bnfold's code
        raise UsageError(f"{spec} raised {type(error).__name__}: {shortened(error)}") from error


def _from_returned(spec: str, returned: Any) -> Data:
    if isinstance(returned, Mapping):
        if "train" not in returned:
            return _from_arrays(spec, returned)
        if unknown := sorted(set(map(str, returned)) - set(_PARTS)):
            raise UsageError(f"{spec} returned {', '.join(unknown)}, which are none of train, val and test")
        parts = [_examples(spec, returned.get(part)) for part in _PARTS]
    elif isinstance(returned, tuple) and returned:
        parts = _from_tuple(spec, returned)
    elif _is_dataset(returned):
        raise UsageError(
            f"{spec} returned one dataset, which cannot be split: return (train, val), or a test set with it"
        )
    else:
        parts = [None]
    if parts[0] is None:
        raise UsageError(f"{spec} returned {_kind(returned)}; it should return {_FORMS}")
    return Data(parts[0], parts[1], parts[2])


def _from_tuple(spec: str, returned: tuple[Any, ...]) -> list[Examples | None]:
    if len(returned) == 2 and _is_array(returned[0]) and _is_array(returned[1]):
        return [_examples(spec, returned), None, None]
    if len(returned) not in (2, 3):
        return [None, None, None]
    parts = [_examples(spec, part) for part in returned]
    if len(parts) == 3:
        return parts
    # As keras.datasets returns arrays, the second part is for testing; two datasets are for training and validation.
    return [parts[0], parts[1], None] if _is_dataset(returned[1]) else [parts[0], None, parts[1]]


def _examples(spec: str, part: Any) -> Examples | None:
    if part is None:
        return None
    if _is_dataset(part):
        return Examples(part)
    if isinstance(part, (tuple, list)) and len(part) == 2:
        return Examples(_as_arrays(part[0]), _as_arrays(part[1]))
    raise UsageError(f"{spec} returned {_kind(part)} for a set of examples; it should return {_FORMS}")


def _is_dataset(value: Any) -> bool:
    """A ``tf.data.Dataset``, a Keras ``PyDataset``, or what batches come out of in the same way."""
    return hasattr(value, "element_spec") or (hasattr(value, "__getitem__") and hasattr(value, "on_epoch_end"))


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and not _is_dataset(value)


def _kind(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    if value is None:
        return "nothing"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeio' else 'a'} {name}"


# -- structures of arrays --------------------------------------------------------------------------


def _leaves(value: Any) -> list[Any]:
    return list(_walk(value))


def _walk(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _walk(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _walk(item)
    else:
        yield value


def _mapped(value: Any, rows: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _mapped(item, rows) for name, item in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(_mapped(item, rows) for item in value)
    return value[rows]


def _as_arrays(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _as_arrays(item) for name, item in value.items()}
    if isinstance(value, tuple) or _is_one_for_each(value):
        return tuple(_as_arrays(item) for item in value)
    try:
        return np.asarray(value)
    except ValueError:  # rows of different lengths, which the check finds to be no numbers
        return np.empty(len(value), object)


def _is_one_for_each(value: Any) -> bool:
    """Is a list one of arrays, one for each input or output, as Keras takes it, and not one of examples?"""
    if not isinstance(value, list) or not all(getattr(item, "ndim", 0) for item in value):
        return False
    return len({len(item) for item in value}) == 1 and len(value[0]) > len(value)


def _check(spec: str, data: Data) -> None:
    for part, examples in zip(_PARTS, (data.train, data.val, data.test), strict=True):
        if examples is None or examples.is_dataset:
            continue
        lengths = {}
        for name, values in (("x", examples.x), ("y", examples.y)):
            for array in _leaves(values):
                if array.ndim == 0 or array.dtype.kind not in "biuf":
                    raise UsageError(f"{spec}: {name}_{part} is no array of numbers, but {array.dtype} {array.shape}")
                if array.dtype.kind == "f" and not np.isfinite(array).all():
                    raise UsageError(f"{spec}: {name}_{part} holds values that are NaN or infinite")
                lengths[name] = len(array)
        if len(set(lengths.values())) > 1:
            raise UsageError(f"{spec}: x_{part} has {lengths['x']:,} examples and y_{part} has {lengths['y']:,}")
        if not lengths["x"]:
            raise UsageError(f"{spec}: x_{part} is empty")
