"""Pieces of the sentences that findings and reports share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from bnfold.folding.plan import FoldKind

if TYPE_CHECKING:
    from bnfold.graph import Op

_SHOWN = 3


class FoldWords(NamedTuple):
    """One kind of fold step in words: what folding would do with an affine, and what it did."""

    would: str
    did: str


#: The words for every kind of fold step; a report has them nowhere else.
FOLD_KINDS = {
    FoldKind.BACKWARD: FoldWords("folds backward into", "folded backward into"),
    FoldKind.FORWARD: FoldWords("folds forward into", "folded forward into"),
    FoldKind.SPLIT: FoldWords("folds, scale and shift apart, into", "split: scale and shift folded separately into"),
    FoldKind.COMPOSED: FoldWords("is taken into", "composed into"),
    FoldKind.CONSTANT: FoldWords("folds into the constant", "folded into the constant"),
    FoldKind.IDENTITY: FoldWords("is removed: it does nothing", "removed: it does nothing"),
    FoldKind.CHEAPER: FoldWords("becomes", "replaced by"),
    FoldKind.CANCELLED: FoldWords("is cancelled by", "cancelled by"),
    FoldKind.BRANCH: FoldWords("merges with its parallel branches into", "merged with its parallel branches into"),
    FoldKind.SERIES: FoldWords(
        "merges with the convolution after it into", "merged with the convolution after it into"
    ),
}


def title(op: Op) -> str:
    """An operator's name in a sentence: a bare number, as nameless nodes have, with its type (``Conv 245``)."""
    name = op.display
    return name if any(letter.isalpha() for letter in name) else f"{op.type} {name}"


def listed(names: Sequence[str], shown: int = _SHOWN) -> str:
    """``a``, ``a and b``, ``a, b and c``, ``a, b, c and 4 more``."""
    if len(names) > shown + 1:
        return f"{', '.join(names[:shown])} and {len(names) - shown} more"
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def plural(count: int, noun: str, several: str = "") -> str:
    """``1 channel``, ``1,024 channels``."""
    return f"{count:,} {noun if count == 1 else several or noun + 's'}"
