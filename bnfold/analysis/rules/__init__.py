"""The rules, one module a family, and the choice among them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator

from bnfold.analysis.rule import Rule
from bnfold.analysis.rules import deployment, parameters, placement, redundancy, repetition
from bnfold.errors import UsageError

#: Every class of these modules that is a rule is one; a new family is entered here.
_FAMILIES = (placement, repetition, redundancy, parameters, deployment)
_CLASSES = [cls for family in _FAMILIES for cls in vars(family).values() if isinstance(cls, type)]
_RULES = sorted((cls() for cls in _CLASSES if issubclass(cls, Rule) and cls is not Rule), key=lambda rule: rule.code)


def all_rules() -> list[Rule]:
    """Every rule, by rising code."""
    return list(_RULES)


def find_rule(code: str) -> Rule:
    """The rule of that code (any case) or name. Raises UsageError with the nearest match."""
    wanted = code.strip()
    for rule in all_rules():
        if wanted.upper() == rule.code or wanted.lower() == rule.name:
            return rule
    raise UsageError(_unknown(wanted))


def select_rules(select: Iterable[str] | None, ignore: Iterable[str] | None) -> list[Rule]:
    """The rules that ``select`` (None: all) names by code or prefix, without those that ``ignore`` names.

    The longer prefix wins: ``select=["BN2", "BN301"], ignore=["BN3", "BN202"]`` leaves BN201, BN203,
    BN204 and BN301. Raises UsageError for a code or prefix that no rule has.
    """
    chosen = ["BN"] if select is None else list(_checked(select))
    dropped = list(_checked(ignore or ()))
    return [rule for rule in all_rules() if _weight(rule, chosen) > _weight(rule, dropped)]


def _checked(codes: Iterable[str]) -> Iterator[str]:
    known = [rule.code for rule in all_rules()]
    for entry in codes:
        code = entry.strip().upper()
        if code == "ALL":
            code = "BN"
        if not code or not any(name.startswith(code) for name in known):
            raise UsageError(_unknown(entry.strip()))
        yield code


def _weight(rule: Rule, prefixes: Iterable[str]) -> int:
    return max((len(prefix) for prefix in prefixes if rule.code.startswith(prefix)), default=0)


def _unknown(code: str) -> str:
    names = {name.lower(): name for rule in all_rules() for name in (rule.code, rule.name)}
    near = difflib.get_close_matches(code.lower(), names, n=1, cutoff=0.5)
    hint = f"; did you mean {names[near[0]]}? `" if near else "; `"
    return f"there is no rule {code!r}{hint}bnfold rules` lists them all"
