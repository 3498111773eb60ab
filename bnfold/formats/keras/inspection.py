"""A look into a Keras file before Keras is let near it: is it whole, is it a model, is it safe to open?

Nothing here imports Keras, so that a file that is none is refused in milliseconds.
"""

from __future__ import annotations

import io
import json
import stat
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from bnfold.errors import ModelFileError, shortened
from bnfold.formats.keras.backend import import_h5py, require_keras
from bnfold.isolation import Cause, Limits, Returned, run

CONFIG = "config.json"
WEIGHTS = "model.weights.h5"
#: What h5py raises about damaged files, by experience.
_HDF5_ERRORS = (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError)
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
#: How long the inspection of any file may take, and how fast a large one is read at the least.
_SECONDS = 30.0
_BYTES_PER_SECOND = 5e6
#: What is allowed to unpack to many times its stored size, and how many times.
_SMALL_BYTES = 1 << 28
_MAX_EXPANSION = 100
_MAX_MEMBERS = 10_000
_MAX_CONFIG_BYTES = 1 << 28
#: Python recurses over a configuration in several places; a model of models needs about ten levels each.
_MAX_DEPTH = 150
#: Layers that run code which the file itself brings along.
_CODE_CLASSES = {"Lambda", "__lambda__", "TorchModuleWrapper", "TFSMLayer", "JaxLayer", "FlaxLayer"}


class Inspected(NamedTuple):
    """What a Keras file declares: its kind (``"zip"`` or ``"hdf5"``) and its model's configuration."""

    kind: str
    config: dict[str, Any]
    #: The largest size of any dimension of any stored weight.
    largest_dim: int
    keras_version: str


def inspect_isolated(path: Path) -> Inspected:
    """:func:`inspect` in a process of its own: on some damaged files HDF5's C library never returns, or crashes.

    Raises ModelFileError, and MissingExtraError where Keras is not installed.
    """
    require_keras()
    found = run(inspect, Limits(seconds=_SECONDS + path.stat().st_size / _BYTES_PER_SECOND), path)
    if isinstance(found, Returned):
        return found.value
    if found.cause is Cause.TIMEOUT:
        raise ModelFileError(f"{path} is damaged: reading it does not come to an end")
    if found.signal is None:
        raise ModelFileError(f"{path} does not fit into memory")
    raise ModelFileError(f"{path} is damaged: reading it crashes the HDF5 library (signal {found.signal.value})")


