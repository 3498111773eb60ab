"""What the commands that rewrite a model share: their arguments, and the way from these to a file and an exit code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bnfold.cli import options

if TYPE_CHECKING:
    from rich.console import Console

    from bnfold.quantization import Int8Report
    from bnfold.reporting.page.sheet import Sheet
    from bnfold.results import Result
    from bnfold.verification import VerifyOptions

A = TypeVar("A", bound="Asked")
R = TypeVar("R", bound="Result")

MODEL = click.argument("model", type=options.MODEL)
OUTPUT = click.option(
    "-o", "--output", type=options.OUTPUT, metavar="OUT", help="The file to write; its suffix decides."
)
DRY_RUN = click.option("--dry-run", is_flag=True, help="Print the plan and write nothing.")
NO_VERIFY = click.option("--no-verify", is_flag=True, help="Do not compare the written model with the original.")
EXTERNAL_DATA = click.option(
    "--external-data", is_flag=True, help="Put weights into a file of their own (automatic above 2 GB)."
)
#: What every command has at its end.
PRINTING = (
    options.report,
    options.output_format("text", "json"),
    options.quiet("Print nothing unless something is wrong."),
    options.allow_unsafe,
)
#: Everything that a command which folds has besides its own options.
FOLDING = (
    NO_VERIFY,
    click.option("--no-branches", is_flag=True, help="Do not merge parallel linear branches."),
    click.option("--keep-overridable", is_flag=True, help="Leave weights alone that are inputs of the model too."),
    EXTERNAL_DATA,
    options.int8,
    options.verification,
    *PRINTING,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The arguments that these commands share. ``output`` is None for a dry run only."""

    model: str
    output: str | None
    no_verify: bool
    report: str | None
    output_format: str
    quiet: bool
    allow_unsafe: bool
    #: What :func:`options.verification` adds.
    verification: Mapping[str, Any]
    dry_run: bool = False
    external_data: bool = False

    def verify_options(self, *, needed: bool = False) -> VerifyOptions | None:
        """How models are run; None, which spares an import, where none is: without verification, unless ``needed``."""
        return None if self.no_verify and not needed else options.verify_options(self.verification)

    def end(
        self,
        result: Result,
        sheet: Callable[[Any], Sheet],
        show: Callable[[Console], None],
        int8: Int8Report | None = None,
        *,
        failed: bool = False,
    ) -> int:
        """Write the HTML page, if one is wanted, print the result, and return the exit code.

        ``sheet`` makes the page's sheet with the module :mod:`bnfold.reporting.page.sheets`, ``show`` prints text.
        """
        options.write_report(self.report, lambda sheets: [sheet(sheets)])
        failed = failed or not result.equivalent
        if self.output_format == "json":
            from bnfold.reporting import as_json

            measured = {} if int8 is None else {"int8": int8.to_dict()}
            click.echo(as_json.dump({**as_json.header(), "model": self.model, **result.to_dict(), **measured}))
        elif failed or not self.quiet:
            from bnfold.reporting.console import make_console

            console = make_console()
            show(console)
            if int8 is not None:
                from bnfold.reporting.int8 import print_int8

                print_int8(console, int8)
        return int(failed)


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedToFold(Asked):
    """The arguments of the commands that fold."""

    no_branches: bool
    keep_overridable: bool
    int8: str | None

    def carry_out(
        self,
        stage: str,
        in_memory: Callable[..., R],
        to_file: Callable[..., R],
        *,
        runs_models: bool = False,
        exact: bool = False,
    ) -> tuple[R, Int8Report | None]:
        """What ``in_memory`` returns for a dry run, else ``to_file``, and what ``--int8`` measures.

        ``runs_models`` says that ``to_file`` runs them whether it verifies or not; ``exact`` is of equalisation.
        """
        how = {
            "branches": not self.no_branches,
            "keep_overridable": self.keep_overridable,
            "allow_unsafe": self.allow_unsafe,
        }
        with options.progress(self.quiet) as progress:
            int8 = self._measured(exact, progress)  # data that do not fit end the call before anything is written
            if self.dry_run:
                progress(stage)
                return in_memory(self.model, **how), int8
            result = to_file(
                self.model,
                self.output,
                verify=not self.no_verify,
                options=self.verify_options(needed=runs_models),
                external_data=self.external_data or None,
                progress=progress,
                **how,
            )
            return result, int8

    def _measured(self, exact: bool, progress: Callable[[str], None]) -> Int8Report | None:
        if self.int8 is None:
            return None
        from bnfold.formats.atomic import resolve_target
        from bnfold.pipeline.int8 import int8_report

        if self.output is not None:
            resolve_target(self.output)
        return int8_report(self.model, self.int8, exact=exact, allow_unsafe=self.allow_unsafe, progress=progress)


def _check(values: Mapping[str, Any]) -> None:
    """Do the options make sense together? Raises UsageError."""
    if values["output"] is None and not values["dry_run"]:
        raise click.UsageError("Say where to write with -o OUT, or pass --dry-run to see the plan.")
    for left_out, names, why in (
        ("no_verify", ("keep_going", "rtol", "atol", "strict"), "the verification that --no-verify leaves out"),
        ("dry_run", ("keep_going", "latency"), "the file that --dry-run does not write"),
    ):
        for name in names if values.get(left_out) else ():
            if values.get(name) is not None and values[name] is not False:
                raise click.UsageError(f"--{name.replace('_', '-')} needs {why}.")


def takes(kind: type[A], *given: Callable[[Any], Any]) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """The options of a command. Its function gets those of ``kind`` as one value, and its own by their names."""
    shared = {field.name for field in fields(kind)} - {"verification"}

    def decorate(function: Callable[..., int]) -> Callable[..., int]:
        @wraps(function)
        def command(**values: Any) -> int:
            _check(values)
            options.check_report(values["report"])
            verification = {name: values.pop(name) for name in options.VERIFICATION}
            common = {name: values.pop(name) for name in shared & set(values)}
            return function(kind(**common, verification=verification), **values)

        return options.together(*given)(command)

    return decorate
