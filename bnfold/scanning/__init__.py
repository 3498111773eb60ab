"""Many models: find them, analyze each in a process of its own, fold what folds, remember it all in a store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bnfold.scanning.records import ScanStore
    from bnfold.scanning.row import Row
    from bnfold.scanning.scanner import Scan, scan

__all__ = ["Row", "Scan", "ScanStore", "scan"]

_MODULES = {"Row": "row", "Scan": "scanner", "ScanStore": "records", "scan": "scanner"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        import importlib

        return getattr(importlib.import_module(f"bnfold.scanning.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'bnfold.scanning' has no attribute {name!r}")