def inspect(path: Path) -> Inspected:
    """Read a ``.keras`` or HDF5 file's configuration. The content decides which it is, not the suffix.

    Raises ModelFileError for a file that is damaged, not a model, or made to do harm when it is opened.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(8)
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from error
    if not magic:
        raise ModelFileError(f"{path} is empty")
    if magic == _HDF5_MAGIC:
        return _inspect_hdf5(path)
    if magic[:4] == b"PK\x03\x04":
        return _inspect_archive(path)
    raise ModelFileError(f"{path} is not a Keras model: it is neither a zip archive nor an HDF5 file")


def _inspect_archive(path: Path) -> Inspected:
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(path, archive)
            names = set(archive.namelist())
            if CONFIG not in names:
                raise ModelFileError(f"{path} is not a Keras model: the archive holds no {CONFIG}")
            config = _parse(path, archive.read(CONFIG))
            version = _version(archive, names)
            if WEIGHTS in names:
                largest = _check_hdf5(path, io.BytesIO(archive.read(WEIGHTS)))
            elif "model.weights.npz" in names:
                largest = 0
            else:
                raise ModelFileError(f"{path} holds a model's configuration but not its weights ({WEIGHTS} is missing)")
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise ModelFileError(f"{path} is a damaged zip archive: {shortened(error)}") from error
    return Inspected("zip", config, largest, version)


def _version(archive: zipfile.ZipFile, names: set[str]) -> str:
    """The version of Keras that wrote an archive; taken for a present one where it does not say."""
    try:
        metadata = json.loads(archive.read("metadata.json")) if "metadata.json" in names else {}
    except ValueError:
        metadata = {}
    return str(metadata.get("keras_version", "3")) if isinstance(metadata, dict) else "3"


def _check_members(path: Path, archive: zipfile.ZipFile) -> None:
    members = archive.infolist()
    if len(members) > _MAX_MEMBERS:
        raise ModelFileError(f"{path} is refused: the archive has {len(members)} members")
    seen: set[str] = set()
    for member in members:
        name = member.filename
        parts = PurePosixPath(name.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts or ":" in name:
            raise ModelFileError(f"{path} is refused: its member {name!r} points outside the archive")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise ModelFileError(f"{path} is refused: its member {name!r} is a symbolic link")
        if name in seen:
            raise ModelFileError(f"{path} is refused: it holds {name!r} twice")
        seen.add(name)
        if member.flag_bits & 1:
            raise ModelFileError(f"{path} is encrypted")
        limit = _MAX_CONFIG_BYTES if name == CONFIG else max(_SMALL_BYTES, _MAX_EXPANSION * member.compress_size)
        if member.file_size > limit:
            raise ModelFileError(
                f"{path} is refused: {name!r} unpacks from {member.compress_size} to {member.file_size} bytes"
            )


def _parse(path: Path, text: bytes | str) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{path} is damaged: its model configuration is not valid JSON") from error
    if not isinstance(config, dict) or not isinstance(config.get("class_name"), str) or "config" not in config:
        raise ModelFileError(f"{path} is not a Keras model: its configuration describes no model")
    if _is_deeper(config, _MAX_DEPTH):
        raise ModelFileError(f"{path} is refused: its model configuration is nested more than {_MAX_DEPTH} levels deep")
    return config


def _is_deeper(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        nested = [item for item in level if isinstance(item, dict | list)]
        level = [entry for item in nested for entry in (item.values() if isinstance(item, dict) else item)]
        if not level:
            return False
    return True


def _inspect_hdf5(path: Path) -> Inspected:
    h5py = import_h5py()
    largest = _check_hdf5(path, path)
    try:
        with h5py.File(path, "r") as file:
            if "model_config" not in file.attrs or "model_weights" not in file:
                raise ModelFileError(_no_model(path, file))
            text = _text(file.attrs["model_config"])
            notes = {**file["model_weights"].attrs, **file.attrs}
            version, backend = (_text(notes.get(key, "")) for key in ("keras_version", "backend"))
    except _HDF5_ERRORS as error:
        raise ModelFileError(f"{path} is a damaged HDF5 file: {shortened(error)}") from error
    config = _parse(path, text)
    if backend == "theano" and any("Conv" in item["class_name"] for item in objects(config)):
        raise ModelFileError(f"{path} was written on Theano, whose kernels are flipped: convert it with Keras 2 first")
    return Inspected("hdf5", config, largest, version)


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _no_model(path: Path, file: Any) -> str:
    if "model_config" in file.attrs:
        return f"{path} holds a model's configuration but not its weights (the group model_weights is missing)"
    if "layer_names" in file.attrs or "layers" in file or "_layer_checkpoint_dependencies" in file:
        return f"{path} holds weights alone, without the model they belong to: save the whole model with model.save()"
    if "model_weights" in file:
        return f"{path} holds no model configuration: save the whole model with model.save()"
    return f"{path} is an HDF5 file, but not a Keras model"


def _check_hdf5(path: Path, source: Path | io.BytesIO) -> int:
    """Walk every link without following one out of the file; the largest dimension of any dataset."""
    h5py = import_h5py()
    try:
        with h5py.File(source, "r") as file:
            return _walk_hdf5(path, h5py, file)
    except _HDF5_ERRORS as error:
        raise ModelFileError(f"{path} is damaged: its weights cannot be read ({shortened(error)})") from error


def _walk_hdf5(path: Path, h5py: Any, file: Any) -> int:
    largest = 0
    groups, visited = [file], set()
    while groups:
        group = groups.pop()
        address = h5py.h5o.get_info(group.id).addr
        if address in visited:
            continue
        visited.add(address)
        _read_attributes(group)
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise ModelFileError(f"{path} is refused: {group.name}/{name} is a link to elsewhere, not data")
            child = group[name]
            if isinstance(child, h5py.Group):
                groups.append(child)
            elif isinstance(child, h5py.Dataset):
                _check_dataset(path, child)
                _read_attributes(child)
                child[()]  # what is damaged shows itself here, not in the middle of Keras
                largest = max(largest, *child.shape, 0) if child.shape else largest
    return largest


def _read_attributes(item: Any) -> None:
    for name in item.attrs:
        item.attrs[name]


def _check_dataset(path: Path, dataset: Any) -> None:
    if dataset.external or dataset.is_virtual:
        raise ModelFileError(f"{path} is refused: the data of {dataset.name} lie in another file")
    stored = dataset.id.get_storage_size()
    if dataset.nbytes > max(_SMALL_BYTES, _MAX_EXPANSION * stored):
        raise ModelFileError(f"{path} is refused: {dataset.name} unpacks from {stored} to {dataset.nbytes} bytes")


def objects(config: Any) -> Iterator[Mapping[str, Any]]:
    """Every serialised object in a configuration: the dicts that have a ``class_name`` and a ``config``."""
    stack = [config]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            if isinstance(value.get("class_name"), str) and "config" in value:
                yield value
            stack.extend(value.values())
        elif isinstance(value, list):
            stack.extend(value)


def refuse_code(path: Path, config: Mapping[str, Any]) -> None:
    """Raise ModelFileError if loading this configuration would run code that the file brings along."""
    for item in objects(config):
        if item["class_name"] in _CODE_CLASSES:
            raise ModelFileError(
                f"{path} is refused: its layer {layer_name(item)!r} ({item['class_name']}) runs code stored in the "
                "file; if you trust its source, allow that with --allow-unsafe (allow_unsafe=True)"
            )


def refuse_sizes(path: Path, inspected: Inspected) -> None:
    """Raise ModelFileError if a layer declares more units than any stored weight has: memory would be wasted on it."""
    if not inspected.largest_dim:
        return
    for item in objects(inspected.config):
        config = item["config"]
        if not isinstance(config, dict):
            continue
        for key in _SIZES.get(item["class_name"], ()):
            size = config.get(key)
            if isinstance(size, int) and size > inspected.largest_dim:
                raise ModelFileError(
                    f"{path} does not fit together: layer {layer_name(item)!r} declares {key}={size}, but no stored "
                    f"weight has more than {inspected.largest_dim} entries in any dimension"
                )


_SIZES = {
    **dict.fromkeys(("Dense", "LSTM", "GRU", "SimpleRNN"), ("units",)),
    **dict.fromkeys(("Conv1D", "Conv2D", "Conv3D", "SeparableConv1D", "SeparableConv2D"), ("filters",)),
    **dict.fromkeys(("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"), ("filters",)),
    "Embedding": ("input_dim", "output_dim"),
}


def layer_name(item: Mapping[str, Any]) -> str:
    """How a serialised layer is called, or its class where it has no name."""
    config = item["config"]
    name = config.get("name") if isinstance(config, dict) else None
    return str(name or item.get("name") or item["class_name"])
