"""What every rewriting goes through: a file is read, and the result written, checked and given its name."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import wraps
from inspect import signature
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from bnfold import api
from bnfold.errors import OutputError, UsageError
from bnfold.formats.atomic import resolve_target
from bnfold.formats.fetching import local_source
from bnfold.graph import Model
from bnfold.isolation import Limits
from bnfold.pipeline.runs import Runs
from bnfold.results import Result

if TYPE_CHECKING:
    from bnfold.verification import VerifyOptions

#: What a stage of the work is called while it runs.
Progress = Callable[[str], None]
R = TypeVar("R", bound=Result)
_P = ParamSpec("_P")
_T = TypeVar("_T")


def silent(stage: str) -> None:
    """Progress that nobody watches."""


def from_anywhere(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Where the first argument, ``source``, is a URL, the model is fetched for the time of the call."""

    parameters = signature(function)

    @wraps(function)
    def call_with_file(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        given = parameters.bind(*args, **kwargs)
        with local_source(given.arguments["source"]) as given.arguments["source"]:
            return function(*given.args, **given.kwargs)

    return call_with_file


@dataclass(slots=True)
class Course:
    """One model on its way from a file to a file. Making it looks at the target, starts the time and reads the model.

    Without an ``output`` nothing can be written. Raises UsageError where ``output`` is the input or of another format,
    OutputError where it cannot be written, and what :func:`bnfold.load` raises.
    """

    source: str | PathLike[str]
    output: str | PathLike[str] | None
    options: VerifyOptions | None
    allow_unsafe: bool
    progress: Progress
    external_data: bool | None = None
    #: Is the result to be trained? Then the model has to be one that can.
    trains: bool = False
    original: Model = field(init=False)
    target: Path | None = field(init=False)
    runs: Runs = field(init=False)

    def __post_init__(self) -> None:
        limits = self.options.limits() if self.options is not None else Limits()
        self.target = None if self.output is None else _target(self.source, self.output)
        self.progress("reading the model")
        self.original = api.load(self.source, allow_unsafe=self.allow_unsafe)
        if self.trains:
            api.trainable_of(self.original)
        if self.target is not None:
            self.original.check_target(self.target)
        self.runs = Runs(self.original, Path(self.source), self.allow_unsafe, self.options, limits)

    @property
    def converts(self) -> bool:
        """Is the file of another format than the model?"""
        return self.target is not None and self.original.converts_to(self.target)

    def write(
        self,
        result: R,
        check: Callable[[R, Path], R] | None,
        measure: Callable[[R, Path], R] | None = None,
    ) -> R:
        """Write the model of a result, ``check`` the file, and give it its name if nothing speaks against it.

        ``measure`` is called with what gets a name only. Both return the result with what they found.
        """
        assert self.output is not None, "without one nothing is written"
        assert self.target is not None, "it was found of the output"
        assert result.model is not None, "it is built where there is an output"
        self.progress("writing")
        with result.model.stage(self.target, external_data=self.external_data) as staged:
            if check is not None:
                self.progress("verifying")
                result = check(result, staged.path)
            if result.equivalent:
                if measure is not None:
                    result = measure(result, staged.path)
                staged.commit()
                result = replace(result, path=Path(self.output))
        return result


def _target(source: str | PathLike[str], output: str | PathLike[str]) -> Path:
    """The file to write. Raises UsageError where it is the input, OutputError where it cannot be written."""
    try:
        same = os.path.samefile(source, output)
    except (OSError, ValueError):
        same = False  # one of the two does not exist, which others report better
    if same:
        raise UsageError(f"{os.fspath(output)} is the input itself; give the output another name")
    target = resolve_target(output)
    if not os.access(target.parent, os.W_OK):
        raise OutputError(f"{os.fspath(output)} cannot be written: the folder {target.parent} is write-protected")
    return target
