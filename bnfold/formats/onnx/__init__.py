"""ONNX files ↔ ModelGraph, without reading the weights that nobody asks for."""

from bnfold.formats.onnx.model import OnnxModel, load

__all__ = ["OnnxModel", "load"]
