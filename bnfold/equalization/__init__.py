"""Positive scales, one a channel, that make weight ranges alike for quantisation. See docs/guides/int8.md."""

from __future__ import annotations

from bnfold.equalization.equalizer import equalize_graph, quantized_note
from bnfold.equalization.plan import EqualizationPlan, LayerRanges, ScaledTensor, UnscaledTensor

__all__ = ["EqualizationPlan", "LayerRanges", "ScaledTensor", "UnscaledTensor", "equalize_graph", "quantized_note"]
