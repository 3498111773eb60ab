"""Inputs to compare two models on: generated, from the user's files, or from the model's test data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from bnfold.errors import UsageError
from bnfold.graph import Array
from bnfold.verification.feeds.hints import Hint
from bnfold.verification.feeds.sizes import Assignment
from bnfold.verification.runtime.onnx_file import decode_error
from bnfold.verification.runtime.sessions import ValueSpec

#: What a caller may give as inputs: values by name, one array for the only input, a .npz or .npy file
#: that holds the same, or several of these.
Inputs = Mapping[str, Any] | Array | str | PathLike[str] | Sequence[Any]
Draw = Callable[[np.random.Generator, tuple[int, ...]], Array]

#: Distributions of float inputs, the most telling first: both signs; images; large magnitudes, which reach saturation
#: and what a ReLU seldom lets through; negative values, which show a border padded with zeros where it was padded with
#: −∞ or the other way round; zeros and constants, which show lost shifts; small magnitudes, which reach underflow.
DISTRIBUTIONS: dict[str, Draw] = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "uniform 0 to 1": lambda rng, shape: rng.random(shape),
    "normal × 10": lambda rng, shape: rng.standard_normal(shape) * 10.0,
    "uniform -1 to 0": lambda rng, shape: -rng.random(shape),
    "zeros": lambda _, shape: np.zeros(shape),
    "uniform 0 to 255": lambda rng, shape: rng.random(shape) * 255.0,
    "ones": lambda _, shape: np.ones(shape),
    "normal × 0.001": lambda rng, shape: rng.standard_normal(shape) * 1e-3,
}
#: How often loops run: a state that is lost shows from the second time on. And what integers are below.
_TRIPS, _SMALL = 3, 10
_WORDS = np.array(["a", "b", "one", "two", "hello", "world", "", "1"], dtype=object)


@dataclass(frozen=True, slots=True)
class Feed:
    """One set of inputs by name, with a description for people.

    ``expected`` holds the outputs that were stored with it, by position; empty for any other feed.
    """

    description: str
    values: Mapping[str, Any]
    expected: tuple[Array, ...] = ()


def generate(
    inputs: Sequence[ValueSpec],
    hints: Mapping[str, Hint],
    assignment: Assignment,
    distribution: str,
    seed: tuple[int, int],
) -> Feed:
    """A random feed. The same arguments give the same values."""
    rng = np.random.default_rng(seed)
    values = {spec.name: _value(spec, hints[spec.name], assignment, distribution, rng) for spec in inputs}
    described = distribution if any(_is_float(spec.dtype) for spec in inputs) else "random"
    return Feed(f"{described}, {assignment.label}" if inputs else "no inputs", values)


def _value(spec: ValueSpec, hint: Hint, assignment: Assignment, distribution: str, rng: np.random.Generator) -> Any:
    shape = assignment.shapes[spec.name]
    if spec.kind == "seq":
        return [_array(spec, hint, (2, 3), distribution, rng) for _ in range(2)]
    return _array(spec, hint, shape, distribution, rng)


def _array(spec: ValueSpec, hint: Hint, shape: tuple[int, ...], distribution: str, rng: np.random.Generator) -> Array:
    dtype = spec.dtype
    assert dtype is not None, f"{spec.name} was to be refused: {spec.type}"
    if dtype.kind == "O":
        return np.asarray(rng.choice(_WORDS, shape), dtype=object)
    if _is_float(dtype):
        return np.asarray(DISTRIBUTIONS[distribution](rng, shape)).astype(dtype)
    if dtype.kind == "b" and math.prod(shape) == 1:
        # A condition: true first, then both in turn.
        return np.full(shape, list(DISTRIBUTIONS).index(distribution) % 2 == 0)
    if dtype.kind == "b":
        constant = {"zeros": np.zeros, "ones": np.ones}.get(distribution)
        return np.asarray(constant(shape) if constant else rng.random(shape) < 0.5, dtype)
    return _integers(dtype, "mask" in spec.name.lower(), hint, shape, distribution, rng).astype(dtype)


def _integers(
    dtype: np.dtype[Any],
    is_mask: bool,
    hint: Hint,
    shape: tuple[int, ...],
    distribution: str,
    rng: np.random.Generator,
) -> Array:
    """Indices below their bound, ones where the number steers an operator, masks of 0 and 1, else small values."""
    if hint.role == "control" or distribution == "ones":
        return np.full(shape, min(1, (hint.bound or 2) - 1))
    if hint.role == "trips":
        return np.full(shape, 1 if distribution == "zeros" else _TRIPS)
    if is_mask:
        mask = rng.integers(0, 2, shape)
        # A mask that hides everything makes a softmax over nothing: NaN.
        mask[..., :1] = 1
        return mask
    if distribution == "zeros":
        return np.zeros(shape)
    if hint.role == "index":
        # One of the feeds begins with the last and goes back.
        last, size = max(1, hint.bound or 2) - 1, math.prod(shape)
        if distribution == "normal × 10":
            return np.linspace(last, 0, size).round().reshape(shape)
        return rng.integers(0, last + 1, shape)
    if dtype.itemsize == 1:
        limits = np.iinfo(dtype)
        return rng.integers(limits.min, limits.max + 1, shape)
    if distribution == "uniform -1 to 0" and dtype.kind == "i" and hint.reach is None:
        return rng.integers(-_SMALL, 0, shape)
    # The first feed has to be accepted, whatever is computed with the values; later ones reach what they can.
    first = distribution == next(iter(DISTRIBUTIONS))
    return rng.integers(0, _SMALL if first else max(_SMALL, hint.reach or 0), shape)


def _is_float(dtype: np.dtype[Any] | None) -> bool:
    return dtype is not None and (dtype.kind == "f" or dtype.name == "bfloat16")


# -- the user's own ------------------------------------------------------------------------------


def user_feeds(inputs: Inputs, specs: Sequence[ValueSpec], optional: Sequence[ValueSpec]) -> list[Feed]:
    """The feeds a caller gave, checked against the model's inputs.

    Raises UsageError for a file that cannot be read, a name the model does not have, an input that
    is missing, or values of another kind or rank.
    """
    given = "the given inputs"
    if isinstance(inputs, Mapping):
        return [_checked(dict(inputs), given, specs, optional)]
    if isinstance(inputs, np.ndarray):
        return [_checked(_alone(inputs, given, specs), given, specs, optional)]
    if isinstance(inputs, (str, PathLike)):
        path = Path(fspath(inputs))
        return [_checked(_read(path, specs), str(path), specs, optional)]
    if not isinstance(inputs, Sequence):
        raise UsageError(f"{given}: neither values by name, nor an array, nor a file: {type(inputs).__name__}")
    return [feed for item in inputs for feed in user_feeds(item, specs, optional)]


def _alone(values: Array, origin: str, specs: Sequence[ValueSpec]) -> dict[str, Any]:
    """The values of a model's only input."""
    if len(specs) != 1:
        names = ", ".join(spec.name for spec in specs)
        raise UsageError(f"{origin}: one array but the model has {len(specs)} inputs ({names}): use .npz")
    return {specs[0].name: values}


