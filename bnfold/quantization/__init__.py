"""What int8 makes of models: quantised by onnxruntime.quantization, run on held-out samples, compared with float."""

from __future__ import annotations

from bnfold.quantization.measuring import WeightOf, measure_int8
from bnfold.quantization.report import Int8Output, Int8Report, Int8Row, LayerLoss
from bnfold.quantization.samples import Samples, read_samples

__all__ = ["Int8Output", "Int8Report", "Int8Row", "LayerLoss", "Samples", "WeightOf", "measure_int8", "read_samples"]
