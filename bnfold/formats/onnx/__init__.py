"""ONNX files ↔ ModelGraph, without reading the weights that nobody asks for."""

from bnfold.formats.onnx.loader import load
from bnfold.formats.onnx.model import OnnxModel

__all__ = ["OnnxModel", "load"]
