"""What a rule is.

A rule is one class: its code, its name, its severity, the sentence it prints, and a docstring in fixed
sections from which ``bnfold rules`` and the documentation are made. Knowledge about a finding stands
nowhere else.
"""

from __future__ import annotations

import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from bnfold.analysis.phrases import title
from bnfold.analysis.report import Finding, Repair, Severity

if TYPE_CHECKING:
    from bnfold.analysis.context import Context
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
    def check(self, context: Context) -> Iterable[Finding]:
        """The findings in one graph: the model's own or a subgraph's."""

    def finding(
        self,
        context: Context,
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
            scope=context.scope,
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
