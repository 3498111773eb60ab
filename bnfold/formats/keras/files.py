"""From a ``.keras`` or HDF5 file to a live ``keras.Model``, or to one sentence that says why not."""

from __future__ import annotations

import importlib
import json
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bnfold.errors import ModelFileError, UsageError, one_line, shortened
from bnfold.formats.keras import inspection
from bnfold.formats.keras.backend import import_h5py, import_keras, quiet
from bnfold.formats.keras.inspection import Inspected, layer_name
from bnfold.formats.keras.keras1 import convert_weights
from bnfold.formats.keras.legacy import major, modernise
from bnfold.temporary import temporary_folder
from bnfold.usercode import import_user_module

#: Everything that a configuration or weights of a stranger's making have led Keras to raise.
LOAD_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    MemoryError,
    NameError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)
#: Packages whose classes Keras looks up by itself.
_KERAS_PACKAGES = {"keras", "keras_hub", "keras_cv", "keras_nlp", "builtins"}
_SUFFIXES = {"zip": {".keras"}, "hdf5": {".h5", ".hdf5"}}


def open_model(path: Path, allow_unsafe: bool) -> Any:
    """The ``keras.Model`` of a file, not compiled. Raises ModelFileError, MissingExtraError."""
    inspected = inspection.inspect_isolated(path)
    if not allow_unsafe:
        inspection.refuse_code(path, inspected.config)
    inspection.refuse_sizes(path, inspected)
    config = modernise(path, inspected.config, inspected.keras_version)
    keras = import_keras()
    custom = _custom_objects(path, keras, config, allow_unsafe)
    with temporary_folder() as directory:
        readable = _readable(path, inspected, config, directory)
        try:
            with quiet():
                return keras.models.load_model(
                    readable, custom_objects=custom, compile=False, safe_mode=not allow_unsafe
                )
        except LOAD_ERRORS as error:
            raise ModelFileError(_explain(path, error)) from error


def _readable(path: Path, inspected: Inspected, config: Mapping[str, Any], directory: Path) -> Path:
    """The file itself where Keras can read it as it is, else a copy in ``directory`` with another
    configuration or the suffix that Keras goes by.
    """
    ancient = inspected.kind == "hdf5" and major(inspected.keras_version) == 1
    unchanged = config == inspected.config and not ancient
    if unchanged and path.suffix in _SUFFIXES[inspected.kind]:
        return path
    if inspected.kind == "zip":
        copy = directory / "model.keras"
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(copy, "w") as new:
            for member in old.infolist():
                content = json.dumps(config).encode() if member.filename == inspection.CONFIG else old.read(member)
                new.writestr(member.filename, content)
        return copy
    copy = directory / "model.h5"
    shutil.copyfile(path, copy)
    if not unchanged:
        with import_h5py().File(copy, "r+") as file:
            file.attrs["model_config"] = json.dumps(config)
            if ancient:
                convert_weights(path, file, config)
    return copy


def _custom_objects(path: Path, keras: Any, config: Mapping[str, Any], allow_unsafe: bool) -> dict[str, Any]:
    """The classes that the configuration names and Keras does not have.

    Classes registered in this process are Keras's own business. Others are imported from the module
    that the file names, if the caller allows that.
    """
    found: dict[str, Any] = {}
    for item in _layers(config):
        name = item["class_name"]
        registered = item.get("registered_name") or name
        if _is_known(keras, item) or keras.saving.get_registered_object(registered) is not None:
            continue
        module = item.get("module")
        if not module:
            raise ModelFileError(f"{_unknown(path, config, item)}, which Keras does not know; {_way_out(name)}")
        if not allow_unsafe:
            raise ModelFileError(
                f"{_unknown(path, config, item)} of the module {module}; if you trust it, let it be imported with "
                f"--allow-unsafe (allow_unsafe=True); or {_way_out(name)}"
            )
        try:
            found[registered] = found[name] = getattr(importlib.import_module(module), name)
        except LOAD_ERRORS as error:
            raise ModelFileError(
                f"{_unknown(path, config, item)}, which cannot be imported from {module} ({error})"
            ) from error
    return found


def _way_out(name: str) -> str:
    return (
        f"import it with --custom MODULE, or in Python call bnfold.load(keras.models.load_model(path, "
        f"custom_objects={{{name!r}: {name.rpartition('>')[2]}}}))"
    )


def import_custom(module: str) -> None:
    """Import a module, from the current folder too, so that Keras knows the layers it defines.

    Those that it does not register itself are known by their names. Raises UsageError where it cannot be imported.
    """
    keras = import_keras()
    try:
        found = import_user_module(module)
    except Exception as error:  # it is the caller's own code, which may raise anything
        raise UsageError(f"--custom {module} cannot be imported: {type(error).__name__}: {error}") from error
    known = keras.saving.get_custom_objects()
    for name, value in vars(found).items():
        if isinstance(value, type) and issubclass(value, keras.layers.Layer) and value.__module__ == found.__name__:
            known.setdefault(name, value)


def _unknown(path: Path, config: Mapping[str, Any], item: Mapping[str, Any]) -> str:
    if item is config:
        return f"{path} describes a subclassed model without a graph of layers, {item['class_name']}"
    return f"{path}: layer {layer_name(item)!r} is the custom class {item['class_name']}"


def _layers(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The model itself and every layer in its configuration, however deeply nested."""
    found: list[Mapping[str, Any]] = []
    stack: list[Any] = [config]
    while stack:
        item = stack.pop()
        if not isinstance(item, dict) or not isinstance(item.get("class_name"), str):
            continue
        found.append(item)
        inner = item.get("config")
        if isinstance(inner, dict):
            for key in ("layers", "layer", "cell", "cells", "forward_layer", "backward_layer"):
                value = inner.get(key)
                stack.extend(value if isinstance(value, list) else [value])
    return found


def _is_known(keras: Any, item: Mapping[str, Any]) -> bool:
    if "module" in item:
        module = item["module"]
        return isinstance(module, str) and module.split(".")[0] in _KERAS_PACKAGES
    name = item["class_name"]
    return hasattr(keras.layers, name) or name in {"Functional", "Sequential", "Model"}


def _explain(path: Path, error: BaseException) -> str:
    text = one_line(error)
    words = text.lower()
    if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError":
        return f"{path} describes a model that does not fit into memory"
    if any(hint in words for hint in ("could not be loaded", "count mismatch", "shape mismatch", "object_name")):
        return f"{path}: the weights stored in it do not fit the model it describes"
    text = text.rsplit("Exception encountered: ", 1)[-1]
    text = text.split(" config=")[0].split(" Full object config")[0].split(" using config=")[0]
    return f"{path} is not a model that Keras can load: {shortened(text or type(error).__name__)}"
