"""What a scan says about one model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: The statuses of a row besides those of :class:`bnfold.jobs.Status`: "ok" is a model without findings.
FINDINGS, FOLDED, UNAVAILABLE = "findings", "folded", "unavailable"
#: In the order in which summaries name them, with what they mean.
STATUSES = {
    "ok": "nothing was found",
    FINDINGS: "something was found",
    FOLDED: "verified and written",
    "failed": "cannot be read, or the folded model is not equivalent",
    UNAVAILABLE: "could not be read or written this time; the next scan tries again",
    "crashed": "its process died, twice",
    "timeout": "took longer than --timeout",
    "out of memory": "needed more than --memory",
    "lost": "the machines it ran on were lost",
}
GOOD = frozenset({"ok", FINDINGS, FOLDED})


@dataclass(frozen=True, slots=True)
class Row:
    """One model of a scan: how it ended, why where it did not go well, and what was found.

    ``report`` is :meth:`bnfold.Report.to_dict`, None where the model could not be analyzed. ``fold`` is what
    folding did (output, verdict, sizes), None where there was nothing to fold or folding was not asked for. ``read``
    counts bytes, requests and seconds of what was fetched from elsewhere. ``seconds`` and ``peak`` (bytes) are those
    of the model's process. ``data_files`` is where an ONNX model has its external data, relative to its folder.
    """

    path: str
    status: str
    sentence: str = ""
    size: int | None = None
    identity: str = ""
    seconds: float = 0.0
    peak: int | None = None
    attempts: int = 1
    report: Mapping[str, Any] | None = field(default=None, repr=False)
    fold: Mapping[str, Any] | None = None
    read: Mapping[str, Any] | None = None
    data_files: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        return self.status not in GOOD

    def worst(self) -> str | None:
        """The highest severity among the findings: ``"error"``, ``"warning"``, ``"info"`` or None."""
        found = {finding["severity"] for finding in (self.report or {}).get("findings", ())}
        return next((severity for severity in ("error", "warning", "info") if severity in found), None)
