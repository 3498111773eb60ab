"""What all graphs of one model share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from onnx import ModelProto

from bnfold.errors import ModelFileError
from bnfold.formats.onnx.payloads import Payloads


@dataclass(frozen=True, eq=False)
class Context:
    """A model without its large payloads (read it, never change it), and those payloads.

    ``label`` is how messages name the model: its path, or words.
    """

    label: str
    skeleton: ModelProto
    payloads: Payloads
    #: Was the model read without its large weights?
    partial: bool = False

    @property
    def opsets(self) -> dict[str, int]:
        """The imported version of each operator set; ``""`` is ONNX's own."""
        return {plain_domain(entry.domain): entry.version for entry in self.skeleton.opset_import} or {"": 1}

    def fail(self, fault: str) -> NoReturn:
        """Raise ModelFileError: the model's name and then the fault."""
        # The fault may quote the file, and what a file says must not reach a terminal as it is.
        printable = "".join(letter if letter.isprintable() else "?" for letter in fault)
        raise ModelFileError(f"{self.label} {printable}")


def plain_domain(domain: str) -> str:
    """ONNX's own domain has two names; the shorter one."""
    return "" if domain == "ai.onnx" else domain
