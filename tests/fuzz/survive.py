"""What every file has to come through: load, analyze, fold and save, or one printable sentence."""

from __future__ import annotations

from pathlib import Path

import bnfold
from bnfold.errors import BnfoldError


class SurvivalError(AssertionError):
    """bnfold answered with something else than a result or one printable sentence."""


def survive(data: bytes, folder: Path) -> str:
    """Take ``data`` as an ONNX file through everything but verification; ``refused`` or ``folded``.

    Raises SurvivalError for a message that is not one printable line, or for a folded model that
    cannot be read back. Whatever else escapes is a finding too.
    """
    source, target = folder / "in.onnx", folder / "out.onnx"
    source.write_bytes(data)
    target.unlink(missing_ok=True)
    try:
        model = bnfold.load(source)
        bnfold.analyze(model)
        result = bnfold.fold(model)
        result.model.save(target)
    except BnfoldError as error:
        _check_message(str(error))
        if target.exists():
            raise SurvivalError("a model was written and then refused") from error
        return "refused"
    try:
        bnfold.load(target)
    except BnfoldError as error:
        raise SurvivalError(f"the folded model cannot be read back: {error}") from error
    return "folded"


def _check_message(message: str) -> None:
    if not message or not message.isprintable():
        raise SurvivalError(f"not one printable line: {message!r}")
