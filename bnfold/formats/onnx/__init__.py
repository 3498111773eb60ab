"""ONNX files ↔ ModelGraph, without reading the weights that nobody asks for."""

from os import PathLike
from pathlib import Path

from bnfold.formats.onnx.loader import load
from bnfold.formats.onnx.model import OnnxModel

__all__ = ["OnnxModel", "load", "recognizes"]


def recognizes(source: object) -> bool:
    """Is this no folder? Whatever else it is, the reader says what is wrong with it."""
    return not (isinstance(source, (str, PathLike)) and Path(source).is_dir())
