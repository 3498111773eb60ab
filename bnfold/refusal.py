"""Why an affine may not move. A refusal is a value that ends up before the user, never an exception."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Refusal:
    """A stable ``code`` for programs and a ``sentence`` for people.

    The sentence names the operator and the fact: ``conv2d_7 pads with zeros, so the shift would be
    lost at the border``. It has no full stop, so that it can be joined into a longer one.
    ``op`` is the operator that refuses, by its unique name in its graph; empty where none does, as at a model's input.
    """

    code: str
    sentence: str
    op: str = ""

    def to_dict(self) -> dict[str, str]:
        return {"code": self.code, "sentence": self.sentence}

    def __str__(self) -> str:
        return self.sentence
