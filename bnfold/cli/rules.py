"""``bnfold rules``."""

from __future__ import annotations

import click

from bnfold.cli import options


def _codes(context: click.Context, parameter: click.Parameter, begun: str) -> list[str]:
    """The codes that what was typed may become."""
    from bnfold.analysis import all_rules

    return [rule.code for rule in all_rules() if rule.code.startswith(begun.upper())]


@click.command(cls=options.Command)
@click.argument("code", required=False, shell_complete=_codes)
@options.output_format("text", "json")
def rules(code: str | None, output_format: str) -> None:
    """List the rules, or explain one by its code or name."""
    from bnfold.analysis import all_rules, find_rule

    chosen = all_rules() if code is None else [find_rule(code)]
    if output_format == "json":
        from bnfold.reporting import as_json

        click.echo(as_json.dump({**as_json.header(), "rules": [rule.to_dict() for rule in chosen]}))
        return
    from bnfold.reporting.catalogue import print_catalogue, print_rule
    from bnfold.reporting.console import make_console

    if code is None:
        print_catalogue(make_console(), chosen)
    else:
        print_rule(make_console(), chosen[0])
