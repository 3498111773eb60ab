"""Keras and TensorFlow, imported when the first Keras model is loaded and kept quiet."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from bnfold.errors import MissingExtraError

_LOCK = threading.Lock()
#: tf2onnx writes some lines to the root of all loggers, which has no name.
_LOGGERS = ("", "absl", "tensorflow", "tf2onnx", "keras")


def import_keras() -> ModuleType:
    """The keras package, with TensorFlow behind it. Takes seconds the first time.

    Raises MissingExtraError where Keras 3 or TensorFlow is not installed.
    """
    with _LOCK:
        if "keras" not in sys.modules or "tensorflow" not in sys.modules:
            require_keras()
            os.environ.setdefault("KERAS_BACKEND", "tensorflow")
            os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
            with _silent_stderr(), quiet():
                # Some of TensorFlow's lines are written before its log level counts, at the import itself.
                importlib.import_module("tensorflow")
                importlib.import_module("keras")
    keras = sys.modules["keras"]
    if not hasattr(keras, "__version__") or int(keras.__version__.split(".")[0]) < 3:
        raise MissingExtraError.of(f"bnfold needs Keras 3 in place of {keras.__version__}", "keras")
    return keras


def require_keras() -> None:
    """Raise MissingExtraError where what it takes to load a Keras model is not installed; imports nothing."""
    _require("keras", "tensorflow", "h5py")


def import_h5py() -> ModuleType:
    """The h5py package. Raises MissingExtraError where it is not installed."""
    _require("h5py")
    return importlib.import_module("h5py")


def import_tf2onnx() -> ModuleType:
    """The tf2onnx package. Raises MissingExtraError where it is not installed."""
    _require("tf2onnx")
    return importlib.import_module("tf2onnx")


def _require(*packages: str) -> None:
    missing = [name for name in packages if name not in sys.modules and importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError.of(f"Keras models need {', '.join(missing)}", "keras")


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back the warnings and log lines of Keras, TensorFlow and tf2onnx: what matters of them is raised."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Send what native code writes to file descriptor 2 to a file, and show it only if the block fails by itself."""
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as sink:
        os.dup2(sink.fileno(), 2)
        try:
            yield
        except Exception:
            sink.seek(0)
            os.write(saved, sink.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)