def _read(path: Path, specs: Sequence[ValueSpec]) -> dict[str, Any]:
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return _alone(content, str(path), specs)
        with content:
            return {name: content[name] for name in content.files}
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file") from error
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise UsageError(f"{path} cannot be read as a .npz or .npy file of plain arrays") from error


def _checked(values: dict[str, Any], origin: str, specs: Sequence[ValueSpec], optional: Sequence[ValueSpec]) -> Feed:
    known = {spec.name: spec for spec in (*optional, *specs)}
    for name in values:
        if name not in known:
            raise UsageError(f"{origin}: the model has no input {name!r}; it has {', '.join(s.name for s in specs)}")
    for spec in specs:
        if spec.name not in values:
            raise UsageError(f"{origin}: no values for the model's input {spec.name!r}")
    return Feed(origin, {name: _fitted(value, known[name], origin) for name, value in values.items()})


def _fitted(value: Any, spec: ValueSpec, origin: str) -> Any:
    if spec.kind == "seq":
        return list(value)
    if spec.kind != "tensor" or spec.dtype is None:
        return value
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise UsageError(f"{origin}: {spec.name!r} is not a plain array: {error}") from error
    if array.dtype.kind == "V" and array.dtype.itemsize == spec.dtype.itemsize:
        array = array.view(spec.dtype)  # .npz does not keep the name of a dtype that numpy does not have
    if spec.dtype.kind == "O":
        return array.astype(object)
    if array.dtype != spec.dtype and not np.can_cast(array.dtype, spec.dtype, casting="same_kind"):
        raise UsageError(f"{origin}: {spec.name!r} holds {array.dtype}, the model wants {spec.dtype}")
    rank = len(spec.shape) if spec.shape is not None else array.ndim
    if array.ndim != rank:
        raise UsageError(f"{origin}: {spec.name!r} has shape {list(array.shape)}, the model wants {rank} dimensions")
    return np.ascontiguousarray(array, dtype=spec.dtype)


# -- the model's test data -----------------------------------------------------------------------


def stored_feeds(place: Path, specs: Sequence[ValueSpec]) -> Iterator[Feed]:
    """The ``test_data_set_*`` folders beside a model's file, as the ONNX model zoo ships them.

    A folder that does not fit the model's inputs is skipped.
    """
    for folder in sorted(place.glob("test_data_set_*")):
        inputs = _tensors(folder, "input")
        if inputs is None or len(inputs) != len(specs):
            continue
        names = [spec.name for spec in specs]
        by_name = {name: value for name, value in inputs if name in names}
        if len(by_name) != len(names):
            by_name = {name: value for name, (_, value) in zip(names, inputs, strict=True)}
        expected = tuple(value for _, value in _tensors(folder, "output") or ())
        yield Feed(folder.name, {name: by_name[name] for name in names}, expected)


def _tensors(folder: Path, kind: str) -> list[tuple[str, Array]] | None:
    """The tensors ``input_0.pb``, ``input_1.pb``… in order; None if one of them is not a plain tensor."""
    from onnx import TensorProto, numpy_helper

    found = []
    for index in range(len(list(folder.glob(f"{kind}_*.pb")))):
        tensor = TensorProto()
        try:
            tensor.ParseFromString((folder / f"{kind}_{index}.pb").read_bytes())
            found.append((tensor.name, numpy_helper.to_array(tensor)))
        except (OSError, TypeError, ValueError, decode_error()):
            return None
    return found
