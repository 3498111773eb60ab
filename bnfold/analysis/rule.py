"""What a rule is, and the table of all of them.

A rule is one class: its code, its name, its severity, the sentence it prints, and a docstring in fixed
sections from which ``bnfold rules`` and the documentation are made. Knowledge about a finding stands
nowhere else.
"""

from __future__ import annotations

import difflib
import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from bnfold.analysis.finding import Finding, Repair, Severity
from bnfold.analysis.words import title
from bnfold.errors import UsageError

if TYPE_CHECKING:
    from bnfold.analysis.scope import Scope
    from bnfold.graph import Op

#: The sections of every rule's docstring, in order, after a first line that sums it up.
SECTIONS = ("What it finds", "Why it matters", "Example", "Fix", "Reference")


class Rule(ABC):
    """One rule. ``message`` is a sentence with named fields, filled in by :meth:`finding`."""

    code: ClassVar[str]
    name: ClassVar[str]
    severity: ClassVar[Severity]
    message: ClassVar[str]
    repair: ClassVar[Repair] = Repair.NONE

    @abstractmethod
    def check(self, scope: Scope) -> Iterable[Finding]:
        """The findings in one graph: the model's own or a subgraph's."""

    def finding(
        self,
        scope: Scope,
        op: Op | None,
        *,
        layer: str = "",
        template: str = "",
        severity: Severity | None = None,
        repair: Repair | None = None,
        values: dict[str, Any] | None = None,
        **texts: Any,
    ) -> Finding:
        """A finding about ``op`` (None: about the model) with the message's fields filled in.

        ``values`` are kept as data and fill fields too; ``texts`` only fill fields.
        """
        layer = layer or (op.display if op is not None else "")
        name = title(op) if op is not None and layer == op.display else layer
        fields = {"layer": name, **(values or {}), **texts}
        return Finding(
            code=self.code,
            name=self.name,
            severity=self.severity if severity is None else severity,
            message=(template or self.message).format(**fields),
            layer=layer,
            op=op.name if op is not None else "",
            scope=scope.name,
            repair=self.repair if repair is None else repair,
            values=values or {},
        )

    @classmethod
    def summary(cls) -> str:
        """The first line of the docstring."""
        return _doc(cls).partition("\n")[0]

    @classmethod
    def sections(cls) -> dict[str, str]:
        """The docstring's sections as Markdown, by title."""
        parts = re.split(r"^## (.+)$", _doc(cls), flags=re.MULTILINE)
        return {title.strip(): text.strip() for title, text in zip(parts[1::2], parts[2::2], strict=True)}

    @classmethod
    def to_dict(cls) -> dict[str, Any]:
        """Plain data for JSON: the fields, and the docstring's sections."""
        return {
            "code": cls.code,
            "name": cls.name,
            "severity": cls.severity.value,
            "repair": cls.repair.value,
            "summary": cls.summary(),
            "sections": cls.sections(),
        }


def _doc(cls: type[Rule]) -> str:
    return inspect.cleandoc(cls.__doc__ or "")


_RULES: dict[str, Rule] = {}
_R = TypeVar("_R", bound=type[Rule])


def register(cls: _R) -> _R:
    """Class decorator: enter a rule into the table."""
    _RULES[cls.code] = cls()
    return cls


def all_rules() -> list[Rule]:
    """Every rule, by rising code."""
    from bnfold.analysis import rules  # noqa: F401  the modules enter their rules when imported

    return [_RULES[code] for code in sorted(_RULES)]


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
    hint = f"; did you mean {names[near[0]]}?" if near else ""
    return f"there is no rule {code!r}{hint} `bnfold rules` lists them all"
