"""What goes wrong for reasons outside bnfold: one clear sentence each, for people to read.

Every error names the file or the object at fault. The command line prints the sentence and exits
with :attr:`BnfoldError.exit_code`; a traceback is for bnfold's own mistakes alone.
"""

from __future__ import annotations


class BnfoldError(Exception):
    """The base of everything bnfold raises on purpose."""

    #: What the command line exits with.
    exit_code = 2


class ModelFileError(BnfoldError):
    """A model cannot be read: missing, damaged, unsafe, or not a model."""


class UnavailableError(ModelFileError):
    """What serves a model did not answer, refused to, or broke off: another time the same may be read."""


class OutputError(BnfoldError):
    """A file cannot be written. The target is untouched."""


class UsageError(BnfoldError):
    """Arguments that contradict each other or name something that is not there."""


class MissingExtraError(BnfoldError):
    """An optional dependency is needed for what was asked."""

    @classmethod
    def of(cls, what: str, extra: str) -> MissingExtraError:
        """``what`` says what needs which package. bnfold is on no package index, so that its name is no way to it."""
        return cls(f'{what}, not installed here: pip install ".[{extra}]" in a clone of bnfold')


class NotEquivalentError(BnfoldError):
    """Verification found that two models differ, or could not show that they agree."""

    exit_code = 1


class BnfoldWarning(UserWarning):
    """A finding about a model, for a training script or a test: ``code`` and ``layer`` are those of the finding."""

    def __init__(self, message: str, code: str = "", layer: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.layer = layer


class LimitError(BnfoldError):
    """A command did not come to its end within its limits of time and memory. Nothing was written."""

    exit_code = 1


def one_line(error: object) -> str:
    """The words of another library's exception, on one line: at least the name of its type."""
    return " ".join(str(error).split()) or type(error).__name__


def shortened(error: object, limit: int = 300) -> str:
    """:func:`one_line`, cut to ``limit`` characters."""
    text = one_line(error)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
