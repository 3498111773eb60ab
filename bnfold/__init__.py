"""bnfold: analyze, fold and verify BatchNormalization in ONNX and Keras models.

>>> import bnfold
>>> model = bnfold.load("model.onnx")  # or .keras, .h5, a SavedModel folder, a ModelProto, a keras.Model
>>> report = bnfold.analyze(model)  # report.findings, report.batchnorms, report.summary
>>> result = bnfold.fold(model)  # result.plan, result.refusals, result.model
>>> check = bnfold.verify(model, result.model)  # check.equivalent, check.outputs, check.first_difference
>>> result.model.save("folded.onnx")

In one step, as the command line does it, verified before the file gets its name:

>>> result = bnfold.fold_file("model.onnx", "folded.onnx")  # result.path is None where outputs differ
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bnfold.display import register
from bnfold.version import __version__

if TYPE_CHECKING:
    from bnfold.analysis.report import Report
    from bnfold.api import analyze, check, check_runtime, equalize, fix, fold, load, restyle, verify
    from bnfold.errors import BnfoldError, BnfoldWarning, ModelFileError, OutputError, UsageError
    from bnfold.pipeline import equalize_file, fix_file, fold_file, restyle_file
    from bnfold.pipeline.int8 import int8_report
    from bnfold.restyling import Style
    from bnfold.results import EqualizeResult, FixResult, FoldResult, RestyleResult
    from bnfold.scanning import scan
    from bnfold.verification.verify_options import VerifyOptions

__all__ = [
    "BnfoldError",
    "BnfoldWarning",
    "EqualizeResult",
    "FixResult",
    "FoldResult",
    "ModelFileError",
    "OutputError",
    "Report",
    "RestyleResult",
    "Style",
    "UsageError",
    "VerifyOptions",
    "__version__",
    "analyze",
    "check",
    "check_runtime",
    "equalize",
    "equalize_file",
    "fix",
    "fix_file",
    "fold",
    "fold_file",
    "int8_report",
    "load",
    "restyle",
    "restyle_file",
    "scan",
    "verify",
]


#: Where the names stand that are not functions of the API.
_ELSEWHERE = {
    "BnfoldError": "errors",
    "BnfoldWarning": "errors",
    "EqualizeResult": "results",
    "FixResult": "results",
    "FoldResult": "results",
    "ModelFileError": "errors",
    "OutputError": "errors",
    "Report": "analysis.report",
    "RestyleResult": "results",
    "Style": "restyling",
    "UsageError": "errors",
    "VerifyOptions": "verification.verify_options",
    "equalize_file": "pipeline",
    "fix_file": "pipeline",
    "fold_file": "pipeline",
    "int8_report": "pipeline.int8",
    "scan": "scanning.scanner",
    "restyle_file": "pipeline",
}


def __dir__() -> list[str]:
    # What is not imported yet is there all the same: for dir(), help() and completion.
    return sorted(__all__)


def __getattr__(name: str) -> object:
    # numpy and onnx take a quarter of a second to import: only when something is used.
    if name in __all__:
        import importlib

        return getattr(importlib.import_module(f"bnfold.{_ELSEWHERE.get(name, 'api')}"), name)
    raise AttributeError(f"module 'bnfold' has no attribute {name!r}")


def _html(result: object) -> str:
    import importlib

    return str(importlib.import_module("bnfold.reporting.notebook").html(result))


# The package knows all of its rooms, as above, by name, and imports none of them before it is asked for one.
register(_html)
