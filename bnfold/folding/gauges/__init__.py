"""Gauges: several tensors changed at once, where no affine can be moved by itself. See docs/algebra.md."""

from __future__ import annotations

from bnfold.folding.gauges.gauging import Gone, Outcome, gauge

__all__ = ["Gone", "Outcome", "gauge"]
