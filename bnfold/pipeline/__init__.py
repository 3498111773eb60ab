"""A model file in, a model file out: read, change, write beside the target, verify what lies there, then name it."""

from __future__ import annotations

from bnfold.pipeline.files import equalize_file, fix_file, fold_file, restyle_file

__all__ = ["equalize_file", "fix_file", "fold_file", "restyle_file"]
